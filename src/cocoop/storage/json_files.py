"""JSON files, written atomically and verified by a checksum when they are read.

Files that people may edit, such as config.json, carry no checksum and are read without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cocoop.errors import CheckpointError
from cocoop.storage.atomic import write_atomic
from cocoop.storage.hashing import hash_content

__all__ = [
    "CHECKSUM",
    "json_bytes",
    "parse_json_object",
    "read_json",
    "read_json_lines",
    "write_json",
    "write_json_lines",
]

CHECKSUM = "checksum"
"""Key of the entry that holds the SHA-256 of all other entries."""

# A file name that is not valid UTF-8 holds lone surrogates; this writes them as JSON escapes.
_SURROGATES = "backslashreplace"


def write_json(path: Path, content: Mapping[str, Any], *, with_checksum: bool = False) -> None:
    """Write an object as indented JSON.

    Args:
        path: the file.
        content: the object.
        with_checksum: add a checksum, which `read_json` verifies and removes.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    write_atomic(path, json_bytes(content, with_checksum=with_checksum))


def json_bytes(content: Mapping[str, Any], *, with_checksum: bool = False) -> bytes:
    """Return the bytes that `write_json` writes."""
    content = _add_checksum(content) if with_checksum else content
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors=_SURROGATES)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, each with a checksum.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    text = "".join(json.dumps(_add_checksum(row), ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, text.encode(errors=_SURROGATES))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: if the file is missing, damaged or not a JSON object.
    """
    return parse_json_object(path, _read_text(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line.

    Raises:
        CheckpointError: if the file is missing or damaged, or a line is not a JSON object.
    """
    return [parse_json_object(path, line) for line in _read_text(path).split("\n") if line]


def parse_json_object(name: Path | str, text: str) -> dict[str, Any]:
    """Parse a JSON object, and verify and remove its checksum if it has one.

    Args:
        name: name of the file, for messages.
        text: its content.

    Raises:
        CheckpointError: if the text is not a JSON object, or the checksum does not match.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise CheckpointError(f"'{name}' must hold a JSON object, not {type(content).__name__}.")
        checksum = content.pop(CHECKSUM, None)
        # The key of the checksum may itself be damaged.
        renamed = checksum is None and any(_is_checksum(content, key) for key in content)
        is_valid = not renamed and (checksum is None or checksum == _checksum(content))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{name}' is damaged: {error}.") from error
    if not is_valid:
        raise CheckpointError(
            f"'{name}' is damaged: its checksum does not match. If you edited it on purpose, delete the entry "
            f"{CHECKSUM!r}."
        )
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"Cannot read '{path}': {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error


def _add_checksum(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, CHECKSUM: _checksum(content)}


def _is_checksum(content: Mapping[str, Any], key: str) -> bool:
    """Return True if the entry `key` holds the checksum of all other entries."""
    if not isinstance(content[key], str) or len(content[key]) != 64:
        return False
    return bool(content[key] == _checksum({other: value for other, value in content.items() if other != key}))


def _checksum(content: Mapping[str, Any]) -> str:
    # Round-trip, so that integer keys and tuples hash as the strings and lists that a reader gets.
    plain = json.loads(json.dumps(content))
    return hash_content(json.dumps(plain, sort_keys=True))
