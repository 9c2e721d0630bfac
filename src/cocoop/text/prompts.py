"""Class names as tokens of a prompt, and what makes them unusable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cocoop.errors import PromptError

__all__ = [
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
    highest: int
    """The last word of the vocabulary, start and end token not counted."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, neither truncated nor padded."""

    def decode(self, ids: list[int]) -> str:
        """The text of token ids, up to white space."""

    def piece(self, token: int) -> str:
        """One token as text."""


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
    for count, name in enumerate(names):
        clean = prompt_name(name)
        if not clean:
            raise PromptError(f"The class name {name!r} is empty; every class needs a name that can be read.")
        # CLIP's tokenizer lower-cases.
        other = seen.setdefault(clean.lower(), name)
        if len(seen) == count:
            raise PromptError(f"Two classes would have the same prompt: {other!r} and {name!r}. Rename or merge them.")
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
