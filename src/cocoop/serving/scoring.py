"""Score images among any class names: the method, zero-shot CLIP beside it, and the shift of the prompt.

Shapes: n images of 3 channels and S x S pixels, C classes, e joint embedding size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cocoop.methods import CoCoOp, Method, ZeroShot

__all__ = ["Engine", "ScoreRequest", "Scores"]

MAX_CACHED_CLASS_SETS = 16
"""Number of class sets whose scorers are cached; users ask for the same classes again and again."""


class ScoreRequest(NamedTuple):
    """Settings of a request; images with equal settings are scored together."""

    classnames: tuple[str, ...]
    """Class names, trained on or not."""
    compare: bool
    """True to compute zero-shot CLIP and the shift too."""


@dataclass(frozen=True)
class Scores:
    """Scores of n images, on the CPU."""

    logits: Float[Tensor, "n C"]
    """Logits of the method."""
    zero_shot: Float[Tensor, "n C"] | None
    """Logits of zero-shot CLIP with its usual template, if requested."""
    shifts: Float[Tensor, " n"] | None
    """Lengths of Meta-Net's shifts, if requested; None for methods other than CoCoOp."""

    def split(self, sizes: list[int]) -> list[Scores]:
        """Split the scores by image, into parts of these sizes."""
        columns = [
            [None] * len(sizes) if values is None else values.split(sizes)
            for values in (self.logits, self.zero_shot, self.shifts)
        ]
        return [Scores(*row) for row in zip(*columns, strict=True)]


class Engine:
    """Encoder and scorer for one method; for use in a single thread.

    Args:
        method: the method; it is not changed.
    """

    def __init__(self, method: Method) -> None:
        self.method = method.eval()
        self.context_norm = float(method.context.detach().norm(dim=-1).mean()) if isinstance(method, CoCoOp) else None
        self._scorer = lru_cache(maxsize=MAX_CACHED_CLASS_SETS)(self._new_scorer)
        self._zero_shot_scorer = lru_cache(maxsize=MAX_CACHED_CLASS_SETS)(self._new_zero_shot_scorer)

    def encode(self, images: Float[Tensor, "n 3 S S"]) -> Float[Tensor, "n e"]:
        """Return image features, from one pass through the image tower."""
        return self.method.backbone.encode_image(images)

    @torch.no_grad()
    def score(self, features: Float[Tensor, "n e"], request: ScoreRequest) -> Scores:
        """Score image features.

        Raises:
            PromptError: for unusable class names.
        """
        logits = self._scorer(request.classnames)(features).cpu()
        if not request.compare:
            return Scores(logits, None, None)
        zero_shot = self._zero_shot_scorer(request.classnames)(features).cpu()
        shifts = None
        if isinstance(self.method, CoCoOp):
            shifts = self.method.meta_net(F.normalize(features, dim=-1)).norm(dim=-1).cpu()
        return Scores(logits, zero_shot, shifts)

    def _new_scorer(self, classnames: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
        if classnames == self.method.classnames:
            return self.method.scorer()
        # Copy the small learned part, share the backbone.
        method = copy.deepcopy(self.method, {id(self.method.backbone): self.method.backbone})
        method.set_classes(classnames)
        return method.scorer()

    def _new_zero_shot_scorer(self, classnames: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
        return ZeroShot(self.method.backbone, classnames).scorer()
