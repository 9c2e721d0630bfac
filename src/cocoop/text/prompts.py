"""Class names as tokens of a prompt."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cocoop.errors import PromptError

__all__ = ["Tokenizer", "check_classnames", "check_length", "clean_name", "name_tokens", "text_tokens"]


@runtime_checkable
class Tokenizer(Protocol):
    """Tokenizer of the text tower; `encode` adds neither SOS nor EOT."""

    sos: int
    eot: int
    highest: int
    """Highest id of an ordinary token, SOS and EOT excluded."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, neither truncated nor padded."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids; white space may differ."""

    def piece(self, token: int) -> str:
        """Return the text of one token."""


def clean_name(name: str) -> str:
    """Return a class name as it appears in prompts: `hot_dog` becomes `hot dog`.

    Underscores become spaces and runs of white space one space. Unicode is composed (NFC), because some file systems
    return decomposed names, which tokenize differently.
    """
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())


def check_classnames(classnames: Sequence[str]) -> tuple[str, ...]:
    """Check that class names can be used in prompts, and return them as a tuple.

    Raises:
        PromptError: if there are none, one is empty, or two give the same prompt.
    """
    if isinstance(classnames, str):
        raise PromptError(f"Class names must be a list of strings, not one string: [{classnames!r}].")
    names = tuple(classnames)
    if not names:
        raise PromptError("There are no class names; give at least one.")
    first: dict[str, str] = {}
    for name in names:
        clean = clean_name(name)
        if not clean:
            raise PromptError(f"The class name {name!r} is empty; give every class a name.")
        # CLIP's tokenizer ignores case.
        if clean.lower() in first:
            other = first[clean.lower()]
            raise PromptError(f"Two classes would have the same prompt: {other!r} and {name!r}. Rename or merge them.")
        first[clean.lower()] = name
    return names


def name_tokens(tokenizer: Tokenizer, classname: str) -> tuple[list[int], list[int]]:
    """Return the tokens of `<name>.` in two lists: the name, and the full stop with anything merged into its token.

    Raises:
        PromptError: if the name has no tokens, or contains SOS or EOT.
    """
    name = clean_name(classname)
    tokens = text_tokens(tokenizer, f"{name}.", classname)
    length = len(tokenizer.encode(name))
    return tokens[:length], tokens[length:]


def text_tokens(tokenizer: Tokenizer, text: str, classname: str) -> list[int]:
    """Return the tokens of a text.

    Raises:
        PromptError: naming the class, if there are no tokens, or SOS or EOT is among them.
    """
    tokens = tokenizer.encode(text)
    if not tokens:
        raise PromptError(f"The class name {classname!r} has no tokens; use words that the tokenizer knows.")
    if tokenizer.sos in tokens or tokenizer.eot in tokens:
        raise PromptError(f"The class name {classname!r} contains the start or end token of the text tower.")
    return tokens


def check_length(classname: str, length: int, context_length: int) -> None:
    """Check that a prompt fits the tower; prompts are never truncated.

    Args:
        classname: the class, for the message.
        length: number of tokens in its prompt, SOS and EOT included.
        context_length: maximum number of tokens in the tower.

    Raises:
        PromptError: if the prompt is too long.
    """
    if length > context_length:
        raise PromptError(
            f"The prompt of class {classname!r} has {length} tokens, more than the text tower's "
            f"{context_length}; shorten the name, the template or the context."
        )
