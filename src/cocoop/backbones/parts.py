"""Parts of a backbone, returned by the loader of each source."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cocoop.config import Preprocessing
from cocoop.errors import BackboneError
from cocoop.text.prompts import Tokenizer
from cocoop.text.tower import TextTower

__all__ = ["BackboneParts", "unsupported"]


@dataclass(frozen=True, kw_only=True)
class BackboneParts:
    """Arguments of `Backbone`, and the repository they were loaded from."""

    image_tower: nn.Module
    """The library's own module, from preprocessed images (B, 3, S, S) to features (B, e)."""
    text_tower: TextTower
    """The library's text weights in cocoop's tower."""
    tokenizer: Tokenizer
    """Tokenizer that the weights were trained with."""
    preprocessing: Preprocessing
    """Preprocessing of images."""
    logit_scale: float
    """Logarithm of the factor that scales cosine similarities."""
    repository: str | None = None
    """Identifier on the hub with @COMMIT, which always names the same model; None for local files."""


def unsupported(model: str, reason: str) -> BackboneError:
    """Return the error for a model with a text tower that prompt learning cannot use.

    Args:
        model: name of the model.
        reason: the difference, as a clause.
    """
    return BackboneError(
        f"{model} cannot be used: {reason}. cocoop shares the context before a class name among all classes, which "
        "needs a causal text tower whose feature is read at the end of the text, as in ViT-B/16 and lite."
    )
