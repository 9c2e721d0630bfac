"""The text tower: CLIP's causal transformer, computed only at the positions that influence the result.

A prompt's feature is read at its EOT token, and every position sees only the positions before it. Therefore:

- positions after EOT are not computed, so a long class name does not slow down the others;
- shared leading tokens are computed once: the prefix (SOS and context) once for all classes, even if it differs
  between images (CoCoOp), and leading tokens that several names share (see `cocoop.text.tree`);
- the last layer computes only the EOT rows; other rows contribute their keys and values;
- the first layer's projections of class names do not depend on images or training, and are computed once.

The result equals that of the padded tower in open_clip or transformers, up to rounding.

References:
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (section 2.4).
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (equation 3).

Shapes: B images, C classes, M context vectors, P prefix rows, T suffix rows, R = P + T rows of a tree, Q query rows,
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

MAX_PRECOMPUTED_ROWS = 2**15
"""Largest number of rows for which the first layer's projections are kept (4 d values per row)."""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """The architecture of a CLIP text tower."""

    vocab_size: int
    """Rows of the token embedding."""
    context_length: int
    """Number of positions, SOS and EOT included; 77 in CLIP."""
    width: int
    """Size d of a token's vector."""
    heads: int
    """Number of attention heads, a divisor of `width`."""
    layers: int
    """Number of transformer blocks."""
    mlp_width: int
    """Size of the hidden layer in each block; 4 d in CLIP."""
    embed_dim: int
    """Size e of the joint embedding."""
    activation: Literal["gelu", "quick_gelu"]
    """OpenAI's weights use `quick_gelu`: x * sigmoid(1.702 x)."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every layer norm."""
    projection: bool = True
    """True if the text feature is projected to the joint embedding."""
    projection_bias: bool = False
    """True if that projection has a bias."""


