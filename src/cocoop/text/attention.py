"""Attention on a tree of prompts: each row sees the rows from SOS down its own branch, and no others.

Two ways to the same numbers, chosen by the device:

- `by_pair`, for CPUs: scores against the prefix are one matrix product; those within a branch are taken for the pairs
  of rows that see each other and no others. Its gradient is written out: it keeps queries, keys, values and
  probabilities, and recomputes everything else.
- `by_mask`, for GPUs: one fused attention over all rows with a mask, few launches instead of little arithmetic.

Shapes: B images, P prefix rows, T suffix rows, R = P + T rows, Q rows that ask, W columns of scores, d text width,
H heads, h = d / H.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cocoop.text.tree import QueryRows

__all__ = ["by_mask", "by_pair", "tree_attention"]


def tree_attention(
    q: Float[Tensor, "Q B d"], k: Float[Tensor, "R B d"], v: Float[Tensor, "R B d"], queries: QueryRows, heads: int
) -> Float[Tensor, "Q B d"]:
    """Attended values of the asking rows, the way that suits the device.

    Args:
        q: queries of the rows that ask.
        k: keys of all rows.
        v: values of all rows.
        askers: which rows ask, and which rows each of them sees.
        heads: H; it divides d.
    """
    plain = q.device.type == "cpu" and not torch.compiler.is_compiling()
    return (by_pair if plain else by_mask)(q, k, v, queries, heads)


def by_mask(
    q: Float[Tensor, "Q B d"], k: Float[Tensor, "R B d"], v: Float[Tensor, "R B d"], queries: QueryRows, heads: int
) -> Float[Tensor, "Q B d"]:
    """As `tree_attention`, in one fused call with a mask."""
    qh, kh, vh = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
    seen = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=queries.mask(len(k)))
    return seen.permute(2, 0, 1, 3).flatten(-2)


def by_pair(
    q: Float[Tensor, "Q B d"], k: Float[Tensor, "R B d"], v: Float[Tensor, "R B d"], queries: QueryRows, heads: int
) -> Float[Tensor, "Q B d"]:
    """As `tree_attention`, pair by pair; softmax in fp32."""
    seen: Tensor = _ByPair.apply(q, k, v, queries, heads)
    return seen


class _ByPair(torch.autograd.Function):
    """Scores (B, H, Q, W) have a column for each prefix row, one for the asker itself, then one for each pair.

    An asker sees the prefix P, itself S, and its other ancestors, of which it has as many as its depth.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: QueryRows, heads: int) -> Tensor:
        P, S, (query, row, slot) = queries.prefix, queries.suffix_askers, queries.pairs
        scale = (q.shape[-1] // heads) ** -0.5
        qh, kh, vh = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        shape = (q.shape[1], heads, len(q), queries.columns)
        scores = q.new_full(shape, float("-inf"), dtype=torch.float32)
        scores[..., :P] = _each_prefix_row(qh, kh[:P])
        scores[..., S, P] = _dot(qh[S], queries.own(kh))
        _flat(scores)[..., slot] = _dot(qh.index_select(0, query), kh.index_select(0, row))
        if queries.prefix_asks:
            scores[..., :P, :P].masked_fill_(queries.later, float("-inf"))
        p = scores.mul_(scale).softmax(-1).to(q.dtype)
        seen = _over_prefix(p[..., :P], vh[:P])
        seen[S].addcmul_(_by_row(p[..., S, P]), queries.own(vh))
        seen.index_add_(0, query, _by_row(_flat(p)[..., slot]) * vh.index_select(0, row))
        ctx.save_for_backward(q, k, v, p)
        ctx.queries, ctx.heads, ctx.scale = queries, heads, scale
        return seen.flatten(-2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, heads, (q, k, v, p) = ctx.queries, ctx.heads, ctx.saved_tensors
        P, S, (query, row, slot) = queries.prefix, queries.suffix_askers, queries.pairs
        g, qh, kh, vh = (x.unflatten(-1, (heads, -1)) for x in (grads[0], q, k, v))
        # Of the probabilities.
        dp = torch.zeros_like(p, dtype=torch.float32)
        g_pair = g.index_select(0, query)
        dp[..., :P] = _each_prefix_row(g, vh[:P])
        dp[..., S, P] = _dot(g[S], queries.own(vh))
        _flat(dp)[..., slot] = _dot(g_pair, vh.index_select(0, row))
        # Of the scores: softmax's own gradient.
        ds = dp.sub_((p * dp).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale).to(q.dtype)
        p_pair, ds_pair = (_by_row(_flat(x)[..., slot]) for x in (p, ds))
        p_own, ds_own = (_by_row(x[..., S, P]) for x in (p, ds))
        # Of values, queries and keys.
        dq, dk, dv = _over_prefix(ds[..., :P], kh[:P]), torch.zeros_like(kh), torch.zeros_like(vh)
        dv[:P] = _over_askers(p[..., :P], g)
        dk[:P] = _over_askers(ds[..., :P], qh)
        queries.add_own(dv, p_own * g[S])
        queries.add_own(dk, ds_own * qh[S])
        dq[S].addcmul_(ds_own, queries.own(kh))
        dv.index_add_(0, row, g_pair.mul_(p_pair))
        dk.index_add_(0, row, ds_pair * qh.index_select(0, query))
        dq.index_add_(0, query, ds_pair * kh.index_select(0, row))
        return dq.flatten(-2), dk.flatten(-2), dv.flatten(-2), None, None


def _dot(a: Float[Tensor, "n B H h"], b: Float[Tensor, "n B H h"]) -> Float[Tensor, "B H n"]:
    return (a * b).sum(-1, dtype=torch.float32).permute(1, 2, 0)


def _flat(scores: Float[Tensor, "B H Q W"]) -> Float[Tensor, "B H QW"]:
    return scores.flatten(-2)


def _by_row(p: Float[Tensor, "B H n"]) -> Float[Tensor, "n B H 1"]:
    return p.permute(2, 0, 1).unsqueeze(-1)


def _each_prefix_row(a: Float[Tensor, "Q B H h"], b: Float[Tensor, "P B H h"]) -> Float[Tensor, "B H Q P"]:
    return torch.einsum("qbhd,pbhd->bhqp", a, b)


def _over_prefix(p: Float[Tensor, "B H Q P"], v: Float[Tensor, "P B H h"]) -> Float[Tensor, "Q B H h"]:
    return torch.einsum("bhqp,pbhd->qbhd", p, v).contiguous()


def _over_askers(p: Float[Tensor, "B H Q P"], g: Float[Tensor, "Q B H h"]) -> Float[Tensor, "P B H h"]:
    return torch.einsum("bhqp,qbhd->pbhd", p, g)
