"""Locks against other processes on this machine; the system lets go of what a dead one held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from cocoop.errors import CheckpointError
from cocoop.files import make_folder

__all__ = ["held"]


@contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Hold a lock, without waiting for it.

    Args:
        lock: the file that stands for it; made if it is missing, and stays.

    Yields:
        Whether it is held; False if another process holds it.

    Raises:
        CheckpointError: if the disk refuses.
    """
    make_folder(lock.parent)
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
