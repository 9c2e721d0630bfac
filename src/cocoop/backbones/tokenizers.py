"""Tokenizers: open_clip's with CLIP's vocabulary, and those in Hugging Face directories.

Each cleans text as its library does: open_clip repairs broken Unicode, resolves HTML entities and straightens curly
quotes, and transformers does not. Both give the same ids for ordinary text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cocoop.backbones.transformers_import import import_transformers
from cocoop.errors import BackboneError, one_line

__all__ = ["ClipTokenizer", "TransformersTokenizer", "check_tokenizer", "clip_tokenizer", "open_clip_tokenizer"]

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
"""Vocabulary files, one of which must exist; without any, transformers creates an empty tokenizer."""

CLEANING = ("lower", "whitespace", "canonicalize")
"""Text cleaning modes of open_clip."""

WORD_END = "</w>"
"""Suffix of tokens that end a word in CLIP's vocabulary."""


class ClipTokenizer:
    """Byte-pair encoding of open_clip with CLIP's vocabulary.

    Args:
        settings: keyword arguments of open_clip's `SimpleTokenizer`.
    """

    def __init__(self, **settings: Any) -> None:
        import open_clip

        self.library = open_clip.SimpleTokenizer(**settings)
        self.sos: int = self.library.sot_token_id
        self.eot: int = self.library.eot_token_id
        special = set(self.library.all_special_ids)
        self.highest: int = max(i for i in self.library.encoder.values() if i not in special)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, neither truncated nor padded."""
        ids: list[int] = self.library.encode(text)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, with a space after each token that ends a word."""
        text: str = self.library.decode(ids)
        return text

    def piece(self, token: int) -> str:
        """Return one token as text, with a dash if the word continues."""
        text = self.decode([token])
        return text.rstrip() if text.endswith(" ") else f"{text}-"


class TransformersTokenizer:
    """Hugging Face tokenizer that adds one start token and one end token to a text.

    Args:
        directory: directory with the tokenizer's files.
        source: name of the model, for messages.
        clean: function that cleans a text before it is tokenized.

    Raises:
        BackboneError: if the tokenizer is missing or damaged, or does not add exactly these two tokens.
    """

    def __init__(self, directory: Path, source: str, clean: Callable[[str], str] | None = None) -> None:
        transformers = import_transformers(f"The tokenizer of {source}")
        if not any((directory / name).is_file() for name in VOCABULARIES):
            raise BackboneError(
                f"{source} has no tokenizer: '{directory}' has none of {', '.join(VOCABULARIES)}. Save the tokenizer "
                "of the model there with its `save_pretrained`."
            )
        try:
            self.library = transformers.AutoTokenizer.from_pretrained(
                str(directory), local_files_only=True, trust_remote_code=False
            )
        # Three libraries read the files, and the Rust one raises plain Exceptions.
        except Exception as error:
            raise BackboneError(f"The tokenizer in '{directory}' is damaged: {one_line(error)}.") from error
        # Avoids a warning; nothing is truncated, and prompt lengths are checked elsewhere.
        self.library.model_max_length = sys.maxsize
        added = list(self.library("")["input_ids"])
        if len(added) != 2:
            raise BackboneError(
                f"The tokenizer of {source} adds {len(added)} tokens to a text; prompt learning needs a start and an "
                "end token, and no others."
            )
        self.sos: int = added[0]
        self.eot: int = added[1]
        special = set(self.library.all_special_ids)
        vocabulary = self.library.get_vocab()
        self.highest: int = max(i for i in vocabulary.values() if i not in special)
        self._marks_ends = any(token.endswith(WORD_END) for token in vocabulary)
        self._clean = clean

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`, neither truncated nor padded."""
        clean = self._clean(text) if self._clean else text
        return list(self.library(clean, add_special_tokens=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids."""
        return str(self.library.decode(ids, clean_up_tokenization_spaces=False))

    def piece(self, token: int) -> str:
        """Return one token as text, with a dash if the word continues, as far as the vocabulary marks word ends."""
        continues = self._marks_ends and not self.library.convert_ids_to_tokens(token).endswith(WORD_END)
        return f"{self.decode([token]).strip()}{'-' if continues else ''}"


@cache
def clip_tokenizer() -> ClipTokenizer:
    """Return CLIP's own tokenizer, as OpenAI and open_clip use it."""
    return ClipTokenizer()


def open_clip_tokenizer(text: Any, fetch: Callable[[str], Path], source: str) -> ClipTokenizer | TransformersTokenizer:
    """Load the tokenizer of an open_clip configuration.

    Args:
        text: open_clip's `CLIPTextCfg`.
        fetch: function from the name of a hub repository to a directory with its tokenizer.
        source: name of the model, for messages.

    Raises:
        BackboneError: if it cannot be loaded or used.
    """
    settings: Mapping[str, Any] = text.tokenizer_kwargs or {}
    # Only these settings are passed on: a published file must not trigger the download and execution of code.
    unknown = settings.keys() - {"clean", "additional_special_tokens", "strip_sep_token", "reduction_mask"}
    if unknown or settings.get("clean", "lower") not in CLEANING:
        raise BackboneError(f"{source} has tokenizer settings that cocoop does not support: {dict(settings)}.")
    if not text.hf_tokenizer_name:
        used = {name: settings[name] for name in ("clean", "additional_special_tokens") if name in settings}
        return ClipTokenizer(**used) if used else clip_tokenizer()
    if getattr(text, "tokenizer_mode", None) or settings.get("strip_sep_token"):
        raise BackboneError(f"The tokenizer of {source} does not end a text with an end token, which prompts need.")
    from open_clip.tokenizer import get_clean_fn

    clean = get_clean_fn(settings.get("clean", "whitespace"))
    return TransformersTokenizer(fetch(text.hf_tokenizer_name), source, clean)


def check_tokenizer(
    tokenizer: ClipTokenizer | TransformersTokenizer, vocab_size: int, eot: int | None, source: str
) -> None:
    """Check that a tokenizer fits the text tower.

    Args:
        tokenizer: tokenizer of the model.
        vocab_size: number of rows of the tower's token embedding.
        eot: token at which the library reads the text feature; None: the highest token of the text.
        source: name of the model, for messages.

    Raises:
        BackboneError: if they disagree.
    """
    highest = max(tokenizer.highest, tokenizer.sos, tokenizer.eot)
    if highest >= vocab_size:
        raise BackboneError(
            f"The tokenizer of {source} has token ids up to {highest}, but its text tower has {vocab_size} embeddings."
        )
    if tokenizer.eot <= tokenizer.highest if eot is None else tokenizer.eot != eot:
        read = "the highest token in it" if eot is None else f"token {eot}"
        raise BackboneError(
            f"{source} reads the text feature at {read}, but its tokenizer ends a text with token {tokenizer.eot}."
        )
