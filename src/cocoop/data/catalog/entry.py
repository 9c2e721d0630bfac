"""Schema of `catalog.toml`: one entry for each data set of the papers."""

from __future__ import annotations

import posixpath
import urllib.parse
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

__all__ = ["Archive", "CatalogEntry", "Rule", "SplitFile"]

Rule = Literal[
    "random_split", "aircraft", "sun397", "imagenet", "imagenetv2", "imagenet-a", "imagenet-r", "imagenet-sketch"
]
"""Source of the train, val and test lists of a data set without a split file; see `read.py`."""

_FORBID_OTHER_FIELDS = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_FORBID_OTHER_FIELDS)
class SplitFile:
    """A split file of the CoOp code, which lists each image with its split, label and class name."""

    name: str
    """File name."""
    sha256: str | None = None
    """SHA-256 of the published file; None if no published copy has a checksum."""
    url: str | None = None
    """Address of the published file; None if it cannot be downloaded."""


@dataclass(frozen=True, kw_only=True, config=_FORBID_OTHER_FIELDS)
class Archive:
    """An archive of images or lists, as its owners publish it."""

    url: str
    """Address of the file, or of the page to download it from by hand."""
    checksum: str | None = None
    """`md5:...` or `sha256:...`, as published; None only for archives that are downloaded by hand."""
    provides: tuple[str, ...]
    """Paths below the data set's directory; if all exist, the archive is not needed."""
    inner_archive: str = ""
    """Path in this archive of another archive, which holds the images; empty if there is none."""
    subdirectory: str = ""
    """Directory of the archive to keep; empty to keep everything."""
    target: str = ""
    """New name of that directory; empty to move its content into the data set's directory."""
    manual_name: str = ""
    """File name of an archive that must be downloaded by hand; empty for all others."""

    @property
    def file_name(self) -> str:
        """Name of the file in the download directory."""
        return self.manual_name or posixpath.basename(urllib.parse.urlsplit(self.url).path)


@dataclass(frozen=True, kw_only=True, config=_FORBID_OTHER_FIELDS)
class CatalogEntry:
    """A data set of the papers."""

    name: str
    """Name on the command line."""
    title: str
    """Name in the papers."""
    aliases: tuple[str, ...] = ()
    """Other common names."""
    template: str
    """Zero-shot template in the papers."""
    classes: int
    """Number of classes."""
    sizes: tuple[int, int, int]
    """Published number of images in train, val and test."""
    image_directories: tuple[str, ...]
    """Directories below the data root to look for the images in; downloads go to the first."""
    split_file: SplitFile | None = None
    """The official split file, if there is one."""
    rule: Rule | None = None
    """Source of the lists without a split file; None if the split file is required."""
    archives: tuple[Archive, ...] = ()
    """Archives to download and unpack."""
    instructions: str = ""
    """Steps to get the images by hand, with {directory} and {downloads} as placeholders; empty if none are needed."""
    licence: str
    """Terms of use in a few words; the home page has the full text."""
    homepage: str
    """Home page of the owners."""

    @property
    def directory(self) -> str:
        """The data set's directory below the data root."""
        return self.image_directories[0].split("/")[0]
