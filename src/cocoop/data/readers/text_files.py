"""Small text files, with errors that name file and line."""

from __future__ import annotations

from pathlib import Path

from cocoop.errors import DataError

__all__ = ["line_of", "read_text"]


def read_text(path: Path, kind: str) -> str:
    """Read a UTF-8 file, with or without the byte order mark that spreadsheets write; `kind` is for error messages."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"The {kind} '{path}' is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})."
            " Save it as 'CSV UTF-8' or 'UTF-8' in the program that wrote it."
        ) from error
    except OSError as error:
        raise DataError(f"The {kind} '{path}' cannot be read: {error.strerror or error}.") from error


def line_of(path: Path, number: int) -> str:
    """Return a line's position for error messages, counted from 1: `labels.csv, line 3`."""
    return f"{path.name}, line {number}"
