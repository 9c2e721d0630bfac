"""Lists of train, val and test images of a data set of the catalog.

The official split file is used if there is one, after a check that it is the published one. Otherwise:

- Food101 (`random_split`): 50 % of the images of each class to train, 20 % to val, 30 % to test, as
  `assign_splits` samples them: the same shares as in the CoOp code's split file, but different images.
- FGVCAircraft (`aircraft`): the owners' lists `images_variant_{train,val,test}.txt`; labels as in `variants.txt`.
- SUN397 (`sun397`): the owners' first partition. `Testing_01.txt` is the test split; 80 % of the shuffled images of
  each class in `Training_01.txt` go to train and the rest to val: the same sizes as in the CoOp code's split file, but
  different images. Labels follow the sorted directories; names are the words of the path in reverse order
  (`/a/apse/indoor` is `indoor apse`).
- ImageNet: `train` for training and `val` for testing, as in the papers; there is no validation split.
- Variants of ImageNet: all images are for testing.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry, Rule, SplitFile
from cocoop.data.catalog.imagenet import class_directories
from cocoop.data.catalog.location import Location
from cocoop.data.dataset import SPLITS, Split, join_names
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES, read_image_directory
from cocoop.data.readers.rows import Listing, Row, assign_splits, check_unique
from cocoop.data.readers.split_files import read_split_file
from cocoop.data.readers.text_files import line_of, read_text
from cocoop.errors import DataError
from cocoop.storage.hashing import hash_content

__all__ = ["check_split_file", "read_catalog", "split_directories"]

SUN397_TRAIN_SHARE = 0.8
"""Share of SUN397's official training list that goes to train; the rest is val."""


def read_catalog(entry: CatalogEntry, location: Location, *, seed: int = 0) -> Listing:
    """List the images of a data set; none is opened.

    Args:
        entry: the data set.
        location: its directories.
        seed: seed for splitting Food101 and SUN397 if they have no split file.

    Returns:
        Images with paths relative to `location.images`, and class names in the order of their labels.

    Raises:
        DataError: if images, lists or classes are missing, or the split file is not the published one.
    """
    if not location.images.is_dir():
        raise DataError(
            f"{entry.title} was not found: there is no '{location.images}'. Download it with"
            f" `cocoop data download {entry.name}`, or pass the directory of your data sets as `data_root` or in"
            " COCOOP_DATA."
        )
    split_file = entry.split_file
    path = None if split_file is None else location.find_file(split_file.name)
    if split_file is not None and path is not None:
        check_split_file(split_file, path)
        return read_split_file(path, location.images)
    match entry.rule:
        case None:
            raise DataError(
                f"The split file of {entry.title} is not in '{location.splits or location.directory}'. Download it with"
                f" `cocoop data download {entry.name}`, or pass its directory as `splits`."
            )
        case "random_split":
            listing = read_image_directory(location.images)
            return Listing(assign_splits(listing.rows, seed), listing.classes)
        case "aircraft":
            return _read_aircraft(entry, location)
        case "sun397":
            return _read_sun397(entry, location, seed)
        case rule:
            return _read_imagenet(entry, rule, location)


def check_split_file(split_file: SplitFile, path: Path) -> None:
    """Check that a split file is the published one, ignoring whitespace."""
    if split_file.sha256 is None:
        return
    text = read_text(path, "split file")
    actual = hash_content(text)
    if actual == split_file.sha256:
        return
    try:
        # The published files are indented by four spaces.
        same_lists = hash_content(json.dumps(json.loads(text), indent=4)) == split_file.sha256
    except (json.JSONDecodeError, RecursionError):
        same_lists = False
    if not same_lists:
        raise DataError(
            f"'{path}' is not the published {split_file.name}: its SHA-256 is {actual} instead of {split_file.sha256}."
            " Delete it and download it again; to use your own lists, give the path of the file as the data."
        )


