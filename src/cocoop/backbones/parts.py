"""What every source of models hands over."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from cocoop.config import Preprocessing
from cocoop.errors import BackboneError
from cocoop.text.prompts import Tokenizer
from cocoop.text.tower import TextTower

__all__ = ["Parts", "refusal"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The pieces of a model, in the words of `Backbone`."""

    image_tower: nn.Module
    """The library's own module, from preprocessed images (B, 3, S, S) to features (B, e)."""
    text_tower: TextTower
    """The library's text weights in cocoop's tower."""
    tokenizer: Tokenizer
    """The one the weights were trained with."""
    preprocessing: Preprocessing
    """How images are made ready."""
    logit_scale: float
    """Logarithm of the factor on cosine similarities."""
    repository: str | None = None
    """On the hub: what stands for it behind the colon of its name, with @COMMIT: the same model for ever."""


def refusal(model: str, reason: str) -> BackboneError:
    """The error for a model whose text tower prompt learning cannot use.

    Args:
        model: its name.
        reason: what is different about it; a clause.
    """
    return BackboneError(
        f"{model} cannot be used: {reason}. cocoop shares what comes before a class name among all classes, which "
        "needs a text tower like CLIP's: causal, and read at the end of the text. Such models are ViT-B/16 and lite."
    )
