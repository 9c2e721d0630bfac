"""CoOp: context vectors learned by gradient descent, the same for every image.

    p(y = c | x) = softmax_c( cos(x, g(t_c)) / tau ),  t_c = [v_1] ... [v_M] [name of class c] .

with image feature x, text tower g, temperature tau and learned context vectors v_1, ..., v_M.

Reference: Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (equations 2 and 3).

Shapes: B images, C classes, c of them, M context vectors, d text width, e joint embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cocoop.backbones.backbone import Backbone
from cocoop.config import POSITIONS, Position
from cocoop.errors import PromptError
from cocoop.methods.base import Method, seeded
from cocoop.methods.context import pack_prompts, prompt_ids, random_context, word_context
from cocoop.text.tree import Prompts

__all__ = ["CoOp"]


class CoOp(Method):
    """Learned context that is the same for every image.

    Args:
        backbone: the frozen model.
        classnames: names of the classes, in label order.
        context: words whose embeddings are the initial context, such as "a photo of a"; None: random.
        context_length: number M of random context vectors; ignored with `context`.
        class_specific: learn a context for each class, (C, M, d); random only.
        position: position of the class name: at the `end`, in the `middle` or in `front` of the context.
        seed: seed of the random context; None: the global generator.

    Raises:
        PromptError: if a class name or setting cannot be used in a prompt.

    Example:
        ```python
        import cocoop

        backbone = cocoop.load_backbone("lite")
        data = cocoop.load_data("photos").few_shot(4, seed=1)
        method = cocoop.CoOp(backbone, data.classnames, "a photo of a")
        cocoop.fit(method, data, cocoop.TrainConfig(epochs=2, batch_size=8))
        print(cocoop.evaluate(method, data).accuracy)
        ```
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
            raise PromptError("`class_specific=True` needs a random context (CoOp, IJCV 2022); leave `context` out.")
        self.position: Position = position
        self.class_specific = class_specific
        if context is not None:
            start = word_context(backbone, context)
        else:
            shape = (len(self.classnames), context_length) if class_specific else (context_length,)
            with seeded(seed):
                start = random_context(backbone, *shape)
        self.context = nn.Parameter(start)
        self._trained_classnames = self.classnames
        self.build_prompts(self.classnames)

    @property
    def context_length(self) -> int:
        """Number M of context vectors in a prompt."""
        return self.context.shape[-2]

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the context vectors, (M, d) or (C, M, d)."""
        return {"context": self.context}

    def settings(self) -> dict[str, Any]:
        """Return shape and position of the context."""
        return {
            "context_length": self.context_length,
            "class_specific": self.class_specific,
            "position": self.position,
        }

    @property
    def saved_classnames(self) -> tuple[str, ...]:
        """Class names to save; class-specific contexts are saved with the classes they were learned for."""
        return self._trained_classnames if self.class_specific else self.classnames

    def build_prompts(self, classnames: tuple[str, ...]) -> None:
        """Build the prompts of all classes around the context.

        Raises:
            PromptError: if a class name cannot be used in a prompt, or has no class-specific context.
        """
        order = [0]
        if self.class_specific:
            unknown = [name for name in classnames if name not in self._trained_classnames]
            if unknown:
                raise PromptError(
                    f"Class-specific contexts exist only for the classes trained on; {unknown[0]!r} has none. "
                    "Train CoOp with a shared context, or CoCoOp, to use new class names."
                )
            order = [self._trained_classnames.index(name) for name in classnames]
        self._ids = prompt_ids(
            self.backbone,
            classnames,
            context_length=self.context_length,
            position=self.position,
            class_specific=self.class_specific,
        )
        self.prompts = pack_prompts(self.backbone, self._ids)
        self.register_buffer("_order", torch.tensor(order, device=self.backbone.device), persistent=False)

    def text_features(self, image_features: Float[Tensor, "B e"] | None = None) -> Float[Tensor, "1 C e"]:  # noqa: ARG002
        """Return the text features, which are the same for every image."""
        return self._encode(self.prompts)

    def logits_of(self, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` that computes only some of the classes.

        Args:
            classes: labels of these classes.
        """
        prefix, suffixes = self._ids
        prompts = pack_prompts(self.backbone, (prefix, [suffixes[c] for c in classes]))
        return lambda x: self._similarities(F.normalize(x.float(), dim=-1), self._encode(prompts))

    @torch.no_grad()
    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` for inference, with precomputed text features."""
        texts = self.text_features()
        return torch.no_grad()(lambda x: self._similarities(F.normalize(x.float(), dim=-1), texts))

    def _encode(self, prompts: Prompts) -> Float[Tensor, "1 c e"]:
        context = self.context[self._order].flatten(0, 1) if self.class_specific else self.context
        return F.normalize(self.backbone.text_tower(context.unsqueeze(0), prompts).float(), dim=-1)
