"""What the catalog knows of a data set of the papers, and where data sets lie on this machine.

The rows are in `catalog_table`. Data sets lie side by side under one folder, the data root, in the layout that the
CoOp code expects, so that a folder made for it can be used as it is; the layouts of torchvision are found too.
"""

from __future__ import annotations

import os
import posixpath
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cocoop.data.catalog.imagenet import imagenet_classes

__all__ = [
    "DATA_ROOT_VARIABLE",
    "Archive",
    "CatalogEntry",
    "Place",
    "Rule",
    "SplitFile",
    "class_directories",
    "data_root",
]

DATA_ROOT_VARIABLE = "COCOOP_DATA"
"""Environment variable that names the data root."""

Rule = Literal["divided", "aircraft", "sun397", "imagenet", "imagenetv2", "imagenet-a", "imagenet-r", "imagenet-sketch"]
"""How lists are made where there is no split file; see `catalog_read`."""


@dataclass(frozen=True, kw_only=True)
class SplitFile:
    """A split file of the CoOp code: which photo is in which split, with its label and class name."""

    name: str
    """File name."""
    sha256: str | None = None
    """Of the file as published; None where no copy with a checksum is public."""
    url: str | None = None
    """Where it is published; None where it cannot be fetched."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file with photos or lists, as its owners publish it."""

    url: str
    """The file; for one that must be fetched by hand, the page to fetch it from."""
    checksum: str | None
    """`md5:...` or `sha256:...`, as published; None for a file to be fetched by hand without one."""
    gives: tuple[str, ...]
    """What the data set needs of it, below the data set's folder; if all is there, the archive is not fetched."""
    inner: str = ""
    """Path of an archive in this one that holds the photos; empty if they lie in this one."""
    inside: str = ""
    """Folder in the archive whose content is kept; empty for all of it."""
    to: str = ""
    """What that folder is called below the data set's folder; empty if its content goes there itself."""
    by_hand: str = ""
    """File name of an archive that a person must fetch; empty if it can be downloaded."""

    @property
    def file_name(self) -> str:
        """What the file is called in the folder of downloads."""
        return self.by_hand or posixpath.basename(urllib.parse.urlsplit(self.url).path)


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One data set of the papers."""

    name: str
    """What to call it on the command line."""
    title: str
    """What the papers call it."""
    also: tuple[str, ...] = ()
    """Other names that the field uses."""
    template: str
    """Its zero-shot template in the papers."""
    classes: int
    """Number of classes."""
    sizes: tuple[int, int, int]
    """Published numbers of photos: train, val, test."""
    images: tuple[str, ...]
    """Where its photos may lie below the data root; the first is where they are put."""
    split_file: SplitFile | None = None
    """Its official lists, if the CoOp code has a file of them."""
    rule: Rule | None = None
    """How lists are made without a split file; None if there must be one."""
    archives: tuple[Archive, ...] = ()
    """What to download and unpack."""
    by_hand: str = ""
    """What a person must do to get the photos, with {folder} for the data set's folder; empty if nothing."""
    licence: str
    """Terms of its photos in a few words, as their owners state them; the home page has the whole."""
    source: str
    """Home page."""

    @property
    def directory(self) -> str:
        """Its folder below the data root."""
        return self.images[0].split("/")[0]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a data set is, or would be, on this machine."""

    root: Path
    """The data root."""
    directory: Path
    """The data set's folder, where downloads are put."""
    images: Path
    """The folder that the paths of its lists start from; it may be absent."""
    splits: Path | None
    """A folder of official split files that goes first."""

    @classmethod
    def of(
        cls, entry: CatalogEntry, root: Path, *, splits: Path | None = None, image_root: Path | None = None
    ) -> Place:
        """Find a data set under a data root: in the CoOp code's layout, else in one of torchvision's.

        Args:
            entry: the data set.
            root: the data root.
            splits: folder with official split files.
            image_root: where its photos lie, if elsewhere.
        """
        places = [root / path for path in entry.images]
        found = next((place for place in places if place.is_dir()), places[0])
        return cls(root=root, directory=root / entry.directory, images=image_root or found, splits=splits)

    def find(self, *names: str) -> Path | None:
        """The first of these files that is there: in the folder of splits, the data set's, or beside its photos."""
        directories = [self.splits, self.directory, self.images.parent, self.images]
        paths = (directory / name for name in names for directory in directories if directory is not None)
        return next((path for path in paths if path.is_file()), None)


def data_root(given: str | Path | None = None) -> Path:
    """The folder under which the catalog's data sets lie.

    Args:
        given: a folder that the user named; goes before all else.

    Returns:
        `given`, else the folder in the environment variable COCOOP_DATA, else `cocoop/data` in the user's cache
        folder (XDG_CACHE_HOME or ~/.cache). It need not exist.
    """
    if given is not None:
        return Path(given).expanduser()
    named = os.environ.get(DATA_ROOT_VARIABLE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cocoop" / "data"


def class_directories(rule: Rule) -> list[tuple[str, str]]:
    """Folder and name of each class of ImageNet or one of its variants, in the order of the labels.

    ImageNet-A and ImageNet-R have 200 of the classes, relabelled from 0 in ImageNet's order. ImageNetV2 calls its
    folders by the labels, 0 to 999; the others by WordNet ids.
    """
    classes = imagenet_classes()
    if rule == "imagenetv2":
        return [(str(label), c.name) for label, c in enumerate(classes)]
    if rule == "imagenet-a":
        classes = tuple(c for c in classes if c.in_a)
    elif rule == "imagenet-r":
        classes = tuple(c for c in classes if c.in_r)
    return [(c.wnid, c.name) for c in classes]
