"""Files that are written whole or not at all, and checked when they are read.

A record of the program's own carries a checksum of its content, so that one flipped digit is noticed. What people may
edit (config.json) carries none, nor do files of older versions; both are read as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cocoop.errors import CheckpointError

__all__ = [
    "CHECKSUM",
    "cache_folder",
    "make_folder",
    "read_json",
    "read_json_lines",
    "remove_unfinished",
    "sha256_of",
    "sync_folder",
    "write_json",
    "write_json_lines",
    "write_whole",
]


CHECKSUM = "checksum"
"""The entry of a sealed JSON object that holds the SHA-256 of the others."""

# A file name that is no text holds lone surrogates; this turns them into JSON's own escapes.
_ODD_NAMES = "backslashreplace"


def cache_folder() -> Path:
    """Where is kept what can be made anew: `$COCOOP_CACHE`, or `cocoop` in the user's cache folder."""
    own = os.environ.get("COCOOP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cocoop"


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; one that exists already is fine.

    Raises:
        CheckpointError: if the disk refuses, or a file is in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"Cannot write the folder '{folder}': {error.strerror or error}.") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`; a reader, or a crash, meets the old file or the new one, never a part.

    Raises:
        CheckpointError: if the disk refuses, naming the file; the old one stays.
    """
    make_folder(path.parent)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is private; what a user keeps has the usual permissions.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"Cannot write '{path}': {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Remove what a process that was killed in `write_whole` has left, where nobody else writes these files now."""
    for name in names:
        for unfinished in folder.glob(f".{name}.*"):
            unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any], *, sealed: bool = False) -> None:
    """Write a JSON object, readable by people.

    Args:
        path: of the file.
        content: the object.
        sealed: add a checksum, which `read_json` verifies and takes away: for what nobody should edit.

    Raises:
        CheckpointError: if the disk refuses.
    """
    content = _sealed(content) if sealed else content
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors=_ODD_NAMES))


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, each with a checksum.

    Raises:
        CheckpointError: if the disk refuses.
    """
    text = "".join(json.dumps(_sealed(row), ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, text.encode(errors=_ODD_NAMES))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    return _unsealed(path, _text(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    return [_unsealed(path, line) for line in _text(path).split("\n") if line]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise CheckpointError(f"Cannot read '{path}': {error.strerror or error}.") from error
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Have the disk keep what was renamed in a folder, where the system can."""
    # Not every system lets a folder be opened; the rename is atomic there too, only less durable.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"Cannot read '{path}': {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error


def _sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    return {**content, CHECKSUM: _checksum(content)}


def _unsealed(path: Path, text: str) -> dict[str, Any]:
    """A JSON object, without its checksum if it has one.

    Raises:
        CheckpointError: if it is something else, or the checksum is another content's.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' must hold a JSON object, not {type(content).__name__}.")
    checksum = content.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(content):
        raise CheckpointError(
            f"'{path}' is damaged: its checksum is that of another content. If it was edited on purpose, take the "
            f"entry {CHECKSUM!r} out of it."
        )
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    # As it is read again: keys are text there, and tuples are lists.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
