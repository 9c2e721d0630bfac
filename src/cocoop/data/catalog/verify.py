"""Is a data set of the catalog complete? What is listed against what is on disk, and against what was published."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry, Place, class_directories
from cocoop.data.catalog.read import class_directory_splits, read_catalog
from cocoop.data.dataset import SPLITS
from cocoop.data.readers.rows import Listing
from cocoop.errors import DataError

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a check found."""

    problems: tuple[str, ...]
    """What is wrong, a sentence each; none if the data set is complete."""
    missing: tuple[str, ...]
    """Photos and class folders that should be there, relative to the photos' folder, and photos without content."""
    sizes: tuple[int, int, int]
    """Photos listed: train, val, test."""
    classes: int
    """Classes listed."""

    @property
    def complete(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(entry: CatalogEntry, place: Place) -> Verification:
    """Check a data set's layout, lists, checksums of lists, numbers of photos and classes; no photo is opened.

    Args:
        entry: the data set.
        place: where it should be.

    Returns:
        What was found; an absent data set is a problem too, not an error.
    """
    directories = _missing_class_directories(entry, place)
    if directories:
        return Verification(
            problems=(_lacking("directories", directories),), missing=directories, sizes=(0, 0, 0), classes=0
        )
    try:
        listing = read_catalog(entry, place)
    except DataError as error:
        return Verification(problems=(str(error),), missing=(), sizes=(0, 0, 0), classes=0)
    missing = _missing_images(listing, place.images)
    counts = Counter(row.split for row in listing.rows)
    sizes = (counts["train"], counts["val"], counts["test"])
    problems = [_lacking("images", missing)] if missing else []
    if len(listing.classes) != entry.classes:
        problems.append(f"There are {len(listing.classes)} classes; {entry.title} has {entry.classes}.")
    for split, seen, published in zip(SPLITS, sizes, entry.sizes, strict=True):
        if seen != published:
            problems.append(f"There are {seen:,} photos of {split}; {entry.title} has {published:,}.")
    return Verification(problems=tuple(problems), missing=missing, sizes=sizes, classes=len(listing.classes))


def _lacking(what: str, names: tuple[str, ...]) -> str:
    return f"{len(names):,} {what} are missing."


def _missing_class_directories(entry: CatalogEntry, place: Place) -> tuple[str, ...]:
    """Class folders of ImageNet and its variants that are absent; `train` or `val` counts as one if it is whole."""
    if entry.rule is None or not entry.rule.startswith("imagenet") or not place.images.is_dir():
        return ()
    missing: list[str] = []
    for directory, _ in class_directory_splits(entry.rule, place.images):
        if not directory.is_dir():
            missing.append(f"{directory.name}/")
            continue
        absent = [name for name, _ in class_directories(entry.rule) if not (directory / name).is_dir()]
        missing += [f"{(directory / name).relative_to(place.images).as_posix()}/" for name in absent]
    return tuple(missing)


def _missing_images(listing: Listing, images: Path) -> tuple[str, ...]:
    """Listed photos that are absent or empty; every folder is read once."""
    by_directory: dict[str, list[str]] = {}
    for row in listing.rows:
        directory, _, name = row.path.rpartition("/")
        by_directory.setdefault(directory, []).append(name)
    missing: list[str] = []
    for directory, names in by_directory.items():
        present = _with_content(images / directory)
        missing += [f"{directory}/{name}".lstrip("/") for name in names if name not in present]
    return tuple(missing)


def _with_content(directory: Path) -> set[str]:
    if not directory.is_dir():
        return set()
    with os.scandir(directory) as entries:
        return {entry.name for entry in entries if entry.is_file() and entry.stat().st_size > 0}
