"""Prompts as a tree: leading tokens that several prompts share are stored and computed once.

In a causal transformer a position sees only the positions before it, so two prompts with the same leading tokens have
the same vectors at these positions, in every layer. The prefix (SOS and context) is the trunk, shared by all classes.
Names that share leading tokens ("2012 BMW ...") share branches. The leaf of each class is its EOT token, where its
feature is read.

Shapes: B images, C classes, M context vectors, P prefix rows, T suffix rows, R = P + T rows of a tree, Q query rows,
S of them suffix rows, W columns of attention scores, E pairs of a query row and an ancestor, d text width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

__all__ = ["PromptTree", "Prompts", "QueryRows"]

CPU_ROWS = 2048
"""Rows per tree and per pass on a CPU: enough to fill a matrix product, few enough for the cache."""
GPU_ROWS = 1024
"""Rows per tree on a GPU, where attention computes all pairs of rows and masks most of them."""


class QueryRows(nn.Module):
    """Rows whose attention is computed, and the rows that each of them sees: the prefix, its ancestors and itself.

    Args:
        prefix: P, the number of prefix rows; suffix rows see all of them, a prefix row only itself and those before.
        rows: indices of the query rows in the tree: either all rows in order, or suffix rows only.
        branches: the suffix rows that are ancestors of each query row, from the prefix down.
    """

    rows: Int64[Tensor, " Q"]
    future: Bool[Tensor, "P P"]
    _pairs: Int64[Tensor, "3 E"]

    def __init__(self, prefix: int, rows: Sequence[int], branches: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.prefix = prefix
        self.has_prefix = rows[0] == 0
        self.suffix = slice(prefix if self.has_prefix else 0, None)
        self.columns = prefix + 1 + max(map(len, branches))
        self._mask: Tensor | None = None
        pairs = [(i, row, i * self.columns + prefix + 1 + j) for i, b in enumerate(branches) for j, row in enumerate(b)]
        columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        self.register_buffer("_pairs", columns, persistent=False)
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        future = torch.ones(prefix, prefix, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    @property
    def pairs(self) -> tuple[Int64[Tensor, " E"], Int64[Tensor, " E"], Int64[Tensor, " E"]]:
        """Pairs of a query row and an ancestor: index of the query, row of the ancestor, index in flat (Q W) scores."""
        query, row, slot = self._pairs.unbind()
        return query, row, slot

    def select(self, x: Float[Tensor, "R ..."]) -> Float[Tensor, "Q ..."]:
        """Return the query rows of a tensor that has all rows; the tensor itself if every row is a query."""
        return x if self.has_prefix else x[self.rows]

    def select_suffix(self, x: Float[Tensor, "R ..."]) -> Float[Tensor, "S ..."]:
        """Return the query rows that are suffix rows."""
        return x[self.prefix :] if self.has_prefix else x[self.rows]

    def add_to_suffix(self, x: Float[Tensor, "R ..."], values: Float[Tensor, "S ..."]) -> None:
        """Add `values` to the query rows of `x` that are suffix rows, in place."""
        if self.has_prefix:
            x[self.prefix :].add_(values)
        else:
            x.index_add_(0, self.rows, values)

    def mask(self, rows: int) -> Bool[Tensor, "Q R"]:
        """Return True where a query row (first axis) sees a row of the tree (second axis)."""
        if self._mask is None or self._mask.device != self.rows.device:
            mask = torch.zeros(len(self.rows), rows, dtype=torch.bool, device=self.rows.device)
            mask[:, : self.prefix] = True
            if self.has_prefix:
                mask[: self.prefix, : self.prefix].tril_()
            mask[torch.arange(len(mask), device=mask.device), self.rows] = True
            mask[self.pairs[0], self.pairs[1]] = True
            self._mask = mask
        return self._mask


class PromptTree(nn.Module):
    """The prompts of some classes as rows of one tree: first the prefix, then the suffixes.

    Ids from 0 up are tokens; -1 is the first context vector, -2 the second, and so on.

    Args:
        prefix: ids shared by all classes, SOS first.
        suffixes: the remaining ids of each class's prompt, EOT last.
    """

    prefix_ids: Int64[Tensor, " P"]
    suffix_ids: Int64[Tensor, " T"]
    positions: Int64[Tensor, " T"]
    leaf_of: Int64[Tensor, " C"]

    def __init__(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        p = len(prefix)
        # A node is the tuple of ids on its branch; parents come before their children.
        nodes: dict[tuple[int, ...], None] = {}
        for length in range(1, 1 + max(map(len, suffixes))):
            nodes |= dict.fromkeys(tuple(suffix[:length]) for suffix in suffixes if len(suffix) >= length)
        row_of = {node: p + t for t, node in enumerate(nodes)}
        branches = [[row_of[node[:i]] for i in range(1, len(node))] for node in row_of]
        leaves = sorted({row_of[tuple(suffix)] for suffix in suffixes})
        leaf_at = {row: i for i, row in enumerate(leaves)}
        tensors = {
            "prefix_ids": list(prefix),
            "suffix_ids": [node[-1] for node in row_of],
            "positions": [p + len(node) - 1 for node in row_of],
            "leaf_of": [leaf_at[row_of[tuple(suffix)]] for suffix in suffixes],
        }
        for name, values in tensors.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.every_row = QueryRows(p, range(p + len(branches)), [*([] for _ in prefix), *branches])
        self.leaves = QueryRows(p, leaves, [branches[row - p] for row in leaves])
        self.classes = len(suffixes)
        self.suffix_has_context = min(tensors["suffix_ids"]) < 0
        self._precomputed: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """R, the number of rows computed for one image."""
        return len(self.prefix_ids) + len(self.suffix_ids)

    def set_precomputed(self, *tensors: Float[Tensor, "T 1 d"]) -> None:
        """Store the first layer's projections of the suffixes; they move between devices with the tree."""
        self._precomputed = tuple(f"precomputed_{i}" for i in range(len(tensors)))
        for name, tensor in zip(self._precomputed, tensors, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def precomputed(self) -> tuple[Float[Tensor, "T 1 d"], ...]:
        """Return the tensors given to `set_precomputed`, or an empty tuple."""
        return tuple(getattr(self, name) for name in self._precomputed)

    def embed_prefix(
        self, table: Float[Tensor, "V d"], context: Float[Tensor, "B M d"] | None
    ) -> Float[Tensor, "P _ d"]:
        """Return the vectors of the prefix: frozen token embeddings and each image's context vectors.

        Args:
            table: the frozen token embedding.
            context: one set of context vectors for each image; None if no id is negative.
        """
        return _embed(self.prefix_ids, table, context)

    def embed_suffix(
        self, table: Float[Tensor, "V d"], context: Float[Tensor, "B M d"] | None
    ) -> Float[Tensor, "T _ d"]:
        """Return the vectors of the suffixes; arguments as in `embed_prefix`."""
        return _embed(self.suffix_ids, table, context)


class Prompts(nn.Module):
    """The prompts of all classes, as one tree or as several trees of bounded size.

    Args:
        prefix: ids shared by all classes, SOS first.
        suffixes: the remaining ids of each class's prompt, EOT last.
        device: where to compute.
        rows_at_once: maximum number of rows per tree; None: a default for the device.
    """

    order: Int64[Tensor, " C"]
    trees: Sequence[PromptTree]

    def __init__(
        self,
        prefix: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        *,
        device: torch.device,
        rows_at_once: int | None = None,
    ) -> None:
        super().__init__()
        rows_at_once = rows_at_once or (CPU_ROWS if device.type == "cpu" else GPU_ROWS)
        # Sorted, so that classes that share a branch end up in the same tree.
        by_ids = sorted(range(len(suffixes)), key=lambda c: tuple(suffixes[c]))
        trees, chunk, rows = [], [suffixes[by_ids[0]]], len(prefix) + len(suffixes[by_ids[0]])
        for c in by_ids[1:]:
            new_rows = len(suffixes[c]) - _shared_length(chunk[-1], suffixes[c])
            if rows + new_rows > rows_at_once:
                trees.append(PromptTree(prefix, chunk))
                chunk, rows, new_rows = [], len(prefix), len(suffixes[c])
            chunk.append(suffixes[c])
            rows += new_rows
        trees.append(PromptTree(prefix, chunk))
        self.trees = cast("Sequence[PromptTree]", nn.ModuleList(trees))
        order = sorted(range(len(by_ids)), key=by_ids.__getitem__)
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.rows_at_once = rows_at_once
        self.to(device)

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return len(self.order)

    @property
    def rows(self) -> int:
        """Number of rows computed for one image, in all trees."""
        return sum(tree.rows for tree in self.trees)

    @property
    def images_at_once(self) -> int:
        """Number of images that fill one pass of the tower; it depends on the prompts alone, not on free memory."""
        return max(1, self.rows_at_once // self.rows)


def _shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def _embed(ids: Tensor, table: Tensor, context: Tensor | None) -> Tensor:
    tokens = table[ids.clamp(min=0)].unsqueeze(1)
    if context is None:
        return tokens
    learned = context[:, (-1 - ids).clamp(min=0)].transpose(0, 1)
    return torch.where((ids < 0)[:, None, None], learned, tokens.to(context.dtype))
