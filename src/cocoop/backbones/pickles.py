"""Read pickled weights with PyTorch without executing anything in them."""

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
"""Longest name of a class or function, in characters."""

PICKLES = 5
"""Number of pickles in a file written before 2020: magic number, version, system, content and keys."""


def load_pickle(path: Path) -> Any:
    """Load a file with PyTorch's weights-only loader.

    Raises:
        pickle.UnpicklingError: if it holds anything but tensors and plain containers.
        Exception: of many kinds, if it is damaged.
    """
    check_names(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_names(path: Path) -> None:
    """Refuse a file with overlong class names, before PyTorch's loader reads it.

    The loader searches its error message, which contains the name, with a regular expression of quadratic time: a name
    of a few MB takes days.

    Args:
        path: a PyTorch archive, or a file written before 2020.

    Raises:
        pickle.UnpicklingError: for a name of more than 1,000 characters.
    """
    if any(len(name) > LONGEST_NAME for stream in _streams(path) for name in _names(stream)):
        raise pickle.UnpicklingError(f"it holds a class name of more than {LONGEST_NAME:,} characters")


def _names(stream: Any) -> Iterator[str]:
    """Yield the classes and functions that the pickles in a stream name."""
    # Damaged pickles are reported by the loader.
    with contextlib.suppress(Exception):
        for _ in range(PICKLES):
            for operation, argument, _ in pickletools.genops(stream):
                if operation.name == "GLOBAL":
                    yield str(argument)


def _streams(path: Path) -> Iterator[Any]:
    """Yield the parts of a file that may hold pickles."""
    if zipfile.is_zipfile(path):
        with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    with archive.open(name) as file:
                        yield file
    elif path.stat().st_size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content
