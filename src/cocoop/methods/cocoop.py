"""CoCoOp: context vectors that a small network shifts for each image.

Reference: Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (section 3.2,
equation 4).

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
from cocoop.config import check_int
from cocoop.errors import PromptError
from cocoop.methods.base import Method, seeded
from cocoop.methods.context import pack_prompts, prompt_ids, random_context, word_context
from cocoop.text.memory import AdaptiveBatches
from cocoop.text.prompts import check_classnames
from cocoop.text.tree import Prompts

__all__ = ["CoCoOp"]

DEFAULT_CONTEXT_LENGTH = 4


class MetaNet(nn.Module):
    """Two linear layers with a bottleneck of e // 16: from an image feature to a shift of the context.

    Args:
        embed_dim: size e of the image feature.
        width: size d of a context vector.
    """

    def __init__(self, embed_dim: int, width: int) -> None:
        super().__init__()
        hidden = max(1, embed_dim // 16)
        self.linear1 = nn.Linear(embed_dim, hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B e"]) -> Float[Tensor, "B d"]:
        """The shift pi of each image, from its L2-normalised feature."""
        return self.linear2(F.relu(self.linear1(x)))


class CoCoOp(Method):
    """Learned context, shifted for each image by Meta-Net: v_m(x) = v_m + pi(x).

    Args:
        backbone: the frozen model.
        classnames: names of the classes, in label order.
        context: words to begin with; None: random.
        context_length: number M of context vectors with random init (4 if not given); words bring their own.
        seed: of Meta-Net's and the random init; None: the global generator.

    Raises:
        PromptError: for names, words or settings that cannot be made into prompts.
    """

    key = "cocoop"

    def __init__(
        self,
        backbone: Backbone,
        classnames: Sequence[str],
        context: str | None = "a photo of a",
        *,
        context_length: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(backbone, classnames)
        with seeded(seed):
            if context is None:
                length = DEFAULT_CONTEXT_LENGTH if context_length is None else context_length
                start = random_context(backbone, length)
            else:
                start = word_context(backbone, context)
            meta_net = MetaNet(backbone.embed_dim, backbone.text_tower.config.width)
        if context_length not in (None, len(start)):
            raise PromptError(
                f"The context {context!r} has {len(start)} tokens, not {context_length}; leave the context "
                "length out, or set the context to None for a random init."
            )
        self.context = nn.Parameter(start)
        self.meta_net = meta_net.to(backbone.device)
        self._in_parts = AdaptiveBatches("classified")
        self.set_classes(self.classnames)

    @property
    def context_length(self) -> int:
        """Number M of context vectors."""
        return self.context.shape[0]

    def learned(self) -> dict[str, nn.Parameter]:
        """The context vectors (M, d) and Meta-Net's weights and biases."""
        return {
            "context": self.context,
            **{f"meta_net.{name}": parameter for name, parameter in self.meta_net.named_parameters()},
        }

    def settings(self) -> dict[str, Any]:
        """The number of context vectors; all values are in the learned tensors."""
        return {"context": None, "context_length": self.context_length}

    def set_classes(self, classnames: Sequence[str]) -> None:
        """Classify among other classes from now on, keeping context and Meta-Net.

        Raises:
            PromptError: for names that cannot be made into prompts; the old classes stay.
        """
        names = check_classnames(classnames)
        self._ids = prompt_ids(self.backbone, names, context_length=self.context_length)
        self.prompts = pack_prompts(self.backbone, self._ids)
        self.classnames = names

    def images_at_once(self, batch: int) -> int:
        """As many as fill one pass of the text tower: each brings prompts of its own for every class."""
        return min(batch, self.prompts.images_at_once)

    def text_features(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C e"]:
        """Class features of their own for each L2-normalised image."""
        return self._texts(image_features, self.prompts)

    def logits(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C"]:
        """Scaled cosine similarities of images and their own class features, in fp32 (equation 4).

        Args:
            image_features: as `backbone.encode_image` gives them, normalised or not.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().logits(image_features)
        # Class features of all images at once would need (B, C, e).
        return self._in_parts(super().logits, image_features, self.prompts.images_at_once)

    def logits_of(self, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """`logits` of some of the classes, without the work for the others.

        Args:
            classes: their labels.
        """
        prefix, suffixes = self._ids
        prompts = pack_prompts(self.backbone, (prefix, [suffixes[c] for c in classes]))

        def logits(image_features: Tensor) -> Tensor:
            images = F.normalize(image_features.float(), dim=-1)
            return self._similarities(images, self._texts(images, prompts))

        return logits

    def shortlist_scorer(self, shortlist: int) -> Callable[[Tensor], Tensor]:
        """`logits` for inference of the K classes that the prompt without its shift ranks highest.

        The work shrinks to about K / C.

        Args:
            shortlist: K.

        Returns:
            A function like `logits`: exact logits of the classes on an image's shortlist, minus infinity for the rest.

        Raises:
            ConfigError: for a shortlist below 1.
        """
        check_int("shortlist", shortlist, 1)
        with torch.no_grad():
            static = F.normalize(self.backbone.text_tower(self.context.unsqueeze(0), self.prompts).float(), dim=-1)
        k = min(shortlist, len(self.classnames))

        @torch.no_grad()
        def score(image_features: Tensor) -> Tensor:
            images = F.normalize(image_features.float(), dim=-1)
            chosen = self._similarities(images, static).topk(k).indices
            logits = images.new_full((len(images), len(self.classnames)), float("-inf"))
            for row, image, classes in zip(logits, images, chosen, strict=True):
                row[classes] = self.logits_of(classes.tolist())(image.unsqueeze(0))[0]
            return logits

        return score

    def _texts(self, images: Float[Tensor, "B e"], prompts: Prompts) -> Float[Tensor, "B c e"]:
        """L2-normalised class features of prompts for each L2-normalised image."""
        return F.normalize(self.backbone.text_tower(self._context_for(images), prompts).float(), dim=-1)

    def _context_for(self, images: Float[Tensor, "B e"]) -> Float[Tensor, "B M d"]:
        return self.context + self.meta_net(images).unsqueeze(1)
