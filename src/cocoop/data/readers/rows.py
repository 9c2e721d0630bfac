"""What the readers share: rows of photos, the names of splits, and the split of data that have none."""

from __future__ import annotations

import posixpath
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cocoop.data.dataset import Split
from cocoop.errors import DataError

__all__ = ["SPLIT_NAMES", "Listing", "Row", "check_unique", "divide", "normal_path", "split_called"]

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Words for a split, in lower case, and the split they mean."""

TRAIN_SHARE, VAL_SHARE = 0.5, 0.2
"""Shares of a class for data without splits, as in the CoOp code; the rest is for testing."""


@dataclass(frozen=True)
class Row:
    """One photo, as a source lists it."""

    path: str
    """Relative to the image root, or absolute."""
    raw_class: str
    """The class, as the source spells it."""
    split: Split | None
    """None where the source has no splits."""
    where: str
    """Its place in the source, for messages."""


@dataclass(frozen=True)
class Listing:
    """What a reader found."""

    rows: list[Row]
    """The photos in the order of the source."""
    classes: list[str]
    """Raw class names in the order of their labels."""


def split_called(word: str, where: str) -> Split:
    """The split that a word means: train; val, valid or validation; test.

    Raises:
        DataError: if it means none.
    """
    split = SPLIT_NAMES.get(word.strip().lower())
    if split is None:
        raise DataError(f"{where}: unknown split {word!r}. Use 'train', 'val' or 'test'.")
    return split


def normal_path(text: str, where: str, *, image_root: Path, may_leave: bool) -> str:
    """Bring a listed path to one spelling, so that the same photo is recognised twice.

    Args:
        text: as listed; `\\` counts as `/`.
        where: its place in the source, for messages.
        image_root: absolute paths below it become relative to it.
        may_leave: whether absolute paths and `..` out of the image root are accepted.

    Raises:
        DataError: if the path is empty, a web address, or leaves the image root and may not.
    """
    slashed = text.strip().replace("\\", "/")
    if not slashed:
        raise DataError(f"{where}: the path is empty.")
    if "://" in slashed:
        raise DataError(f"{where}: {text!r} is a web address. Download the photos and list their files.")
    path = posixpath.normpath(slashed)
    absolute = PurePosixPath(path).is_absolute() or bool(PureWindowsPath(path).drive)
    if not may_leave and (absolute or path.split("/")[0] == ".."):
        raise DataError(
            f"{where}: {text!r} leads out of the image root."
            " Paths in a split file must be relative to it, without '..'."
        )
    if absolute and Path(path).is_relative_to(image_root.absolute()):
        return Path(path).relative_to(image_root.absolute()).as_posix()
    return path


def check_unique(rows: Sequence[Row]) -> None:
    """Check that no photo is listed twice: in two splits it would leak, in one it would count double.

    Raises:
        DataError: naming the photo and both places.
    """
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.path, row)
        if other is row:
            continue
        if other.split != row.split:
            problem = f"is in both {other.split} and {row.split}, so it would be learned and tested alike"
        elif other.raw_class != row.raw_class:
            problem = f"has two classes, {other.raw_class!r} and {row.raw_class!r}"
        else:
            problem = "is listed twice"
        raise DataError(f"The photo {row.path!r} {problem} ({other.where}; {row.where}). List it once.")


def divide(rows: Sequence[Row], seed: int, *, by: Callable[[Row], Any] = lambda row: row.path) -> list[Row]:
    """Split every class into about 50 % train, 20 % val and 30 % test.

    The photos of a class are sorted by path and shuffled with a generator of their own, so the split of a
    class depends on its photos and the seed alone: not on the order of a listing or on other classes. A class
    with two photos or more gets at least one in train and one in test; the only photo of a class goes to
    train.

    Args:
        rows: without splits.
        seed: of the shuffle.
        by: what a class is sorted by before it is shuffled, if not the path.

    Returns:
        The rows with their splits, class by class, sorted.
    """
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.raw_class, []).append(row)
    divided: list[Row] = []
    for members in by_class.values():
        members.sort(key=by)
        order = list(range(len(members)))
        random.Random(seed).shuffle(order)
        train_end = max(1, round(len(members) * TRAIN_SHARE))
        val_end = min(train_end + round(len(members) * VAL_SHARE), max(train_end, len(members) - 1))
        train, val = set(order[:train_end]), set(order[train_end:val_end])
        for position, row in enumerate(members):
            split: Split = "train" if position in train else "val" if position in val else "test"
            divided.append(replace(row, split=split))
    return divided
