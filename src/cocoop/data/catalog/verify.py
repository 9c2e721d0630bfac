"""Check of a data set on disk against its lists and its published sizes."""

from __future__ import annotations

import functools
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.imagenet import class_directories
from cocoop.data.catalog.location import Location
from cocoop.data.catalog.read import read_catalog, split_directories
from cocoop.data.dataset import SPLITS
from cocoop.data.readers.rows import Listing
from cocoop.errors import DataError

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of a check."""

    entry: CatalogEntry
    """The data set."""
    images: Path
    """Directory of its images."""
    problems: tuple[str, ...] = ()
    """Problems, one sentence each; none if the data set is complete."""
    missing: tuple[str, ...] = ()
    """Missing images and class directories, and empty images, relative to `images`."""
    sizes: tuple[int, int, int] = (0, 0, 0)
    """Number of listed images: train, val, test."""
    classes: int = 0
    """Number of listed classes."""
    instructions: str = ""
    """Steps to get the images by hand, if there are any."""

    @property
    def complete(self) -> bool:
        """True if there is no problem."""
        return not self.problems


def verify(entry: CatalogEntry, location: Location) -> Verification:
    """Check layout, split file and numbers of images and classes; no image is opened."""
    result = functools.partial(
        Verification,
        entry=entry,
        images=location.images,
        instructions=entry.instructions.format(directory=location.directory, downloads=location.downloads),
    )
    directories = _missing_class_directories(entry, location)
    if directories:
        return result(problems=(f"{len(directories):,} directories are missing.",), missing=directories)
    try:
        listing = read_catalog(entry, location)
    except DataError as error:
        return result(problems=(str(error),))
    missing = _missing_images(listing, location.images)
    counts = Counter(row.split for row in listing.rows)
    sizes = (counts["train"], counts["val"], counts["test"])
    problems = [f"{len(missing):,} images are missing."] if missing else []
    if len(listing.classes) != entry.classes:
        problems.append(f"There are {len(listing.classes)} classes; {entry.title} has {entry.classes}.")
    for split, size, published in zip(SPLITS, sizes, entry.sizes, strict=True):
        if size != published:
            problems.append(f"There are {size:,} images in {split}; {entry.title} has {published:,}.")
    return result(problems=tuple(problems), missing=missing, sizes=sizes, classes=len(listing.classes))


def _missing_class_directories(entry: CatalogEntry, location: Location) -> tuple[str, ...]:
    """Return missing class directories of ImageNet and its variants; a missing `train` or `val` counts as one."""
    if entry.rule is None or not entry.rule.startswith("imagenet") or not location.images.is_dir():
        return ()
    missing: list[Path] = []
    for directory, _ in split_directories(entry.rule, location.images):
        names = [name for name, _ in class_directories(entry.rule)] if directory.is_dir() else [""]
        missing += [directory / name for name in names if not (directory / name).is_dir()]
    return tuple(f"{path.relative_to(location.images).as_posix()}/" for path in missing)


def _missing_images(listing: Listing, images: Path) -> tuple[str, ...]:
    """Return listed images that are missing or empty, reading each directory once."""
    by_directory: dict[str, list[str]] = {}
    for row in listing.rows:
        directory, _, name = row.path.rpartition("/")
        by_directory.setdefault(directory, []).append(name)
    missing: list[str] = []
    for directory, names in by_directory.items():
        present = _non_empty_files(images / directory)
        missing += [f"{directory}/{name}".lstrip("/") for name in names if name not in present]
    return tuple(missing)


def _non_empty_files(directory: Path) -> set[str]:
    if not directory.is_dir():
        return set()
    with os.scandir(directory) as entries:
        return {entry.name for entry in entries if entry.is_file() and entry.stat().st_size > 0}
