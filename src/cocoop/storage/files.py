"""Files that are written whole or not at all, and checked when they are read.

A record of the program's own carries a checksum of its content, so that one flipped digit is noticed. What people may
edit (config.json) carries none, nor do files of older versions; both are read as they are.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cocoop.errors import CheckpointError

__all__ = [
    "CHECKSUM",
    "cache_directory",
    "json_bytes",
    "make_directory",
    "parse_json_object",
    "read_json",
    "read_json_lines",
    "remove_stale_files",
    "remove_temporary_files",
    "sha256_of_file",
    "sync_directory",
    "write_atomic",
    "write_json",
    "write_json_lines",
]


CHECKSUM = "checksum"
"""The entry of a sealed JSON object that holds the SHA-256 of the others."""

ABANDONED = 24 * 60 * 60
"""Seconds after which nobody is writing a file any more."""

# A file name that is no text holds lone surrogates; this turns them into JSON's own escapes.
_ODD_NAMES = "backslashreplace"


def cache_directory() -> Path:
    """Where is kept what can be made anew: `$COCOOP_CACHE`, or `cocoop` in the user's cache folder."""
    own = os.environ.get("COCOOP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cocoop"


def make_directory(directory: Path) -> None:
    """Make a folder and those above it; one that exists already is fine.

    Raises:
        CheckpointError: if the disk refuses, or a file is in the way.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"Cannot write the folder '{directory}': {error.strerror or error}.") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path`; a reader, or a crash, meets the old file or the new one, never a part.

    Raises:
        CheckpointError: if the disk refuses, naming the file; the old one stays.
    """
    make_directory(path.parent)
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
        sync_directory(path.parent)
    except OSError as error:
        raise CheckpointError(f"Cannot write '{path}': {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(directory: Path, names: Iterable[str]) -> None:
    """Remove what a process that was killed in `write_whole` has left, where nobody else writes these files now."""
    for name in names:
        for unfinished in directory.glob(f".{name}.*"):
            unfinished.unlink(missing_ok=True)


def remove_stale_files(directory: Path, names: str) -> None:
    """Remove what processes that were killed in `write_whole` have left, where others may write now.

    Args:
        folder: need not exist.
        names: pattern of the files that were to be written.
    """
    for unfinished in directory.glob(f".{names}.*"):
        # Who writes takes seconds; another process may remove it first.
        with contextlib.suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > ABANDONED:
                unfinished.unlink()


def write_json(path: Path, content: Mapping[str, Any], *, with_checksum: bool = False) -> None:
    """Write a JSON object, readable by people.

    Args:
        path: of the file.
        content: the object.
        sealed: add a checksum, which `read_json` verifies and takes away: for what nobody should edit.

    Raises:
        CheckpointError: if the disk refuses.
    """
    write_atomic(path, json_bytes(content, with_checksum=with_checksum))


def json_bytes(content: Mapping[str, Any], *, with_checksum: bool = False) -> bytes:
    """What `write_json` writes, for other places than this machine's disk."""
    content = _sealed(content) if with_checksum else content
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors=_ODD_NAMES)


def parse_json_object(name: Path | str, text: str) -> dict[str, Any]:
    """A JSON object, without its checksum if it has one.

    Args:
        name: of the file, for messages.
        text: its content.

    Raises:
        CheckpointError: if it is something else, or the checksum is another content's.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise CheckpointError(f"'{name}' must hold a JSON object, not {type(content).__name__}.")
        checksum = content.pop(CHECKSUM, None)
        # The damage may be in the name of the checksum.
        lost = checksum is None and any(_is_checksum(content, name) for name in content)
        fits = not lost and (checksum is None or checksum == _checksum(content))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{name}' is damaged: {error}.") from error
    if not fits:
        raise CheckpointError(
            f"'{name}' is damaged: its checksum is that of another content. If it was edited on purpose, take the "
            f"entry {CHECKSUM!r} out of it."
        )
    return content


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, each with a checksum.

    Raises:
        CheckpointError: if the disk refuses.
    """
    text = "".join(json.dumps(_sealed(row), ensure_ascii=False) + "\n" for row in rows)
    write_atomic(path, text.encode(errors=_ODD_NAMES))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    return parse_json_object(path, _text(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    return [parse_json_object(path, line) for line in _text(path).split("\n") if line]


def sha256_of_file(path: Path) -> str:
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


def sync_directory(directory: Path) -> None:
    """Have the disk keep what was renamed in a folder, where the system can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        # Not every system lets a folder be opened; the rename is atomic there too, only less durable.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Nor does every file system know what it means; what fails otherwise is the disk.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
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


def _is_checksum(content: Mapping[str, Any], name: str) -> bool:
    """Whether an entry is the checksum of the others, whatever it is called."""
    if not isinstance(content[name], str) or len(content[name]) != 64:
        return False
    return bool(content[name] == _checksum({other: value for other, value in content.items() if other != name}))


def _checksum(content: Mapping[str, Any]) -> str:
    # As it is read again: keys are text there, and tuples are lists.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