class TextTower(nn.Module):
    """Frozen CLIP text transformer that encodes prompts with a shared prefix.

    Gradients flow through the tower to its input, never into its weights. Activations that do not fit into
    `memory_budget` are recomputed in the backward pass, with identical results.

    Args:
        config: the architecture.

    Attributes:
        memory_budget: bytes that may be kept for the backward pass; None: the free memory of the device.
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
        # In the last pass with gradients: bytes kept for the backward pass, and images per part.
        self._kept_bytes, self._part_images = 0, 1
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights and of the computation."""
        return self.positional_embedding.dtype

    def forward(self, context: Float[Tensor, "B M d"] | None, prompts: Prompts) -> Float[Tensor, "B C e"]:
        """Encode the prompts of every class with every image's context.

        Args:
            context: one set of context vectors for each image; None for prompts without context (then B is 1).
            prompts: the prompts.

        Returns:
            Text features before normalisation, classes in the given order, in the tower's data type.
        """
        # An exported graph takes any number of images in one pass.
        one_pass = context is None or torch.compiler.is_compiling()
        size = min(prompts.images_at_once, self._images_at_once)
        contexts = [context] if context is None or one_pass else list(context.split(size))
        parts = [(part, tree) for part in contexts for tree in prompts.trees]
        encoders = self._encoders(parts)
        features = [encode(part, tree) for encode, (part, tree) in zip(encoders, parts, strict=True)]
        count = len(prompts.trees)
        by_images = [torch.cat(features[i : i + count]) for i in range(0, len(features), count)]
        return torch.cat([classes[prompts.order].transpose(0, 1) for classes in by_images])

    def precompute(self, prompts: Prompts) -> None:
        """Store the first layer's projections of the class names in prompts that will be used many times."""
        if prompts.rows > MAX_PRECOMPUTED_ROWS:
            return
        with torch.no_grad():
            for tree in prompts.trees:
                if not tree.suffix_has_context:
                    tree.set_precomputed(*self._first_layer(tree))

    def encode_tokens(self, tokens: Int[Tensor, "N L"], eot: int) -> Float[Tensor, "N e"]:
        """Encode complete token sequences, like `encode_text` of open_clip.

        Args:
            tokens: SOS first; everything after the first `eot` is padding.
            eot: id of the token whose feature is returned.

        Raises:
            PromptError: if a sequence has no `eot`, or the first tokens differ.
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
        """Return the bytes that one tree keeps for the backward pass: the inputs of each layer's nonlinear steps."""
        c = self.config
        values = 5 * c.width + c.mlp_width
        values += c.heads * tree.every_row.columns  # attention probabilities
        return images * tree.rows * c.layers * values * self.dtype.itemsize

    def use_less_memory(self) -> str | None:
        """Halve the memory of the next forward and backward pass, after the last one ran out of memory.

        First, fewer activations are kept for the backward pass, and more are recomputed. Then fewer images are encoded
        at a time.

        Returns:
            A description of the new limit; None if the memory cannot be reduced further.
        """
        if self._kept_bytes:
            self.memory_budget = self._kept_bytes = self._kept_bytes // 2
            return f"with a `memory_budget` of {self.memory_budget / 2**20:,.0f} MiB"
        if self._part_images > 1:
            self._images_at_once = self._part_images = self._part_images // 2
            return f"with fewer images at a time ({self._images_at_once})"
        return None

    def _encoders(self, parts: Sequence[tuple[Tensor | None, PromptTree]]) -> list[Callable[..., Tensor]]:
        """Return a function that encodes each part: one that keeps its activations, or one that recomputes them.

        As many of the last parts as fit the budget keep their activations: the backward pass starts with these parts
        and frees them before the first recomputation. Results do not depend on the budget.
        """
        encoders: list[Callable[..., Tensor]] = [self._encode] * len(parts)
        if not torch.is_grad_enabled():
            return encoders
        images = [1 if context is None else len(context) for context, _ in parts]
        sizes = [self.activation_bytes(tree, count) for count, (_, tree) in zip(images, parts, strict=True)]
        budget = free_memory(self.positional_embedding.device) if self.memory_budget is None else self.memory_budget
        self._kept_bytes, self._part_images = sum(sizes), max(images)
        if self._kept_bytes <= budget:
            return encoders
        left = budget - max(sizes)
        for i in reversed(range(len(parts))):
            left -= sizes[i]
            if left < 0:
                self._kept_bytes -= sizes[i]
                encoders[i] = partial(checkpoint, self._encode, use_reentrant=False, preserve_rng_state=False)
        return encoders

    def _encode(self, context: Float[Tensor, "B M d"] | None, tree: PromptTree) -> Float[Tensor, "C B e"]:
        """Encode the classes of one tree."""
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
            prefix, suffix = (x_prefix, *first.project(x_prefix)), tree.precomputed() or self._first_layer(tree)
            images = x_prefix.shape[1]
            x, q, k, v = (torch.cat([a, b.expand(-1, images, -1)]) for a, b in zip(prefix, suffix, strict=True))
            qkv = q, k, v
        for block in self.blocks:
            queries = tree.leaves if block is self.blocks[-1] else tree.every_row
            x = block(x, queries, qkv if block is first else None)
        return self.projection(self.ln_final(x))[tree.leaf_of]

    def _first_layer(self, tree: PromptTree) -> tuple[Float[Tensor, "T 1 d"], ...]:
        """Return the input of the first layer for suffixes without context, and its queries, keys and values."""
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
        """Apply the block to the query rows.

        Args:
            x: all rows.
            queries: the rows to compute; the others contribute their keys and values.
            qkv: `project(x)`, if already computed.
        """
        q, k, v = self.project(x, queries) if qkv is None else (queries.select(qkv[0]), *qkv[1:])
        x = queries.select(x) + self.out(tree_attention(q, k, v, queries, self.heads))
        hidden = self.fc(self.ln_2(x))
        return x + self.proj(_quick_gelu(hidden) if self.quick_gelu else F.gelu(hidden))

    def project(
        self, x: Float[Tensor, "R B d"], queries: QueryRows | None = None
    ) -> tuple[Float[Tensor, "Q B d"], Float[Tensor, "R B d"], Float[Tensor, "R B d"]]:
        """Return queries of the query rows (None: of all rows), and keys and values of all rows."""
        y = self.ln_1(x)
        inputs = (y if queries is None else queries.select(y), y, y)
        parts = zip(inputs, self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (F.linear(source, weight, bias) for source, weight, bias in parts)
        return q, k, v


def _quick_gelu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(1.702 x), overwriting x, as a scaled SiLU, which PyTorch computes in one kernel."""
    return F.silu(x.mul_(1.702)).mul_(1 / 1.702)
