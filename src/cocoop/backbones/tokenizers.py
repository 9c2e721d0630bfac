"""Tokenizers: open_clip's with CLIP's vocabulary, and those that come with Hugging Face folders.

Each cleans text as its own library does. open_clip repairs broken Unicode, resolves HTML entities and straightens curly
quotes; transformers, with the same vocabulary, does none of this. Ordinary text gives the same ids.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cocoop.backbones.extra import import_transformers
from cocoop.errors import BackboneError, one_line

__all__ = ["ClipTokenizer", "TransformersTokenizer", "check_tokenizer", "clip_tokenizer", "open_clip_tokenizer"]

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
"""A tokenizer's folder has at least one of these; without any, transformers makes a tokenizer that knows nothing."""

CLEANING = ("lower", "whitespace", "canonicalize")
"""open_clip's ways to clean text."""

WORD_END = "</w>"
"""What CLIP's vocabulary writes after a token that ends a word."""


class ClipTokenizer:
    """open_clip's byte-pair encoding with CLIP's vocabulary.

    Args:
        settings: of open_clip's `SimpleTokenizer`.
    """

    def __init__(self, **settings: Any) -> None:
        import open_clip

        self.library = open_clip.SimpleTokenizer(**settings)
        self.sos: int = self.library.sot_token_id
        self.eot: int = self.library.eot_token_id
        special = set(self.library.all_special_ids)
        self.highest: int = max(i for i in self.library.encoder.values() if i not in special)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, neither truncated nor padded."""
        ids: list[int] = self.library.encode(text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of token ids; a space stands where a token ends a word."""
        text: str = self.library.decode(ids)
        return text

    def piece(self, token: int) -> str:
        """One token as text; a dash follows where the word goes on."""
        text = self.decode([token])
        return text.rstrip() if text.endswith(" ") else f"{text}-"


class TransformersTokenizer:
    """A Hugging Face tokenizer that puts one token before a text and one after it.

    Args:
        folder: with the tokenizer's files.
        source: the model's name, for messages.
        clean: applied to a text first.

    Raises:
        BackboneError: if the folder has no tokenizer, or a damaged one, or one that puts something else around a text.
    """

    def __init__(self, directory: Path, source: str, clean: Callable[[str], str] | None = None) -> None:
        transformers = import_transformers(f"The tokenizer of {source}")
        if not any((directory / name).is_file() for name in VOCABULARIES):
            raise BackboneError(
                f"{source} comes without a tokenizer: '{directory}' has none of {', '.join(VOCABULARIES)}. Save the "
                "one that the model was trained with there (its `save_pretrained`)."
            )
        try:
            self.library = transformers.AutoTokenizer.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
        # Three libraries read the files, and the one in Rust raises plain Exceptions.
        except Exception as error:
            raise BackboneError(f"The tokenizer in '{directory}' is damaged: {one_line(error)}.") from error
        # Only the limit of a warning: nothing is truncated here, and prompts are measured elsewhere.
        self.library.model_max_length = sys.maxsize
        around = list(self.library("")["input_ids"])
        if len(around) != 2:
            raise BackboneError(
                f"The tokenizer of {source} puts {len(around)} tokens around a text, not 2: prompt learning needs a "
                "start token before it and an end token after it."
            )
        self.sos: int = around[0]
        self.eot: int = around[1]
        special = set(self.library.all_special_ids)
        vocabulary = self.library.get_vocab()
        self.highest: int = max(i for i in vocabulary.values() if i not in special)
        self._marks_ends = any(token.endswith(WORD_END) for token in vocabulary)
        self._clean = clean

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, neither truncated nor padded."""
        clean = self._clean(text) if self._clean else text
        return list(self.library(clean, add_special_tokens=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """The text of token ids."""
        return str(self.library.decode(ids, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        """One token as text; a dash follows where the word goes on, if the vocabulary tells (as CLIP's does)."""
        goes_on = self._marks_ends and not self.library.convert_ids_to_tokens(token).endswith(WORD_END)
        return f"{self.decode([token]).strip()}{'-' if goes_on else ''}"


@cache
def clip_tokenizer() -> ClipTokenizer:
    """CLIP's own, as OpenAI and open_clip use it."""
    return ClipTokenizer()


def open_clip_tokenizer(text: Any, fetch: Callable[[str], Path], source: str) -> ClipTokenizer | TransformersTokenizer:
    """The tokenizer that an open_clip configuration asks for.

    Args:
        text: open_clip's `CLIPTextCfg`.
        fetch: from the name of a hub repository to a folder with its tokenizer.
        source: the model's name, for messages.

    Raises:
        BackboneError: if it cannot be loaded, or is of a kind that cannot be used.
    """
    settings: Mapping[str, Any] = text.tokenizer_kwargs or {}
    # Only what is known is passed on: a published file must not decide, say, that code is downloaded and run.
    unknown = settings.keys() - {"clean", "additional_special_tokens", "strip_sep_token", "reduction_mask"}
    if unknown or settings.get("clean", "lower") not in CLEANING:
        raise BackboneError(f"{source} asks for a tokenizer with settings that cocoop does not know: {dict(settings)}.")
    if not text.hf_tokenizer_name:
        used = {name: settings[name] for name in ("clean", "additional_special_tokens") if name in settings}
        return ClipTokenizer(**used) if used else clip_tokenizer()
    if getattr(text, "tokenizer_mode", None) or settings.get("strip_sep_token"):
        raise BackboneError(f"The tokenizer of {source} does not end a text with a token of its own, as a prompt must.")
    from open_clip.tokenizer import get_clean_fn

    clean = get_clean_fn(settings.get("clean", "whitespace"))
    return TransformersTokenizer(fetch(text.hf_tokenizer_name), source, clean)


def check_tokenizer(
    tokenizer: ClipTokenizer | TransformersTokenizer, vocab_size: int, eot: int | None, source: str
) -> None:
    """Refuse a tokenizer that does not belong to a text tower.

    Args:
        tokenizer: of the model.
        vocab_size: rows of the tower's token embedding.
        eot: the token at which the library reads a text; None: the highest one in it.
        source: the model's name, for messages.

    Raises:
        BackboneError: saying what does not agree.
    """
    highest = max(tokenizer.highest, tokenizer.sos, tokenizer.eot)
    if highest >= vocab_size:
        raise BackboneError(
            f"The tokenizer of {source} counts tokens up to {highest}, but its text tower knows only {vocab_size}."
        )
    if tokenizer.eot <= tokenizer.highest if eot is None else tokenizer.eot != eot:
        read = "the highest token in it" if eot is None else f"token {eot}"
        raise BackboneError(f"{source} reads a text at {read}, but its tokenizer ends it with token {tokenizer.eot}.")
