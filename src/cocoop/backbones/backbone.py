"""A backbone: the frozen pieces of a CLIP-like model, whatever library they came from.

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
"""Images that pass an image tower together on a CPU."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Backbone(nn.Module):
    """A frozen vision-language model; it stays in eval mode, batch norm included.

    Args:
        name: the string it was loaded by, which loads it again.
        image_tower: the library's own module, from preprocessed images (B, 3, S, S) to features (B, e).
        text_tower: the library's text weights in cocoop's tower.
        tokenizer: the one the weights were trained with.
        preprocessing: how images are made ready.
        logit_scale: logarithm of the factor on cosine similarities.
        precision: number type of the frozen weights and activations.
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
        self._in_parts = AdaptiveBatches("encoded")
        self.register_buffer("logit_scale", torch.tensor(logit_scale, dtype=torch.float32))
        self.requires_grad_(False)
        self.eval()

    @property
    def embed_dim(self) -> int:
        """Size e of the joint embedding."""
        return self.text_tower.config.embed_dim

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    def train(self, mode: bool = True) -> Backbone:  # noqa: ARG002 - frozen: never in train mode
        """Stay in eval mode, also when a method around this backbone is trained."""
        return super().train(False)

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "B 3 S S"], *, normalize: bool = False) -> Float[Tensor, "B e"]:
        """Image features in fp32, L2-normalised if asked."""
        images = images.to(self.device, DTYPES[self.precision])
        # A processor's cache holds a few images' activations; many at once are mapped and unmapped, at three times the
        # cost (24 ms an image alone, 75 in batches of 64, one thread, backbone lite).
        at_once = CPU_IMAGES if self.device.type == "cpu" else max(1, len(images))
        features = self._in_parts(lambda part: self.image_tower(part).float(), images, at_once)
        return F.normalize(features, dim=-1) if normalize else features

    @torch.no_grad()
    def encode_text(self, tokens: Int[Tensor, "N L"], *, normalize: bool = False) -> Float[Tensor, "N e"]:
        """Text features in fp32, L2-normalised if asked, read at the first EOT.

        Raises:
            PromptError: for a sequence without EOT.
        """
        features = self.text_tower.encode_tokens(tokens.to(self.device), self.tokenizer.eot).float()
        return F.normalize(features, dim=-1) if normalize else features


def check_precision(precision: str) -> None:
    """Refuse an unknown number type.

    Raises:
        BackboneError: naming those there are.
    """
    if precision not in PRECISIONS:
        raise BackboneError(f"--precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
