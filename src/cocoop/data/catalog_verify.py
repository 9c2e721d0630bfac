"""Is a data set of the catalog complete? What is listed against what is on disk, and against what was published."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cocoop.data.catalog import CatalogEntry, Place, class_folders
from cocoop.data.catalog_read import class_folder_splits, read_catalog
from cocoop.data.dataset import SPLITS
from cocoop.data.rows import Listing
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
    folders = _missing_class_folders(entry, place)
    if folders:
        return Verification(problems=(_lacking("folders", folders),), missing=folders, sizes=(0, 0, 0), classes=0)
    try:
        listing = read_catalog(entry, place)
    except DataError as error:
        return Verification(problems=(str(error),), missing=(), sizes=(0, 0, 0), classes=0)
    missing = _missing_photos(listing, place.photos)
    counts = Counter(row.split for row in listing.rows)
    sizes = (counts["train"], counts["val"], counts["test"])
    problems = [_lacking("photos", missing)] if missing else []
    if len(listing.classes) != entry.classes:
        problems.append(f"There are {len(listing.classes)} classes; {entry.title} has {entry.classes}.")
    for split, seen, published in zip(SPLITS, sizes, entry.sizes, strict=True):
        if seen != published:
            problems.append(f"There are {seen:,} photos of {split}; {entry.title} has {published:,}.")
    return Verification(problems=tuple(problems), missing=missing, sizes=sizes, classes=len(listing.classes))


def _lacking(what: str, names: tuple[str, ...]) -> str:
    return f"{len(names):,} {what} are missing."


def _missing_class_folders(entry: CatalogEntry, place: Place) -> tuple[str, ...]:
    """Class folders of ImageNet and its variants that are absent; `train` or `val` counts as one if it is whole."""
    if entry.rule is None or not entry.rule.startswith("imagenet") or not place.photos.is_dir():
        return ()
    missing: list[str] = []
    for folder, _ in class_folder_splits(entry.rule, place.photos):
        if not folder.is_dir():
            missing.append(f"{folder.name}/")
            continue
        absent = [name for name, _ in class_folders(entry.rule) if not (folder / name).is_dir()]
        missing += [f"{(folder / name).relative_to(place.photos).as_posix()}/" for name in absent]
    return tuple(missing)


def _missing_photos(listing: Listing, photos: Path) -> tuple[str, ...]:
    """Listed photos that are absent or empty; every folder is read once."""
    by_folder: dict[str, list[str]] = {}
    for row in listing.rows:
        folder, _, name = row.path.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    missing: list[str] = []
    for folder, names in by_folder.items():
        present = _with_content(photos / folder)
        missing += [f"{folder}/{name}".lstrip("/") for name in names if name not in present]
    return tuple(missing)


def _with_content(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_file() and entry.stat().st_size > 0}