def _read_aircraft(entry: CatalogEntry, location: Location) -> Listing:
    classes = [line for line in _read_lines(entry, location, "variants.txt")[1] if line]
    rows: list[Row] = []
    for split in SPLITS:
        path, lines = _read_lines(entry, location, f"images_variant_{split}.txt")
        for number, line in enumerate(lines, start=1):
            image, _, name = line.partition(" ")
            if line and name not in classes:
                raise DataError(f"{line_of(path, number)}: the class {name!r} is not in variants.txt.")
            if line:
                rows.append(Row(f"{image}.jpg", name, split, line_of(path, number)))
    check_unique(rows)
    return Listing(rows, classes)


def _read_sun397(entry: CatalogEntry, location: Location, seed: int) -> Listing:
    by_directory: dict[str, list[Row]] = {}
    splits: dict[str, Split | None] = {"Training_01.txt": None, "Testing_01.txt": "test"}
    for file, split in splits.items():
        path, lines = _read_lines(entry, location, file)
        for number, line in enumerate(lines, start=1):
            if line:
                image = line.strip("/")
                directory = image.rpartition("/")[0]
                # The first directory of a path is the first letter of the class.
                name = " ".join(reversed(directory.split("/")[1:]))
                by_directory.setdefault(directory, []).append(Row(image, name, split, line_of(path, number)))
    classes = [by_directory[directory] for directory in sorted(by_directory)]
    rows = [row for members in classes for row in _split_train_and_val(members, seed)]
    check_unique(rows)
    return Listing(rows, [members[0].raw_class for members in classes])


def _split_train_and_val(rows: list[Row], seed: int) -> list[Row]:
    """Divide the rows of a class that have no split into train and val."""
    without = sorted((row for row in rows if row.split is None), key=lambda row: row.path)
    order = list(range(len(without)))
    random.Random(seed).shuffle(order)
    train = set(order[: round(len(without) * SUN397_TRAIN_SHARE)])
    divided = [replace(row, split="train" if index in train else "val") for index, row in enumerate(without)]
    return divided + [row for row in rows if row.split is not None]


def split_directories(rule: Rule, images: Path) -> list[tuple[Path, Split]]:
    """Return the directories of ImageNet or a variant that hold class directories, each with its split."""
    return [(images / "train", "train"), (images / "val", "test")] if rule == "imagenet" else [(images, "test")]


def _read_imagenet(entry: CatalogEntry, rule: Rule, location: Location) -> Listing:
    classes = class_directories(rule)
    present = [(path, split) for path, split in split_directories(rule, location.images) if path.is_dir()]
    if not present:
        raise DataError(
            f"'{location.images}' has neither a directory 'train' nor 'val'. `cocoop data download {entry.name}`"
            " explains what to put there."
        )
    rows: list[Row] = []
    for directory, split in present:
        missing = [name for name, _ in classes if not (directory / name).is_dir()]
        if missing:
            raise DataError(
                f"{entry.title} is incomplete: {len(missing)} of its {len(classes)} class directories are not in"
                f" '{directory}': {join_names(missing)}. `cocoop data verify {entry.name}` lists everything that is"
                " missing."
            )
        prefix = "" if directory == location.images else f"{directory.name}/"
        for class_directory, name in classes:
            origin = f"'{directory / class_directory}'"
            images = _image_names(directory / class_directory)
            rows += [Row(f"{prefix}{class_directory}/{image}", name, split, origin) for image in images]
    return Listing(rows, [name for _, name in classes])


def _image_names(directory: Path) -> list[str]:
    """Return the sorted names of images; no file is opened, because ImageNet has 1.3 million."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"The directory '{directory}' cannot be read: {error.strerror or error}.") from error
    return sorted(name for name in names if f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES)


def _read_lines(entry: CatalogEntry, location: Location, name: str) -> tuple[Path, list[str]]:
    path = location.find_file(name)
    if path is None:
        raise DataError(
            f"The list '{name}' of {entry.title} is neither in '{location.directory}' nor beside its images. Download"
            f" it with `cocoop data download {entry.name}`."
        )
    return path, [line.strip() for line in read_text(path, "list").splitlines()]
