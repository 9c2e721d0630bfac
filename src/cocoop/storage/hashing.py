"""Hashes of files, bytes and text, in hexadecimal."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cocoop.errors import CheckpointError

__all__ = ["hash_content", "hash_file"]


def hash_content(content: str | bytes) -> str:
    """Return the SHA-256 of bytes, or of text in UTF-8."""
    # File names that are not valid UTF-8 reach Python as lone surrogates.
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the hash of a file's content.

    Args:
        path: the file.
        algorithm: a name that `hashlib.new` accepts.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"Cannot read '{path}': {error.strerror or error}.") from error
    return digest.hexdigest()
