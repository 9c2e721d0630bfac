"""The text tower: CLIP's causal transformer, computed on the positions that matter and no others.

A prompt is read at its EOT token and every position sees only what stands before it, so

- nothing after EOT is computed, and no class pays for another's longer name;
- what prompts begin with is computed once: the prefix (SOS and context) for all classes, also where it differs from
  image to image (CoCoOp), and leading tokens that names share (see `cocoop.text.tree`);
- in the last layer only EOT asks: the other rows give their keys and values, and stop there;
- what the first layer makes of class names is the same for every image and every step, and is computed once.

This is the same function as the library's padded tower, to rounding.

References:
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (section 2.4).
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (equation 3).

Shapes: B images, C classes, M context vectors, P prefix rows, T suffix rows, R = P + T rows of a tree, Q asking rows,
N texts, L tokens, d text width, e joint embedding size. Rows come first, so that one gather serves all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cocoop.errors import PromptError
from cocoop.text.attention import tree_attention
from cocoop.text.memory import free_memory
from cocoop.text.tree import Prompts, PromptTree, QueryRows

__all__ = ["TextTower", "TextTowerConfig"]

REMEMBERED_ROWS = 2**15
"""Up to so many rows, what is constant is kept (4 d values a row); beyond, memory must not grow with the classes."""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """The architecture of a CLIP text tower."""

    vocab_size: int
    """Rows of the token embedding."""
    context_length: int
    """Positions, SOS and EOT included; 77 in CLIP."""
    width: int
    """Size d of a token's vector."""
    heads: int
    """Attention heads; they divide the width."""
    layers: int
    """Transformer blocks."""
    mlp_width: int
    """Size of the hidden layer in each block; 4 d in CLIP."""
    embed_dim: int
    """Size e of the joint embedding."""
    activation: Literal["gelu", "quick_gelu"]
    """OpenAI's weights want `quick_gelu`: x * sigmoid(1.702 x)."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every layer norm."""
    projection: bool = True
    """Whether the text feature is projected to the joint embedding."""
    projection_bias: bool = False
    """Whether that projection has a bias."""


