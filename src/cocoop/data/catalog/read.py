"""From a data set of the catalog on disk to its lists.

The official split file is read where there is one, after a check that it is the published one. Otherwise:

- Food101 (`divided`): the photos of each class, sorted by path, are shuffled with a generator of their own; the first
  half goes to train, the next fifth to val, the rest to test: the shares, but not the draw, of the CoOp code's file.
- FGVCAircraft (`aircraft`): the owners' lists `images_variant_{train,val,test}.txt`; labels as in `variants.txt`.
- SUN397 (`sun397`): the owners' first partition. `Testing_01.txt` is the test; of each class of `Training_01.txt`,
  sorted by path and shuffled likewise, the first four fifths go to train, the rest to val: the sizes, but not the
  draw, of the CoOp code's file. Labels follow the sorted folders; names are the path's words backwards
  (`/a/apse/indoor` is `indoor apse`).
- ImageNet: `train` is the training set and `val` the test set, as in the papers; there is no validation set.
- ImageNet's variants: everything is test.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry, Place, Rule, SplitFile, class_directories
from cocoop.data.dataset import Split, listed
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES, read_directory
from cocoop.data.readers.rows import Listing, Row, check_unique, divide
from cocoop.data.readers.split_files import read_split_file
from cocoop.data.readers.text_files import line_of, read_text
from cocoop.errors import DataError
from cocoop.storage.hashing import hash_content

__all__ = ["check_split_file", "class_directory_splits", "image_names", "read_catalog"]

TRAIN_SHARE_OF_OFFICIAL = 0.8
"""Share of an official training list that is learned from where the owners have no val list; the rest is val."""


def read_catalog(entry: CatalogEntry, place: Place, *, seed: int = 0) -> Listing:
    """The lists of a data set; no photo is opened.

    Args:
        entry: the data set.
        place: where it is.
        seed: of the shuffles of Food101 and SUN397 when they have no split file.

    Returns:
        Rows whose paths start from `place.photos`, and the class names in the order of their labels.

    Raises:
        DataError: if the photos' folder, the lists or classes are absent, or the lists are not the published ones.
    """
    if not place.images.is_dir():
        raise DataError(
            f"{entry.title} is not here: there is no '{place.images}'. Get it by `cocoop data download {entry.name}`,"
            " or name the folder that your data sets lie in by --data-root or COCOOP_DATA."
        )
    split_file = entry.split_file
    path = None if split_file is None else place.find(split_file.name)
    if split_file is not None and path is not None:
        check_split_file(split_file, path)
        return read_split_file(path, place.images)
    match entry.rule:
        case None:
            raise DataError(
                f"The official lists of {entry.title} are not in '{place.splits or place.directory}'."
                f" `cocoop data download {entry.name}` fetches them, or name the folder that has them by --splits."
            )
        case "divided":
            listing = read_directory(place.images)
            return Listing(divide(listing.rows, seed), listing.classes)
        case "aircraft":
            return _read_aircraft(entry, place)
        case "sun397":
            return _read_sun397(entry, place, seed)
        case rule:
            return _read_class_directories(entry, rule, place)


def check_split_file(split_file: SplitFile, path: Path) -> None:
    """Check that a split file is the published one; white space does not count.

    Raises:
        DataError: with both checksums, if it is another one.
    """
    if split_file.sha256 is None:
        return
    text = read_text(path, "split file")
    seen = hash_content(text)
    if seen == split_file.sha256:
        return
    try:
        # The published files are written with four spaces; a copy without white space has the same lists.
        same_lists = hash_content(json.dumps(json.loads(text), indent=4)) == split_file.sha256
    except (json.JSONDecodeError, RecursionError):
        same_lists = False
    if not same_lists:
        raise DataError(
            f"'{path}' is not the published {split_file.name}: its SHA-256 is {seen}, published is {split_file.sha256}."
            " Remove it and download it again; to use lists of your own, give the file itself as the data."
        )


def _read_aircraft(entry: CatalogEntry, place: Place) -> Listing:
    classes = [line for line in _lines(entry, place, "variants.txt")[1] if line]
    known = set(classes)
    rows: list[Row] = []
    splits: tuple[Split, ...] = ("train", "val", "test")
    for split in splits:
        path, lines = _lines(entry, place, f"images_variant_{split}.txt")
        for number, line in enumerate(lines, start=1):
            image, _, name = line.partition(" ")
            if line and name not in known:
                raise DataError(f"{line_of(path, number)}: {name!r} is no class of variants.txt.")
            if line:
                rows.append(Row(f"{image}.jpg", name, split, line_of(path, number)))
    check_unique(rows)
    return Listing(rows, classes)


def _read_sun397(entry: CatalogEntry, place: Place, seed: int) -> Listing:
    by_directory: dict[str, list[Row]] = {}
    for word in ("Training", "Testing"):
        path, lines = _lines(entry, place, f"{word}_01.txt")
        split: Split | None = None if word == "Training" else "test"
        for number, line in enumerate(lines, start=1):
            if line:
                image = line.strip("/")
                directory = image.rpartition("/")[0]
                # The first folder of a path is the class's first letter.
                name = " ".join(reversed(directory.split("/")[1:]))
                by_directory.setdefault(directory, []).append(Row(image, name, split, line_of(path, number)))
    groups = [by_directory[directory] for directory in sorted(by_directory)]
    rows = [row for group in groups for row in _hold_out(group, seed)]
    check_unique(rows)
    return Listing(rows, [group[0].raw_class for group in groups])


def _hold_out(rows: list[Row], seed: int) -> list[Row]:
    """Divide the rows of a class that have no split into four fifths of train and one of val."""
    free = sorted((row for row in rows if row.split is None), key=lambda row: row.path)
    order = list(range(len(free)))
    random.Random(seed).shuffle(order)
    train = set(order[: round(len(free) * TRAIN_SHARE_OF_OFFICIAL)])
    divided = [replace(row, split="train" if index in train else "val") for index, row in enumerate(free)]
    return divided + [row for row in rows if row.split is not None]


def class_directory_splits(rule: Rule, images: Path) -> list[tuple[Path, Split]]:
    """The folders that hold the class folders of ImageNet or a variant, and which split each is."""
    return [(images / "train", "train"), (images / "val", "test")] if rule == "imagenet" else [(images, "test")]


def _read_class_directories(entry: CatalogEntry, rule: Rule, place: Place) -> Listing:
    classes = class_directories(rule)
    splits = class_directory_splits(rule, place.images)
    present = [(directory, split) for directory, split in splits if directory.is_dir()]
    if not present:
        raise DataError(
            f"'{place.images}' has neither a folder 'train' nor 'val'."
            f" `cocoop data download {entry.name}` says what to put there."
        )
    rows: list[Row] = []
    for directory, split in present:
        lacking = [name for name, _ in classes if not (directory / name).is_dir()]
        if lacking:
            raise DataError(
                f"{entry.title} is incomplete: {len(lacking)} of its {len(classes)} class folders are not in"
                f" '{directory}': {listed(lacking)}. `cocoop data verify {entry.name}` lists all that is missing."
            )
        prefix = "" if directory == place.images else f"{directory.name}/"
        for class_directory, name in classes:
            where = f"'{directory / class_directory}'"
            images = image_names(directory / class_directory)
            rows += [Row(f"{prefix}{class_directory}/{image}", name, split, where) for image in images]
    return Listing(rows, [name for _, name in classes])


def image_names(directory: Path) -> list[str]:
    """File names of the photos in a folder, sorted; ImageNet has 1.3 million, so no file is asked for its state.

    Raises:
        DataError: if the folder cannot be read.
    """
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise DataError(f"The folder '{directory}' cannot be read: {error.strerror or error}.") from error
    return sorted(
        name for name in names if not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES
    )


def _lines(entry: CatalogEntry, place: Place, name: str) -> tuple[Path, list[str]]:
    path = place.find(name)
    if path is None:
        raise DataError(
            f"The owners' list '{name}' of {entry.title} is not in '{place.directory}' or beside its photos."
            f" `cocoop data download {entry.name}` fetches it."
        )
    return path, [line.strip() for line in read_text(path, "list").splitlines()]
