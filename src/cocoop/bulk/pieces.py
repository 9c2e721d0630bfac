"""What there is to label, in pieces: some files of a folder, or a shard.

A piece is the unit of work and of what is lost when a worker dies: its labels are one file, which is there whole or not
at all. Folders may be on any file system of fsspec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cocoop.data.folders import PHOTO_SUFFIXES
from cocoop.data.shard_source import filesystem_of, kind_of, named_errors
from cocoop.data.shards import find_shards, read_shard
from cocoop.errors import DataError

__all__ = ["Found", "Piece", "Read", "as_text", "find", "pieces_of", "read", "read_file"]

FILES = 256
"""Files of a piece: seconds of work, which is what a killed worker loses, and 4,000 parts for a million photos."""


@dataclass(frozen=True)
class Piece:
    """Photos that are labelled together."""

    shard: str | None = None
    """Address of a shard, all of which is this piece."""
    files: tuple[str, ...] = ()
    """Or addresses of photos."""

    @property
    def name(self) -> str:
        """Of the part with its labels; the same piece has the same name."""
        text = "\n".join([self.shard or "", *self.files])
        kind = "files" if self.shard is None else "shard"
        return f"{kind}-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:24]}.parquet"


class Found(NamedTuple):
    """What a source holds."""

    shards: tuple[str, ...]
    files: tuple[str, ...]


class Read(NamedTuple):
    """One photo, as it was read."""

    path: str
    """Its address; in a shard, with its name there behind `::`."""
    content: bytes | None
    """Its bytes; None if they cannot be had."""
    error: str | None = None
    """Why not."""


def find(sources: Sequence[str]) -> Found:
    """List photos and shards; none is opened.

    Args:
        sources: photos; folders, all photos in and below which are meant; shards, patterns and folders of shards as
            `find_shards` knows them.

    Raises:
        ConfigError: if a package that a file system needs is not installed.
        DataError: if there is nothing at a source.
    """
    shards: dict[str, None] = {}
    files: dict[str, None] = {}
    for source in sources:
        # A suffix stands behind a pattern too: train-{000..099}.tar
        if kind_of(source) is not None:
            shards |= dict.fromkeys(find_shards(source))
            continue
        filesystem, path = filesystem_of(source)
        with named_errors(source):
            if not filesystem.exists(path):
                raise DataError(f"There is no '{source}'; give photos, folders of photos or shards.")
            if not filesystem.isdir(path):
                files[_address(source, filesystem, path)] = None
                continue
            below = sorted(filesystem.find(path))
        own = [_address(source, filesystem, name) for name in below if _is_photo(name, path)]
        files |= dict.fromkeys(own)
        if not own:
            shards |= dict.fromkeys(find_shards(source))
    return Found(tuple(shards), tuple(files))


def pieces_of(found: Found, done: Iterable[str], parts: Iterable[str]) -> list[Piece]:
    """What of all that was found is still to do.

    Args:
        found: all photos and shards.
        done: addresses of files that have labels.
        parts: names of parts that are there.
    """
    there, labelled = set(parts), set(done)
    left = [file for file in found.files if as_text(file) not in labelled]
    by_files = [Piece(files=tuple(left[i : i + FILES])) for i in range(0, len(left), FILES)]
    return [piece for piece in (*map(Piece, found.shards), *by_files) if piece.name not in there]


def read(shard: str) -> Iterator[Read]:
    """The photos of a shard, one after the other.

    Where it cannot be read to its end, the last one is the shard itself, with the reason.
    """
    try:
        for photo in read_shard(shard):
            yield Read(photo.path, photo.data)
    except DataError as error:
        yield Read(shard, None, str(error))


def read_file(address: str) -> Read:
    """One photo of a folder."""
    filesystem, path = filesystem_of(address)
    try:
        return Read(address, filesystem.cat_file(path))
    except FileNotFoundError:
        return Read(address, None, "there is no such file")
    # Each file system has errors of its own.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Read(address, None, f"it cannot be read: {reason}")


def as_text(address: str) -> str:
    """An address as a part holds it: a file name need not be text, Parquet's strings are."""
    return address.encode(errors="backslashreplace").decode()


def _address(source: str, filesystem: Any, path: str) -> str:
    # As it was given: relative paths stay relative, as in the other outputs of `cocoop predict`.
    if "://" in source:
        return str(filesystem.unstrip_protocol(path))
    root = str(filesystem._strip_protocol(source))
    return source if path == root else f"{source.rstrip('/')}/{path[len(root) :].lstrip('/')}"


def _is_photo(name: str, root: str) -> bool:
    below = PurePosixPath(name[len(root) :].lstrip("/"))
    return below.suffix.lower() in PHOTO_SUFFIXES and not any(part.startswith(".") for part in below.parts)
