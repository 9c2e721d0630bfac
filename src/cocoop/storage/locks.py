"""Locks against other processes on this machine; the system lets go of what a dead one held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from cocoop.errors import CheckpointError
from cocoop.storage.files import make_directory

__all__ = ["try_lock"]


@contextmanager
def try_lock(lock: Path) -> Iterator[bool]:
    """Hold a lock, without waiting for it.

    Args:
        lock: the file that stands for it; made if it is missing, and stays.

    Yields:
        Whether it is held; False if another process holds it.

    Raises:
        CheckpointError: if the disk refuses.
    """
    make_directory(lock.parent)
    own = filelock.FileLock(lock)
    try:
        own.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except OSError as error:
        raise CheckpointError(f"Cannot write in '{lock.parent}': {error.strerror or error}.") from error
    try:
        yield True
    finally:
        own.release()
