"""Attention on a tree of prompts: each row sees only the rows of its own branch, from SOS down to itself.

There are two implementations with the same result, chosen by device:

- `by_pair`, for CPUs: scores against the prefix are one matrix product; scores within a branch are computed only for
  pairs of rows that see each other. Its backward pass is written by hand: it saves queries, keys, values and
  probabilities, and recomputes everything else.
- `by_mask`, for GPUs: one fused attention over all rows with a mask, which needs few kernel launches.

Shapes: B images, P prefix rows, T suffix rows, R = P + T rows, Q query rows, W columns of scores, d text width,
H heads, h = d / H, n pairs or rows.
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
    """Compute attention with the implementation that suits the device.

    Args:
        q: queries of the query rows.
        k: keys of all rows.
        v: values of all rows.
        queries: the query rows, and which rows each of them sees.
        heads: H, a divisor of d.
    """
    on_cpu = q.device.type == "cpu" and not torch.compiler.is_compiling()
    return (by_pair if on_cpu else by_mask)(q, k, v, queries, heads)


def by_mask(
    q: Float[Tensor, "Q B d"], k: Float[Tensor, "R B d"], v: Float[Tensor, "R B d"], queries: QueryRows, heads: int
) -> Float[Tensor, "Q B d"]:
    """Compute `tree_attention` in one fused call with a mask."""
    qh, kh, vh = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))
    attended = F.scaled_dot_product_attention(qh, kh, vh, attn_mask=queries.mask(len(k)))
    return attended.permute(2, 0, 1, 3).flatten(-2)


def by_pair(
    q: Float[Tensor, "Q B d"], k: Float[Tensor, "R B d"], v: Float[Tensor, "R B d"], queries: QueryRows, heads: int
) -> Float[Tensor, "Q B d"]:
    """Compute `tree_attention` pair by pair, with the softmax in fp32."""
    attended: Tensor = _ByPair.apply(q, k, v, queries, heads)
    return attended


class _ByPair(torch.autograd.Function):
    """Attention whose scores (B, H, Q, W) have one column for each row that a query sees.

    The columns are the P prefix rows, the query row itself, and its ancestors in the suffix, padded to the longest
    branch. In the code below, column P is that of the query row itself.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: QueryRows, heads: int) -> Tensor:
        P, S, (query, row, slot) = queries.prefix, queries.suffix, queries.pairs
        scale = (q.shape[-1] // heads) ** -0.5
        qh, kh, vh = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        shape = (q.shape[1], heads, len(q), queries.columns)
        scores = q.new_full(shape, float("-inf"), dtype=torch.float32)
        scores[..., :P] = _prefix_scores(qh, kh[:P])
        scores[..., S, P] = _dot(qh[S], queries.select_suffix(kh))
        _flat(scores)[..., slot] = _dot(qh.index_select(0, query), kh.index_select(0, row))
        if queries.has_prefix:
            scores[..., :P, :P].masked_fill_(queries.future, float("-inf"))
        p = scores.mul_(scale).softmax(-1).to(q.dtype)
        attended = _sum_over_prefix(p[..., :P], vh[:P])
        attended[S].addcmul_(_by_row(p[..., S, P]), queries.select_suffix(vh))
        attended.index_add_(0, query, _by_row(_flat(p)[..., slot]) * vh.index_select(0, row))
        ctx.save_for_backward(q, k, v, p)
        ctx.queries, ctx.heads, ctx.scale = queries, heads, scale
        return attended.flatten(-2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, heads, (q, k, v, p) = ctx.queries, ctx.heads, ctx.saved_tensors
        P, S, (query, row, slot) = queries.prefix, queries.suffix, queries.pairs
        g, qh, kh, vh = (x.unflatten(-1, (heads, -1)) for x in (grads[0], q, k, v))
        # Gradient of the probabilities.
        dp = torch.zeros_like(p, dtype=torch.float32)
        g_pair = g.index_select(0, query)
        dp[..., :P] = _prefix_scores(g, vh[:P])
        dp[..., S, P] = _dot(g[S], queries.select_suffix(vh))
        _flat(dp)[..., slot] = _dot(g_pair, vh.index_select(0, row))
        # Gradient of the scores, through softmax.
        ds = dp.sub_((p * dp).sum(-1, keepdim=True)).mul_(p).mul_(ctx.scale).to(q.dtype)
        p_pair, ds_pair = (_by_row(_flat(x)[..., slot]) for x in (p, ds))
        p_self, ds_self = (_by_row(x[..., S, P]) for x in (p, ds))
        # Gradients of values, queries and keys.
        dq, dk, dv = _sum_over_prefix(ds[..., :P], kh[:P]), torch.zeros_like(kh), torch.zeros_like(vh)
        dv[:P] = _sum_over_queries(p[..., :P], g)
        dk[:P] = _sum_over_queries(ds[..., :P], qh)
        queries.add_to_suffix(dv, p_self * g[S])
        queries.add_to_suffix(dk, ds_self * qh[S])
        dq[S].addcmul_(ds_self, queries.select_suffix(kh))
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


def _prefix_scores(a: Float[Tensor, "Q B H h"], b: Float[Tensor, "P B H h"]) -> Float[Tensor, "B H Q P"]:
    return torch.einsum("qbhd,pbhd->bhqp", a, b)


def _sum_over_prefix(p: Float[Tensor, "B H Q P"], v: Float[Tensor, "P B H h"]) -> Float[Tensor, "Q B H h"]:
    return torch.einsum("bhqp,pbhd->qbhd", p, v).contiguous()


def _sum_over_queries(p: Float[Tensor, "B H Q P"], g: Float[Tensor, "Q B H h"]) -> Float[Tensor, "P B H h"]:
    return torch.einsum("bhqp,qbhd->pbhd", p, g)
