"""Prompts: class names as tokens, packed so that no class pays for another's longer name.

Shapes: B images, C classes, M context vectors, P prefix positions, T packed suffix positions, d text width,
V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cocoop.errors import PromptError

__all__ = [
    "Bucket",
    "PackedPrompts",
    "Tokenizer",
    "check_classnames",
    "check_length",
    "name_tokens",
    "prompt_name",
    "text_tokens",
]


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids, without SOS and EOT."""

    sos: int
    eot: int

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, neither truncated nor padded."""


@dataclass(frozen=True)
class Bucket:
    """Neighbouring classes in the packing whose suffixes have the same length."""

    packed: slice
    """Where their positions stand among the T packed positions."""
    classes: int
    """How many classes these are."""
    length: int
    """Suffix positions of each, EOT included."""


class PackedPrompts(nn.Module):
    """Which token or context vector stands at which position, with the suffixes of all classes end to end.

    Args:
        prefix: ids of the positions shared by all classes, SOS first.
        suffixes: for each class the ids of what follows, EOT last.

    An id from 0 up is a token; -1 is the first context vector, -2 the second, and so on. Suffixes are
    ordered by length; `inverse` leads back to the order in which they were given.
    """

    prefix_ids: Tensor
    suffix_ids: Tensor
    positions: Tensor
    eot: Tensor
    inverse: Tensor

    def __init__(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        order = sorted(range(len(suffixes)), key=lambda c: len(suffixes[c]))
        ordered = [suffixes[c] for c in order]
        lengths = [len(suffix) for suffix in ordered]
        buckets, start, first = [], 0, 0
        while first < len(lengths):
            length = lengths[first]
            classes = lengths.count(length)
            buckets.append(Bucket(slice(start, start + classes * length), classes, length))
            first, start = first + classes, start + classes * length
        self.buckets = tuple(buckets)
        self.classes = len(suffixes)
        tensors = {
            "prefix_ids": list(prefix),
            "suffix_ids": [i for suffix in ordered for i in suffix],
            "positions": [len(prefix) + i for length in lengths for i in range(length)],
            "inverse": sorted(range(len(order)), key=order.__getitem__),
        }
        for name, values in tensors.items():
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.register_buffer("eot", torch.tensor(lengths).cumsum(0) - 1, persistent=False)
        self.suffix_has_context = min(tensors["suffix_ids"]) < 0

    @property
    def computed_positions(self) -> int:
        """Positions that are computed for one image: P + T."""
        return len(self.prefix_ids) + len(self.suffix_ids)

    def embed(
        self, table: Float[Tensor, "V d"], context: Float[Tensor, "B M d"] | None = None
    ) -> tuple[Float[Tensor, "B P d"], Float[Tensor, "_ T d"]]:
        """Vectors of prefix and suffix: frozen token embeddings, and context vectors in their places.

        Args:
            table: the frozen token embedding.
            context: learned vectors, one set for each of B images; None where no id is negative.

        Returns:
            The prefix, and the suffix with one row for all images unless it holds context vectors.
        """
        prefix = _lookup(self.prefix_ids, table, context)
        suffix_context = context if self.suffix_has_context else None
        return prefix, _lookup(self.suffix_ids, table, suffix_context)


def _lookup(ids: Tensor, table: Tensor, context: Tensor | None) -> Tensor:
    tokens = table[ids.clamp(min=0)].unsqueeze(0)
    if context is None:
        return tokens
    tokens = tokens.to(context.dtype).expand(context.shape[0], -1, -1)
    learned = context[:, (-1 - ids).clamp(min=0)]
    return torch.where((ids < 0)[:, None], learned, tokens)


def prompt_name(classname: str) -> str:
    """A class name as it stands in a prompt: `_` becomes a space, runs of white space become one."""
    return re.sub(r"\s+", " ", classname.replace("_", " ")).strip()


def check_classnames(classnames: Sequence[str]) -> tuple[str, ...]:
    """Class names as a tuple, usable in prompts.

    Raises:
        PromptError: if there are none, one is empty, or two are the same in a prompt.
    """
    if isinstance(classnames, str):
        raise PromptError(f"Class names are a list of strings, not one string: [{classnames!r}].")
    names = tuple(classnames)
    if not names:
        raise PromptError("There are no class names; give at least one.")
    seen: dict[str, str] = {}
    for name in names:
        clean = prompt_name(name)
        if not clean:
            raise PromptError(f"The class name {name!r} is empty; every class needs a name that can be read.")
        if clean in seen:
            raise PromptError(
                f"Two classes would have the same prompt: {seen[clean]!r} and {name!r}. Rename or merge them."
            )
        seen[clean] = name
    return names


def name_tokens(tokenizer: Tokenizer, classname: str) -> tuple[list[int], list[int]]:
    """Tokens of `<name>.`: those of the name, and those of the full stop (and what merged with it).

    Raises:
        PromptError: for a name without tokens, or one that contains SOS or EOT.
    """
    name = prompt_name(classname)
    tokens = text_tokens(tokenizer, f"{name}.", classname)
    length = len(tokenizer.encode(name))
    return tokens[:length], tokens[length:]


def text_tokens(tokenizer: Tokenizer, text: str, classname: str) -> list[int]:
    """Tokens of a text, without SOS and EOT.

    Raises:
        PromptError: naming the class, if there are none or they contain SOS or EOT.
    """
    tokens = tokenizer.encode(text)
    if not tokens:
        raise PromptError(f"The class name {classname!r} has no tokens; use words the tokenizer knows.")
    if tokenizer.sos in tokens or tokenizer.eot in tokens:
        raise PromptError(f"The class name {classname!r} contains the start or end token of the text tower.")
    return tokens


def check_length(classname: str, length: int, context_length: int) -> None:
    """Refuse a prompt that does not fit the tower; it is never truncated.

    Args:
        classname: the class, for the message.
        length: positions of its prompt, SOS and EOT included.
        context_length: positions of the tower.

    Raises:
        PromptError: naming the class and its length.
    """
    if length > context_length:
        raise PromptError(
            f"The prompt of class {classname!r} has {length} tokens, more than the text tower's "
            f"{context_length}; shorten the name, the template or the context."
        )
