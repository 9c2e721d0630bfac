"""CoCoOp: context vectors that a small network, the Meta-Net h, shifts for each image.

    p(y = c | x) = softmax_c( cos(x, g(t_c(x))) / tau ),  t_c(x) = [v_1 + h(x)] ... [v_M + h(x)] [name of class c] .

with image feature x, text tower g, temperature tau and learned context vectors v_1, ..., v_M.

Reference: Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (section 3.2,
equation 4).

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
from cocoop.config import check_int
from cocoop.errors import PromptError
from cocoop.methods.base import Method, seeded
from cocoop.methods.context import pack_prompts, prompt_ids, random_context, word_context
from cocoop.text.memory import AdaptiveBatches
from cocoop.text.tree import Prompts

__all__ = ["CoCoOp"]

DEFAULT_CONTEXT_LENGTH = 4


class MetaNet(nn.Module):
    """Two linear layers with a bottleneck of e // 16 units, from an image feature to a shift of the context.

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
        """Return the shift for each L2-normalised image feature."""
        return self.linear2(F.relu(self.linear1(x)))


class CoCoOp(Method):
    """Learned context that a Meta-Net shifts for each image.

    Args:
        backbone: the frozen model.
        classnames: names of the classes, in label order.
        context: words whose embeddings are the initial context; None: random.
        context_length: number M of random context vectors (default 4); with `context`, its number of tokens.
        seed: seed of the Meta-Net and the random context; None: the global generator.

    Raises:
        PromptError: if a class name or setting cannot be used in a prompt.

    Example:
        ```python
        import cocoop

        backbone = cocoop.load_backbone("lite")
        data = cocoop.load_data("photos").few_shot(4, seed=1)
        method = cocoop.CoCoOp(backbone, data.classnames)
        cocoop.fit(method, data, cocoop.TrainConfig(epochs=2))
        method.set_classes(["apple", "forest"])  # the prompt works with new class names
        ```
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
                f"`context_length` is {context_length}, but the context {context!r} has {len(start)} tokens; "
                "leave it out, or pass `context=None` for a random context."
            )
        self.context = nn.Parameter(start)
        self.meta_net = meta_net.to(backbone.device)
        self._in_batches = AdaptiveBatches("classified")
        self.build_prompts(self.classnames)

    @property
    def context_length(self) -> int:
        """Number M of context vectors."""
        return self.context.shape[0]

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the context vectors (M, d), and weights and biases of the Meta-Net."""
        return {
            "context": self.context,
            **{f"meta_net.{name}": parameter for name, parameter in self.meta_net.named_parameters()},
        }

    def settings(self) -> dict[str, Any]:
        """Return the number of context vectors."""
        return {"context": None, "context_length": self.context_length}

    def build_prompts(self, classnames: tuple[str, ...]) -> None:
        """Build the prompts of all classes around the context."""
        self._ids = prompt_ids(self.backbone, classnames, context_length=self.context_length)
        self.prompts = pack_prompts(self.backbone, self._ids)

    def images_at_once(self, batch_size: int) -> int:
        """Return the number of images that fill one pass of the text tower, which encodes all classes for each."""
        return min(batch_size, self.prompts.images_at_once)

    def text_features(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C e"]:
        """Return L2-normalised text features of all classes for each L2-normalised image."""
        return self._encode(image_features, self.prompts)

    def logits(self, image_features: Float[Tensor, "B e"]) -> Float[Tensor, "B C"]:
        """Return scaled cosine similarities of images and their text features in fp32 (equation 4).

        Args:
            image_features: from `backbone.encode_image`, normalised or not.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().logits(image_features)
        # Text features for all images at once would fill a (B, C, e) tensor.
        return self._in_batches(super().logits, image_features, self.prompts.images_at_once)

    def logits_of(self, classes: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` that computes only some of the classes.

        Args:
            classes: labels of these classes.
        """
        prefix, suffixes = self._ids
        prompts = pack_prompts(self.backbone, (prefix, [suffixes[c] for c in classes]))

        def logits(image_features: Tensor) -> Tensor:
            images = F.normalize(image_features.float(), dim=-1)
            return self._similarities(images, self._encode(images, prompts))

        return logits

    def shortlist_scorer(self, shortlist: int) -> Callable[[Tensor], Tensor]:
        """Return a function like `logits` for inference that computes only the most promising classes.

        These are the classes that the unshifted prompt ranks highest. The cost shrinks to about K / C.

        Args:
            shortlist: K, the number of classes per image.

        Returns:
            A function that gives exact logits for the classes on an image's shortlist, and minus infinity for the rest.

        Raises:
            ConfigError: if the shortlist is below 1.
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

    def _encode(self, images: Float[Tensor, "B e"], prompts: Prompts) -> Float[Tensor, "B c e"]:
        context = self.context + self.meta_net(images).unsqueeze(1)
        return F.normalize(self.backbone.text_tower(context, prompts).float(), dim=-1)
