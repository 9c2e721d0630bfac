"""Atomic file writes, and the temporary files that an interrupted write leaves behind."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from cocoop.errors import CheckpointError

__all__ = ["make_directory", "remove_stale_files", "remove_temporary_files", "sync_directory", "write_atomic"]

STALE_AFTER = 24 * 60 * 60
"""Age in seconds at which a temporary file is considered abandoned."""


def make_directory(directory: Path) -> None:
    """Create a directory and its parents; do nothing if it exists.

    Raises:
        CheckpointError: if it cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"Cannot create the directory '{directory}': {error.strerror or error}.") from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers, and a crash, see either the old content or the new one.

    Raises:
        CheckpointError: if the file cannot be written; the old one stays.
    """
    make_directory(path.parent)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; give this one the permissions of an ordinary file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise CheckpointError(f"Cannot write '{path}': {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(directory: Path, names: Iterable[str]) -> None:
    """Remove the temporary files of interrupted writes; no other process may be writing these files."""
    for name in names:
        for temporary in directory.glob(f".{name}.*"):
            temporary.unlink(missing_ok=True)


def remove_stale_files(directory: Path, pattern: str) -> None:
    """Remove temporary files that were abandoned at least a day ago; other processes may be writing.

    Args:
        directory: the directory; may be missing.
        pattern: glob pattern of the final file names, such as `*.json`.
    """
    for temporary in directory.glob(f".{pattern}.*"):
        # Another process may remove it first.
        with contextlib.suppress(OSError):
            if time.time() - temporary.stat().st_mtime > STALE_AFTER:
                temporary.unlink()


def sync_directory(directory: Path) -> None:
    """Flush a directory entry to disk (no-op where the OS cannot)."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems do not support it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
