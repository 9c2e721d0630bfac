"""CoOp: context vectors learned by gradient descent, the same for every image.

Reference: Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (equations 2 and 3).

Shapes: B images, C classes, M context vectors, d text width, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cocoop.backbones.backbone import Backbone
from cocoop.errors import PromptError
from cocoop.methods.base import Method, seeded
from cocoop.methods.context import POSITIONS, Position, pack_prompts, prompt_ids, random_context, word_context
from cocoop.text.prompts import check_classnames
from cocoop.text.tree import Prompts

__all__ = ["CoOp"]


class CoOp(Method):
    """Learned static context.

    Args:
        backbone: the frozen model.
        classnames: names of the classes, in label order.
        context: words to begin with, such as "a photo of a"; None: random.
        context_length: number M of context vectors with random init; words bring their own.
        class_specific: a context of its own for each class, (C, M, d); random init only.
        position: where the class name stands: at the `end`, in the `middle` or in `front`.
        seed: of the random init; None: the global generator.

    Raises:
        PromptError: for names, words or settings that cannot be made into prompts.
    """

    key = "coop"
    _order: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        context: str | None = None,
        *,
        context_length: int = 16,
        class_specific: bool = False,
        position: Position = "end",
        seed: int | None = None,
    ) -> None:
        super().__init__(backbone, classnames)
        if position not in POSITIONS:
            raise PromptError(f"`position` is {position!r}; it must be one of {', '.join(POSITIONS)}.")
        if class_specific and context is not None:
            raise PromptError(
                "A class-specific context begins at random (CoOp, IJCV 2022); leave the context words out."
            )
        self.position: Position = position
        self.class_specific = class_specific
        if context is not None:
            start = word_context(backbone, context)
        else:
            shape = (len(self.classnames), context_length) if class_specific else (context_length,)
            with seeded(seed):
                start = random_context(backbone, *shape)
        self.context = nn.Parameter(start)
        self._contexts_of = self.classnames
        self.set_classes(self.classnames)

    @property
    def context_length(self) -> int:
        """Number M of context vectors in a prompt."""
        return self.context.shape[-2]

    def learned(self) -> dict[str, nn.Parameter]:
        """The context vectors, (M, d) or (C, M, d)."""
        return {"context": self.context}

    def settings(self) -> dict[str, Any]:
        """Shape and place of the context; its values are in the learned tensors."""
        return {
            "context_length": self.context_length,
            "class_specific": self.class_specific,
            "position": self.position,
        }

    @property
    def saved_classnames(self) -> tuple[str, ...]:
        """Class-specific contexts are saved with the classes they were learned for, in their order."""
        return self._contexts_of if self.class_specific else self.classnames

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Classify among other classes from now on, keeping the learned context.

        Raises:
            PromptError: for names that cannot be made into prompts, or, with class-specific contexts, names
                that no context was learned for; the old classes stay.
        """
        names = check_classnames(classnames)
        unknown = [name for name in names if name not in self._contexts_of]
        if self.class_specific and unknown:
            raise PromptError(
                f"Class-specific contexts exist only for the classes trained on; {unknown[0]!r} has none. "
                "Train CoOp with a shared context, or CoCoOp, to name new classes."
            )
        # Classes keep their own context when they are reordered or left out.
        order = [self._contexts_of.index(name) for name in names] if self.class_specific else [0]
        self._ids = prompt_ids(
            self.backbone,
            names,
            context_length=self.context_length,
            position=self.position,
            class_specific=self.class_specific,
        )
        self.prompts = pack_prompts(self.backbone, self._ids)
        self.register_buffer("_order", torch.tensor(order, device=self.backbone.device), persistent=False)
        self.classnames = names

    def text_features(self, image_features: Float[Tensor, "B e"] | None = None) -> Float[Tensor, "1 C e"]:  # noqa: ARG002
        """The same class features for every image."""
        return self._texts(self.prompts)

    def logits_of(self, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """`logits` of some of the classes, without the work for the others.

        Args:
            classes: their labels.
        """
        prefix, suffixes = self._ids
        prompts = pack_prompts(self.backbone, (prefix, [suffixes[c] for c in classes]))
        return lambda x: self._similarities(F.normalize(x.float(), dim=-1), self._texts(prompts))

    @torch.no_grad()
    def scorer(self) -> Callable[[Tensor], Tensor]:
        """`logits` for inference: one matrix of class features, computed here."""
        texts = self.text_features()
        return torch.no_grad()(lambda x: self._similarities(F.normalize(x.float(), dim=-1), texts))

    def _texts(self, prompts: Prompts) -> Float[Tensor, "1 c e"]:
        """L2-normalised class features of prompts."""
        context = self.context[self._order].flatten(0, 1) if self.class_specific else self.context
        return F.normalize(self.backbone.text_tower(context.unsqueeze(0), prompts).float(), dim=-1)
