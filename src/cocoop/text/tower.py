"""The text tower: CLIP's causal transformer, computed on the positions that matter and no others.

A prompt is read at its EOT token and every position sees only what stands before it, so

- nothing after EOT is computed: the suffixes of all classes are packed end to end, each at its own length;
- the prefix (SOS and context) does not see the class name: it is computed once and shared by all classes,
  also where it differs from image to image (CoCoOp);
- in the last layer only EOT asks: the other positions give their keys and values, and stop there.

This is the same function as the library's padded tower, to rounding.

References:
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021 (section 2.4).
    Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022 (equation 3).

Shapes: B prefixes (images), C classes, P prefix positions, T packed suffix positions of all classes,
N texts, L tokens, d text width, e joint embedding size, H heads, h = d / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from cocoop.errors import PromptError
from cocoop.text.prompts import PackedPrompts

__all__ = ["TextTower", "TextTowerConfig"]


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
    """Frozen CLIP text transformer that encodes packed prompts with a shared prefix.

    Args:
        config: the architecture.

    All parameters are frozen: gradients flow through the tower to its input, never into its weights.
    """

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.token_embedding = nn.Embedding(config.vocab_size, d)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, d))
        nn.init.normal_(self.positional_embedding, std=0.01)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_final = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.projection = (
            nn.Linear(d, config.embed_dim, bias=config.projection_bias) if config.projection else nn.Identity()
        )
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the weights, and so of the computation."""
        return self.positional_embedding.dtype

    def forward(
        self, prefix: Float[Tensor, "B P d"], suffix: Float[Tensor, "#B T d"], prompts: PackedPrompts
    ) -> Float[Tensor, "B C e"]:
        """Text features of every class after every prefix, before normalisation.

        Args:
            prefix: token vectors of the shared beginning, without positions.
            suffix: token vectors of what follows, packed as `prompts` says, without positions; one row
                where they are the same after every prefix, so that their first layer is computed once.
            prompts: which positions belong to which class.

        Returns:
            Features in the order in which the classes were given, in the tower's number type.
        """
        places = self.positional_embedding
        x_prefix = prefix.to(self.dtype) + places[: prefix.shape[1]]
        x_suffix = suffix.to(self.dtype) + places[prompts.positions]
        for block in self.blocks[:-1]:
            x_prefix, x_suffix = block(x_prefix, x_suffix, prompts)
        x_eot = self.blocks[-1].read(x_prefix, x_suffix, prompts)
        return self.projection(self.ln_final(x_eot))[:, prompts.inverse]

    def encode_tokens(self, tokens: Int[Tensor, "N L"], eot: int) -> Float[Tensor, "N e"]:
        """Text features of whole token sequences, as a library's `encode_text` gives them.

        Args:
            tokens: SOS first; what follows the first `eot` is padding and is not computed.
            eot: the token at which a text is read.

        Raises:
            PromptError: for a sequence without `eot`.
        """
        rows = tokens.tolist()
        for row in rows:
            if eot not in row:
                raise PromptError(f"A token sequence has no EOT token ({eot}): {row[:8]}...")
        prompts = PackedPrompts([rows[0][0]], [row[1 : row.index(eot) + 1] for row in rows]).to(tokens.device)
        if any(row[0] != rows[0][0] for row in rows):
            raise PromptError("All token sequences must begin with the same SOS token.")
        embedded = prompts.embed(self.token_embedding.weight)
        return self(*embedded, prompts)[0]


class Block(nn.Module):
    """One residual attention block of the tower, on a prefix and the suffixes that follow it."""

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
        self, x_prefix: Float[Tensor, "B P d"], x_suffix: Float[Tensor, "#B T d"], prompts: PackedPrompts
    ) -> tuple[Float[Tensor, "B P d"], Float[Tensor, "B T d"]]:
        """Both parts, one block further."""
        q, k, v = self._heads(x_prefix)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y_suffix = self._attend_suffixes(x_suffix, k, v, prompts)
        return (
            self._mlp(x_prefix + self.out(seen.transpose(1, 2).flatten(2))),
            self._mlp(x_suffix + self.out(y_suffix)),
        )

    def read(
        self, x_prefix: Float[Tensor, "B P d"], x_suffix: Float[Tensor, "#B T d"], prompts: PackedPrompts
    ) -> Float[Tensor, "B C d"]:
        """The last block, at EOT only, in packed order: no other position's result is ever looked at."""
        d = x_prefix.shape[-1]
        weight, bias = self.qkv.weight[d:], self.qkv.bias[d:]
        k, v = self._split(F.linear(self.ln_1(x_prefix), weight, bias), 2)
        y_eot = self._attend_suffixes(x_suffix, k, v, prompts, eot_only=True)
        return self._mlp(x_suffix[:, prompts.eot] + self.out(y_eot))

    def _attend_suffixes(
        self,
        x: Float[Tensor, "#B T d"],
        k_prefix: Float[Tensor, "B H P h"],
        v_prefix: Float[Tensor, "B H P h"],
        prompts: PackedPrompts,
        *,
        eot_only: bool = False,
    ) -> Float[Tensor, "B TorC d"]:
        """Each suffix attends to the prefix and causally to itself; suffixes of one length go together."""
        images = k_prefix.shape[0]
        q, k, v = self.qkv(self.ln_1(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        attended = []
        for bucket in prompts.buckets:
            n, s = bucket.classes, bucket.length

            def of_bucket(t: Tensor, shape: tuple[int, int] = (n, s), at: slice = bucket.packed) -> Tensor:
                rows = t[:, at].unflatten(1, shape).transpose(2, 3)
                return rows.expand(images, *rows.shape[1:])

            def after(prefix: Tensor, own: Tensor, n: int = n) -> Tensor:
                return torch.cat([prefix.unsqueeze(1).expand(-1, n, -1, -1, -1), own], dim=3).flatten(0, 1)

            asking = of_bucket(q)[:, :, :, -1:] if eot_only else of_bucket(q)
            keys, values = after(k_prefix, of_bucket(k)), after(v_prefix, of_bucket(v))
            # A query at suffix offset i sees the P prefix positions and the suffix up to i; EOT sees all.
            mask = None if eot_only else _causal_mask(s, keys.shape[2], x.device)
            seen = F.scaled_dot_product_attention(asking.flatten(0, 1), keys, values, attn_mask=mask)
            attended.append(seen.transpose(1, 2).reshape(images, -1, x.shape[-1]))
        return torch.cat(attended, dim=1)

    def _heads(self, x: Float[Tensor, "B L d"]) -> tuple[Tensor, ...]:
        return self._split(self.qkv(self.ln_1(x)), 3)

    def _split(self, joined: Float[Tensor, "B L kd"], parts: int) -> tuple[Float[Tensor, "B H L h"], ...]:
        return joined.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _mlp(self, x: Float[Tensor, "B L d"]) -> Float[Tensor, "B L d"]:
        hidden = self.fc(self.ln_2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + self.proj(hidden)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
