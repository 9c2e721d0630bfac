"""Backbone: the frozen towers of a CLIP-like model, from any library.

Shapes: B images of 3 channels and S x S pixels, N texts of L tokens, e joint embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cocoop.config import PRECISIONS, Precision, Preprocessing
from cocoop.errors import BackboneError
from cocoop.text.memory import AdaptiveBatches
from cocoop.text.prompts import Tokenizer
from cocoop.text.tower import TextTower

__all__ = ["DTYPES", "Backbone", "check_precision"]

CPU_IMAGES = 4
"""Images that an image tower encodes at once on a CPU."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(nn.Module):
    """Frozen vision-language model, always in eval mode (batch norm included).

    Args:
        name: the name to pass to `load_backbone`.
        image_tower: the library's own module, from preprocessed images (B, 3, S, S) to features (B, e).
        text_tower: the library's text weights in cocoop's tower.
        tokenizer: tokenizer that the weights were trained with.
        preprocessing: preprocessing of images.
        logit_scale: logarithm of the factor that scales cosine similarities.
        precision: data type of the frozen weights and activations.
    """

    logit_scale: Tensor

    def __init__(
        self,
        *,
        name: str,
        image_tower: nn.Module,
        text_tower: TextTower,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        logit_scale: float,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        check_precision(precision)
        self.name = name
        self.precision: Precision = precision
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.image_tower = image_tower.to(DTYPES[precision])
        self.text_tower = text_tower.to(DTYPES[precision])
        self._batches = AdaptiveBatches("encoded")
        self.register_buffer("logit_scale", torch.tensor(logit_scale, dtype=torch.float32))
        self.requires_grad_(False)
        self.eval()

    @property
    def embed_dim(self) -> int:
        """Size e of the joint embedding."""
        return self.text_tower.config.embed_dim

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.logit_scale.device

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002
        """Stay in eval mode, even while a method with this backbone is trained."""
        return super().train(False)

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "B 3 S S"], *, normalize: bool = False) -> Float[Tensor, "B e"]:
        """Encode images to fp32 features, L2-normalised if `normalize` is True."""
        images = images.to(self.device, DTYPES[self.precision])
        # Large batches overflow the CPU's cache: 24 ms per image alone, 75 ms in batches of 64 (one thread, lite).
        size = CPU_IMAGES if self.device.type == "cpu" else max(1, len(images))
        features = self._batches(lambda part: self.image_tower(part).float(), images, size)
        return F.normalize(features, dim=-1) if normalize else features

    @torch.no_grad()
    def encode_text(self, tokens: Int[Tensor, "N L"], *, normalize: bool = False) -> Float[Tensor, "N e"]:
        """Encode token sequences to fp32 features, read at the first EOT and L2-normalised if `normalize` is True.

        Raises:
            PromptError: for a sequence without EOT.
        """
        features = self.text_tower.encode_tokens(tokens.to(self.device), self.tokenizer.eot).float()
        return F.normalize(features, dim=-1) if normalize else features


def check_precision(precision: str) -> None:
    """Check that a precision is supported.

    Raises:
        BackboneError: listing the supported precisions.
    """
    if precision not in PRECISIONS:
        raise BackboneError(f"`precision` is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
