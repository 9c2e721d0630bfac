"""Rows, paths and splits of images, shared by all readers."""

from __future__ import annotations

import posixpath
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cocoop.data.dataset import Split
from cocoop.errors import DataError

__all__ = ["SPLIT_NAMES", "Listing", "Row", "assign_splits", "check_unique", "normalize_path", "parse_split"]

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Accepted names of each split, in lower case."""

TRAIN_SHARE, VAL_SHARE = 0.5, 0.2
"""Shares of each class for data without splits, as in the CoOp code; the rest is for testing."""


@dataclass(frozen=True)
class Row:
    """One image of a source."""

    path: str
    """Path relative to the image root, or absolute."""
    raw_class: str
    """Class name as the source spells it."""
    split: Split | None
    """None if the source has no splits."""
    origin: str
    """Position in the source, for error messages."""


@dataclass(frozen=True)
class Listing:
    """Images and classes of a source."""

    rows: list[Row]
    """Images in the order of the source."""
    classes: list[str]
    """Raw class names in the order of their labels."""


def parse_split(word: str, origin: str) -> Split:
    """Return the split with an accepted name, in any case."""
    split = SPLIT_NAMES.get(word.strip().lower())
    if split is None:
        raise DataError(f"{origin}: unknown split {word!r}. Use 'train', 'val' or 'test'.")
    return split


def normalize_path(text: str, origin: str, *, image_root: Path, allow_outside: bool) -> str:
    """Normalise a path, so that an image that is listed under two spellings is recognised.

    Args:
        text: the path as listed; `\\` counts as `/`.
        origin: position in the source, for error messages.
        image_root: absolute paths below it become relative to it.
        allow_outside: accept absolute paths and paths that leave the image root through `..`.

    Raises:
        DataError: if the path is empty, a web address, or outside the image root without `allow_outside`.
    """
    slashed = text.strip().replace("\\", "/")
    if not slashed:
        raise DataError(f"{origin}: the path is empty.")
    if "://" in slashed:
        raise DataError(f"{origin}: {text!r} is a web address. Download the images and list their files.")
    path = posixpath.normpath(slashed)
    absolute = PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).drive)
    if not allow_outside and (absolute or path.split("/")[0] == ".."):
        raise DataError(
            f"{origin}: {text!r} is outside the image root. Paths in a split file must be relative to it, without '..'."
        )
    if absolute and Path(path).is_relative_to(image_root.absolute()):
        return Path(path).relative_to(image_root.absolute()).as_posix()
    return path


def check_unique(rows: Sequence[Row]) -> None:
    """Check that no image is listed twice."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is row:
            continue
        if other.split != row.split:
            problem = f"is in both {other.split} and {row.split}"
        elif other.raw_class != row.raw_class:
            problem = f"has two classes, {other.raw_class!r} and {row.raw_class!r}"
        else:
            problem = "is listed twice"
        raise DataError(f"The image {row.path!r} {problem} ({other.origin}; {row.origin}). List it once.")


def assign_splits(rows: Sequence[Row], seed: int, *, key: Callable[[Row], Any] = lambda row: row.path) -> list[Row]:
    """Divide every class into about 50 % train, 20 % val and 30 % test.

    The split of a class depends only on its own images and the seed, not on the order of the rows or on other classes.
    A class of two or more images has at least one in train and one in test; a single image goes to train.

    Args:
        rows: images without splits.
        seed: seed of the shuffle, the same for every class.
        key: sort key of the images of a class before they are shuffled.

    Returns:
        The rows with their splits, class by class, sorted by `key`.
    """
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.raw_class, []).append(row)
    result: list[Row] = []
    for members in by_class.values():
        members.sort(key=key)
        order = list(range(len(members)))
        random.Random(seed).shuffle(order)
        train_end = max(1, round(len(members) * TRAIN_SHARE))
        val_end = min(train_end + round(len(members) * VAL_SHARE), max(train_end, len(members) - 1))
        train, val = set(order[:train_end]), set(order[train_end:val_end])
        for position, row in enumerate(members):
            split: Split = "train" if position in train else "val" if position in val else "test"
            result.append(replace(row, split=split))
    return result
