"""What the model says about photos, for any classes: its method beside zero-shot CLIP, and the shift of the prompt.

Shapes: n photos of 3 channels and S x S pixels, C classes, e joint embedding size.
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

__all__ = ["Classes", "Engine", "Scores"]

CLASS_SETS = 16
"""Class sets that are kept ready: users ask for the same ones again and again."""


class Classes(NamedTuple):
    """What photos are scored among; those of equal `Classes` can be scored together."""

    names: tuple[str, ...]
    """Class names, trained on or not."""
    compare: bool
    """Whether zero-shot CLIP and the shift are wanted too."""


@dataclass(frozen=True)
class Scores:
    """What the model says about n photos, on the CPU."""

    probabilities: Float[Tensor, "n C"]
    """Of the method."""
    zero_shot: Float[Tensor, "n C"] | None
    """Of zero-shot CLIP with its usual template, if wanted."""
    shifts: Float[Tensor, " n"] | None
    """Lengths of Meta-Net's shifts, if wanted; None also for methods without."""

    def split(self, sizes: list[int]) -> list[Scores]:
        """The parts of several requests."""
        columns = [
            [None] * len(sizes) if whole is None else whole.split(sizes)
            for whole in (self.probabilities, self.zero_shot, self.shifts)
        ]
        return [Scores(*part) for part in zip(*columns, strict=True)]


class Engine:
    """A method and all that stands between preprocessed photos and probabilities; for one thread.

    Args:
        method: what classifies; it is not changed.
    """

    def __init__(self, method: Method) -> None:
        self.method = method.eval()
        self.context_norm = float(method.context.detach().norm(dim=-1).mean()) if isinstance(method, CoCoOp) else None
        self._scorer = lru_cache(maxsize=CLASS_SETS)(self._new_scorer)
        self._zero_shot_scorer = lru_cache(maxsize=CLASS_SETS)(self._new_zero_shot_scorer)

    def encode(self, images: Float[Tensor, "n 3 S S"]) -> Float[Tensor, "n e"]:
        """Image features, in one pass of the image tower."""
        return self.method.backbone.encode_image(images)

    @torch.no_grad()
    def score(self, features: Float[Tensor, "n e"], classes: Classes) -> Scores:
        """Probabilities among the classes.

        Raises:
            PromptError: for names that cannot be made into prompts.
        """
        probabilities = torch.softmax(self._scorer(classes.names)(features), -1).cpu()
        if not classes.compare:
            return Scores(probabilities, None, None)
        zero_shot = torch.softmax(self._zero_shot_scorer(classes.names)(features), -1).cpu()
        shifts = None
        if isinstance(self.method, CoCoOp):
            shifts = self.method.meta_net(F.normalize(features, dim=-1)).norm(dim=-1).cpu()
        return Scores(probabilities, zero_shot, shifts)

    def _new_scorer(self, names: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
        if names == self.method.classnames:
            return self.method.scorer()
        # The frozen towers are shared; what was learned is small.
        method = copy.deepcopy(self.method, {id(self.method.backbone): self.method.backbone})
        method.set_classes(names)
        return method.scorer()

    def _new_zero_shot_scorer(self, names: tuple[str, ...]) -> Callable[[Tensor], Tensor]:
        return ZeroShot(self.method.backbone, names).scorer()
