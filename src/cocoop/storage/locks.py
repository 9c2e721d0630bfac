"""Locks between processes on one machine; the operating system releases the locks of a process that died."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from cocoop.errors import CheckpointError
from cocoop.storage.atomic import make_directory

__all__ = ["try_lock"]


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Acquire a lock without waiting, and release it at the end of the block.

    Args:
        path: the lock file; created if missing, and never removed.

    Yields:
        True if the lock was acquired, False if another process holds it.

    Raises:
        CheckpointError: if the lock file cannot be written.
    """
    make_directory(path.parent)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise CheckpointError(f"Cannot write in '{path.parent}': {error.strerror or error}.") from error
    try:
        yield True
    finally:
        lock.release()