class TextTower(nn.Module):
    """Frozen CLIP text transformer that encodes prompts with a shared prefix.

    Args:
        config: the architecture.

    `memory_budget` is what may be kept for the gradient, in bytes; None: what the device has free. What does not fit
    is computed again in the backward pass, with the same numbers.

    All parameters are frozen: gradients flow through the tower to its input, never into its weights.
    """

    blocks: Sequence[Block]

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, d)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, d))
        nn.init.normal_(self.positional_embedding, std=0.01)
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config) for _ in range(config.layers)))
        self.ln_final = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.projection = (
            nn.Linear(d, config.embed_dim, bias=config.projection_bias) if config.projection else nn.Identity()
        )
        self.memory_budget: int | None = None
        self._images_at_once = 2**16
        # Of the last pass that a gradient is taken of: bytes that were kept, images that were taken at once.
        self._kept, self._together = 0, 1
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights, and so of the computation."""
        return self.positional_embedding.dtype

    def forward(self, context: Float[Tensor, "B M d"] | None, prompts: Prompts) -> Float[Tensor, "B C e"]:
        """Text features of every class after every image's context, before normalisation.

        Args:
            context: context vectors, one set for each image; None for prompts without any (then B is 1).
            prompts: which tokens and context vectors stand where.

        Returns:
            Features in the order in which the classes were given, in the tower's number type.
        """
        # A graph that is exported takes any number of images in one pass.
        at_once = context is None or torch.compiler.is_compiling()
        size = min(prompts.images_at_once, self._images_at_once)
        images = [context] if context is None or at_once else list(context.split(size))
        parts = [(own, tree) for own in images for tree in prompts.trees]
        encode = self._encoders(parts)
        features = [f(own, tree) for f, (own, tree) in zip(encode, parts, strict=True)]
        count = len(prompts.trees)
        by_image = [torch.cat(features[i : i + count]) for i in range(0, len(features), count)]
        return torch.cat([classes[prompts.order].transpose(0, 1) for classes in by_image])

    def remember(self, prompts: Prompts) -> None:
        """Compute once what the first layer makes of class names, for prompts that will be used many times."""
        if prompts.rows > REMEMBERED_ROWS:
            return
        with torch.no_grad():
            for tree in prompts.trees:
                if not tree.suffix_has_context:
                    tree.remember(*self._known(tree))

    def encode_tokens(self, tokens: Int[Tensor, "N L"], eot: int) -> Float[Tensor, "N e"]:
        """Text features of whole token sequences, as a library's `encode_text` gives them.

        Args:
            tokens: SOS first; what follows the first `eot` is padding and is not computed.
            eot: the token at which a text is read.

        Raises:
            PromptError: for a sequence without `eot`, or sequences that begin differently.
        """
        rows = tokens.tolist()
        if not rows:
            return tokens.new_zeros((0, self.config.embed_dim), dtype=self.dtype)
        for row in rows:
            if eot not in row:
                raise PromptError(f"A token sequence has no EOT token ({eot}): {row[:8]}...")
        if any(row[0] != rows[0][0] for row in rows):
            raise PromptError("All token sequences must begin with the same SOS token.")
        suffixes = [row[1 : row.index(eot) + 1] for row in rows]
        return self(None, Prompts([rows[0][0]], suffixes, device=tokens.device))[0]

    def activation_bytes(self, tree: PromptTree, images: int) -> int:
        """What one tree keeps in memory for the gradient, in bytes: the inputs of each layer's nonlinear steps."""
        c = self.config
        values = 5 * c.width + c.mlp_width
        values += c.heads * tree.every_row.columns
        return images * tree.rows * c.layers * values * self.dtype.itemsize

    def use_less_memory(self) -> str | None:
        """Plan with about half of what the last pass took, after memory did not suffice for it or its gradient.

        First less is kept for the gradient and more computed twice; then fewer images are taken at once.

        Returns:
            How the work goes on; None if it cannot be done with less.
        """
        if self._kept:
            self.memory_budget = self._kept = self._kept // 2
            return f"with a budget of {self.memory_budget / 2**20:,.0f} MiB (--memory-budget sets it from the start)"
        if self._together > 1:
            self._images_at_once = self._together = self._together // 2
            return f"with fewer images at once ({self._images_at_once})"
        return None

    def _encoders(self, parts: Sequence[tuple[Tensor | None, PromptTree]]) -> list[Callable[..., Tensor]]:
        """How to encode each part: keeping what the gradient needs, or computing it again when it is needed.

        The last parts are kept, as many as fit the budget: their gradients are taken first, and what they kept is
        free again before the first recomputation. Numbers do not depend on the budget.
        """
        encode: list[Callable[..., Tensor]] = [self._tree] * len(parts)
        if not torch.is_grad_enabled():
            return encode
        sizes = [self.activation_bytes(tree, 1 if own is None else len(own)) for own, tree in parts]
        budget = free_memory(self.positional_embedding.device) if self.memory_budget is None else self.memory_budget
        self._kept, self._together = sum(sizes), max(1 if own is None else len(own) for own, _ in parts)
        if self._kept <= budget:
            return encode
        left = budget - max(sizes)
        for i in reversed(range(len(parts))):
            left -= sizes[i]
            if left < 0:
                self._kept -= sizes[i]
                encode[i] = partial(checkpoint, self._tree, use_reentrant=False, preserve_rng_state=False)
        return encode

    def _tree(self, context: Float[Tensor, "B M d"] | None, tree: PromptTree) -> Float[Tensor, "C B e"]:
        """Text features of one tree's classes."""
        first = self.blocks[0]
        table = self.token_embedding.weight
        x_prefix = tree.embed_prefix(table, context).to(self.dtype)
        x_prefix = x_prefix + self.positional_embedding[: len(x_prefix), None]
        if tree.suffix_has_context:
            x_suffix = tree.embed_suffix(table, context).to(self.dtype)
            x_suffix = x_suffix + self.positional_embedding[tree.positions, None]
            x = torch.cat([x_prefix, x_suffix])
            qkv = first.project(x)
        else:
            own, known = (x_prefix, *first.project(x_prefix)), tree.known() or self._known(tree)
            images = x_prefix.shape[1]
            x, q, k, v = (torch.cat([a, b.expand(-1, images, -1)]) for a, b in zip(own, known, strict=True))
            qkv = q, k, v
        for block in self.blocks:
            queries = tree.leaves if block is self.blocks[-1] else tree.every_row
            x = block(x, queries, qkv if block is first else None)
        return self.projection(self.ln_final(x))[tree.leaf_of]

    def _known(self, tree: PromptTree) -> tuple[Float[Tensor, "T 1 d"], ...]:
        """Token vectors of suffixes without context, with positions, and the first layer's projections of them."""
        x = self.token_embedding.weight[tree.suffix_ids] + self.positional_embedding[tree.positions]
        return (x.unsqueeze(1), *self.blocks[0].project(x.unsqueeze(1)))


class Block(nn.Module):
    """One residual attention block of the tower."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.ln_1 = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.ln_2 = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.fc = nn.Linear(d, config.mlp_width)
        self.proj = nn.Linear(config.mlp_width, d)
        self.quick_gelu = config.activation == "quick_gelu"

    def forward(
        self, x: Float[Tensor, "R B d"], queries: QueryRows, qkv: Sequence[Float[Tensor, "R B d"]] | None = None
    ) -> Float[Tensor, "Q B d"]:
        """The asking rows, one block further.

        Args:
            x: all rows.
            askers: the rows that are wanted; the others only give their keys and values.
            qkv: `project(x)`, where it is known already.
        """
        q, k, v = self.project(x, queries) if qkv is None else (queries.of(qkv[0]), *qkv[1:])
        x = queries.of(x) + self.out(tree_attention(q, k, v, queries, self.heads))
        hidden = self.fc(self.ln_2(x))
        return x + self.proj(_quick_gelu(hidden) if self.quick_gelu else F.gelu(hidden))

    def project(
        self, x: Float[Tensor, "R B d"], queries: QueryRows | None = None
    ) -> tuple[Float[Tensor, "Q B d"], Float[Tensor, "R B d"], Float[Tensor, "R B d"]]:
        """Queries of the asking rows (of all, if not said), keys and values of all rows."""
        y = self.ln_1(x)
        asking = y if queries is None else queries.of(y)
        inputs = (asking, y, y)
        parts = zip(inputs, self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (F.linear(source, weight, bias) for source, weight, bias in parts)
        return q, k, v


def _quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), in place of its fresh input: SiLU is the same function up to scale, and is fused."""
    return F.silu(x.mul_(1.702)).mul_(1 / 1.702)
