"""Prompts as a tree: what several prompts begin with stands in it once, and is computed once.

Every position of a causal tower sees only what stands before it, so two prompts that begin alike have the same
vectors there, in every layer. The prefix (SOS and context) is the trunk, shared by all classes; names that share
leading tokens ("2012 BMW ...") share branches; each class has a leaf of its own, its EOT. Whatever would come after
EOT is not there at all.

Shapes: B images, C classes, M context vectors, P prefix rows, T suffix rows, R = P + T rows of a tree, Q rows that
ask, S of them suffix rows, W columns of attention scores, E pairs of an asker and another row of its branch, d text
width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

__all__ = ["PromptTree", "Prompts", "QueryRows"]

CPU_ROWS = 2048
"""Rows of a tree, and of one step's work, on a CPU: enough for its matrix product, few enough for its cache."""
GPU_ROWS = 1024
"""Rows of a tree on a GPU, where attention looks at all pairs of rows: more would waste more than it fills."""


class QueryRows(nn.Module):
    """Rows whose attention is wanted, and the rows that each of them sees: the prefix, its branch and itself.

    Args:
        prefix: P, the rows that every suffix row sees; among themselves they are causal.
        rows: the asking rows among the R rows of the tree: all of them in order, or only suffix rows.
        branches: for each of them the suffix rows before it on its branch, from the first after the prefix.
    """

    rows: Int64[Tensor, " Q"]
    later: Bool[Tensor, "P P"]
    _pairs: Int64[Tensor, "3 E"]

    def __init__(self, prefix: int, rows: Sequence[int], branches: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.prefix = prefix
        self.prefix_asks = rows[0] == 0
        self.suffix_askers = slice(prefix if self.prefix_asks else 0, None)
        self.columns = prefix + 1 + max(map(len, branches))
        self._mask: Tensor | None = None
        pairs = [(i, row, i * self.columns + prefix + 1 + j) for i, b in enumerate(branches) for j, row in enumerate(b)]
        columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        self.register_buffer("_pairs", columns, persistent=False)
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        later = torch.ones(prefix, prefix, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    @property
    def pairs(self) -> tuple[Int64[Tensor, " E"], Int64[Tensor, " E"], Int64[Tensor, " E"]]:
        """Each asker with each other row of its branch: the asker, that row, and its place in flat (Q W) scores."""
        query, row, slot = self._pairs.unbind()
        return query, row, slot

    def of(self, x: Float[Tensor, "R ..."]) -> Float[Tensor, "Q ..."]:
        """The asking rows of all rows; the same tensor where all of them ask."""
        return x if self.prefix_asks else x[self.rows]

    def own(self, x: Float[Tensor, "R ..."]) -> Float[Tensor, "S ..."]:
        """The rows of the asking suffix rows themselves."""
        return x[self.prefix :] if self.prefix_asks else x[self.rows]

    def add_own(self, x: Float[Tensor, "R ..."], own: Float[Tensor, "S ..."]) -> None:
        """Add to the rows of the asking suffix rows, in place."""
        if self.prefix_asks:
            x[self.prefix :].add_(own)
        else:
            x.index_add_(0, self.rows, own)

    def mask(self, rows: int) -> Bool[Tensor, "Q R"]:
        """Which of all rows each asker sees."""
        if self._mask is None or self._mask.device != self.rows.device:
            see = torch.zeros(len(self.rows), rows, dtype=torch.bool, device=self.rows.device)
            see[:, : self.prefix] = True
            if self.prefix_asks:
                see[: self.prefix, : self.prefix].tril_()
            see[torch.arange(len(see), device=see.device), self.rows] = True
            see[self.pairs[0], self.pairs[1]] = True
            self._mask = see
        return self._mask


class PromptTree(nn.Module):
    """The prompts of some classes, as rows of one tree: first the prefix, then the suffixes.

    Args:
        prefix: ids of the positions shared by all classes, SOS first.
        suffixes: for each class the ids of what follows, EOT last.

    An id from 0 up is a token; -1 is the first context vector, -2 the second, and so on.
    """

    prefix_ids: Int64[Tensor, " P"]
    suffix_ids: Int64[Tensor, " T"]
    positions: Int64[Tensor, " T"]
    leaf_of: Int64[Tensor, " C"]

    def __init__(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        p = len(prefix)
        parents: dict[tuple[int, ...], None] = {}
        for length in range(1, 1 + max(map(len, suffixes))):
            parents |= dict.fromkeys(tuple(suffix[:length]) for suffix in suffixes if len(suffix) >= length)
        row_of = {node: p + t for t, node in enumerate(parents)}
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
        self._known: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """R, the rows computed for one image."""
        return len(self.prefix_ids) + len(self.suffix_ids)

    def remember(self, *tensors: Float[Tensor, "T 1 d"]) -> None:
        """Keep what a tower computed of the suffixes alone, for `known`; it moves with the tree."""
        self._known = tuple(f"known_{i}" for i in range(len(tensors)))
        for name, tensor in zip(self._known, tensors, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def known(self) -> tuple[Float[Tensor, "T 1 d"], ...]:
        """What was given to `remember`; nothing before."""
        return tuple(getattr(self, name) for name in self._known)

    def embed_prefix(
        self, table: Float[Tensor, "V d"], context: Float[Tensor, "B M d"] | None
    ) -> Float[Tensor, "P _ d"]:
        """Vectors of the prefix: frozen token embeddings, and each image's context vectors in their places.

        Args:
            table: the frozen token embedding.
            context: learned vectors, one set for each of B images; None where no id is negative.
        """
        return _lookup(self.prefix_ids, table, context)

    def embed_suffix(
        self, table: Float[Tensor, "V d"], context: Float[Tensor, "B M d"] | None
    ) -> Float[Tensor, "T _ d"]:
        """Vectors of the suffixes, in the same way."""
        return _lookup(self.suffix_ids, table, context)


class Prompts(nn.Module):
    """The prompts of all classes, as one tree or as several of bounded size.

    Args:
        prefix: ids of the positions shared by all classes, SOS first.
        suffixes: for each class the ids of what follows, EOT last.
        device: where they will be used.
        rows_at_once: most rows of a tree, and so how many trees there are; None: what suits the device.
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
        # Sorted, so that classes that share a branch fall into the same tree.
        by_ids = sorted(range(len(suffixes)), key=lambda c: tuple(suffixes[c]))
        trees, chunk, rows = [], [suffixes[by_ids[0]]], len(prefix) + len(suffixes[by_ids[0]])
        for c in by_ids[1:]:
            own = len(suffixes[c]) - _shared(chunk[-1], suffixes[c])
            if rows + own > rows_at_once:
                trees.append(PromptTree(prefix, chunk))
                chunk, rows, own = [], len(prefix), len(suffixes[c])
            chunk.append(suffixes[c])
            rows += own
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
        """Rows computed for one image, in all trees."""
        return sum(tree.rows for tree in self.trees)

    @property
    def images_at_once(self) -> int:
        """How many images fill the rows of one step's work; it depends on the prompts alone, not on memory."""
        return max(1, self.rows_at_once // self.rows)


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with in common."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def _lookup(ids: Tensor, table: Tensor, context: Tensor | None) -> Tensor:
    tokens = table[ids.clamp(min=0)].unsqueeze(1)
    if context is None:
        return tokens
    learned = context[:, (-1 - ids).clamp(min=0)].transpose(0, 1)
    return torch.where((ids < 0)[:, None, None], learned, tokens.to(context.dtype))
