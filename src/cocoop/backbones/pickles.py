"""Pickled weights, read by PyTorch without running anything that is in them."""

from __future__ import annotations

import contextlib
import mmap
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["check_names", "load_pickle"]

LONGEST_NAME = 1000
"""Characters of the name of a class or function."""

PICKLES = 5
"""In a file of before 2020, one after the other: a number, a version, facts of the system, the content, keys."""


def load_pickle(path: Path) -> Any:
    """What PyTorch's weights-only loader makes of a file.

    Raises:
        pickle.UnpicklingError: if it holds more than tensors and plain containers.
        Exception: of many kinds, if it is damaged.
    """
    check_names(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_names(path: Path) -> None:
    """Refuse a file in which names are too long to be names; called before any library reads it by PyTorch's loader.

    The loader puts the name of what it refuses into a message, and searches that by an expression whose time grows with
    the square of the length: a name of some MB takes it days.

    Args:
        path: an archive of PyTorch's, or a file of before 2020; in others, there are no names.

    Raises:
        pickle.UnpicklingError: for a name of more than 1,000 characters.
    """
    if any(len(name) > LONGEST_NAME for stream in _streams(path) for name in _names(stream)):
        raise pickle.UnpicklingError(f"it names something of more than {LONGEST_NAME:,} characters")


def _names(stream: Any) -> Iterator[str]:
    """Classes and functions that the pickles of a stream name."""
    # Where it is no pickle, or no more, the loader will say so.
    with contextlib.suppress(Exception):
        for _ in range(PICKLES):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    yield str(argument)


def _streams(path: Path) -> Iterator[Any]:
    """What may hold pickles in a file."""
    if zipfile.is_zipfile(path):
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as file:
                        yield file
    elif path.stat().st_size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content
