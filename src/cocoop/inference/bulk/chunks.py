"""What there is to label, in pieces: some files of a folder or list, or a shard.

A piece is the unit of work and of what is lost when a worker dies: its labels are one file, which is there whole or not
at all. Folders, lists and shards may be on any file system of fsspec; what is on this machine has its whole path, which
workers understand wherever they run, and which is the same however it was given.
"""

from __future__ import annotations

import os.path
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cocoop.data.image_formats import NOT_PLAIN, too_large
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES
from cocoop.data.shards.scan import find_shards, read_shard
from cocoop.data.shards.source import check_shard_kind, get_filesystem, shard_errors, shard_kind
from cocoop.errors import CocoopWarning, DataError
from cocoop.inference.bulk.image_lists import is_local, read_image_list, type_of
from cocoop.storage.hashing import hash_content

__all__ = ["FILES", "UNREACHABLE", "Chunk", "Found", "Read", "as_text", "chunks_of", "find", "read", "read_file"]

FILES = 256
"""Files of a piece: seconds of work, which is what a killed worker loses, and 4,000 parts for a million photos."""

UNREACHABLE = "it cannot be read"
"""How the reason begins where a file system refuses a file or a shard, whatever is in it."""


@dataclass(frozen=True)
class Chunk:
    """Photos that are labelled together."""

    shard: str | None = None
    """Address of a shard, all of which is this piece."""
    files: tuple[str, ...] = ()
    """Or addresses of photos."""

    def __str__(self) -> str:
        if self.shard is not None:
            return f"the shard '{self.shard}'"
        if len(self.files) == 1:
            return f"the file '{self.files[0]}'"
        return f"{len(self.files)} files from '{self.files[0]}' to '{self.files[-1]}'"

    @property
    def name(self) -> str:
        """Of the part with its labels; the same piece has the same name."""
        text = "\n".join([self.shard or "", *self.files])
        kind = "files" if self.shard is None else "shard"
        return f"{kind}-{hash_content(text)[:24]}.parquet"


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


def find(sources: Sequence[str], output: str | None = None) -> Found:
    """List photos and shards; none is opened.

    Args:
        sources: photos; folders, all photos in and below which are meant, and shards only where there are no photos;
            shards and patterns of them as `find_shards` knows them; Parquet files with paths of photos in place of
            photos.
        output: folder with labels of the job itself, which nobody misses if it is below a source.

    Raises:
        ConfigError: if a package that a file system needs is not installed.
        DataError: if there is nothing at a source.
    """
    shards: dict[str, None] = {}
    files: dict[str, None] = {}
    labels = () if output is None else (f"{_address(*get_filesystem(output)).rstrip('/')}/",)
    for source in sources:
        filesystem, path = get_filesystem(source)
        # A suffix stands behind a pattern too: train-{000..099}.tar
        if shard_kind(source) is not None and type_of(filesystem, path) != "directory":
            _add_shards(find_shards(source), shards, files)
            continue
        with shard_errors(source):
            if not filesystem.exists(path):
                raise DataError(f"There is no '{source}'; give photos, folders of photos or shards.")
            if not filesystem.isdir(path):
                files[_address(filesystem, path)] = None
                continue
            below = sorted(filesystem.find(path))
        own = [_address(filesystem, name) for name in below if _is_image(name, path)]
        files |= dict.fromkeys(own)
        others = [name for name in below if shard_kind(name) is not None]
        if not own:
            _add_shards(_directly_in(source, filesystem, path, others), shards, files)
        elif passed := sum(not _address(filesystem, name).startswith(labels) for name in others):
            # One may be the archive that the photos came in, or a table of their labels.
            told = f"'{source}' has photos and {passed:,} shards (.tar, .parquet), which are passed over"
            warnings.warn(f"{told}; name them too to have the photos in them labelled.", CocoopWarning, stacklevel=2)
    return Found(tuple(shards), tuple(files))


def _directly_in(source: str, filesystem: Any, path: str, below: Sequence[str]) -> list[str]:
    """Addresses of the shards in a folder, without those further below.

    Raises:
        DataError: if there are none, or one is compressed.
    """
    found = [_address(filesystem, name) for name in below if "/" not in name[len(path) :].strip("/")]
    if not found:
        raise DataError(
            f"There are no photos in '{source}' or below, and no shards in it (WebDataset .tar, or .parquet); give "
            "photos, folders of photos or shards."
        )
    for url in found:
        check_shard_kind(url)
    return found


def chunks_of(
    found: Found, parts: Collection[str], files_in: Callable[[Sequence[str]], Collection[str]]
) -> list[Chunk]:
    """What of all that was found is still to do.

    Args:
        found: all photos and shards.
        parts: names of parts that are there.
        files_in: from names of parts to the addresses of the files that have labels there.
    """
    pieces = [*map(Chunk, found.shards), *_divided(found.files)]
    there, wanted = set(parts), {piece.name for piece in pieces}
    # Reading what is done takes long on a remote disk, and tells something new only where a folder has changed since.
    others = [name for name in parts if name.startswith("files-") and name not in wanted]
    labelled = set(files_in(others)) if others else set()
    left = [piece for piece in pieces if piece.name not in there]
    if not labelled:
        return left
    new = [file for piece in left for file in piece.files if as_text(file) not in labelled]
    return [piece for piece in left if piece.shard is not None] + _divided(new)


def read(shard: str) -> Iterator[Read]:
    """The photos of a shard, one after the other.

    Where it cannot be read to its end, the last one is the shard itself, with the reason, which begins with
    `UNREACHABLE` if it is no fault of the shard's.
    """
    if type_of(*get_filesystem(shard)) not in ("file", None):
        yield Read(shard, None, NOT_PLAIN)
        return
    try:
        for image in read_shard(shard):
            yield Read(image.path, image.data)
    except DataError as error:
        refused = error.__cause__ is not None and _is_refusal(error.__cause__, shard)
        yield Read(shard, None, f"{UNREACHABLE}: {_words_of(error.__cause__)}" if refused else str(error))


def _is_refusal(error: BaseException, shard: str) -> bool:
    """Whether it was the file system that failed, which tells nothing about what is in the shard."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return False
    # A disk or a network says which error it is, by a number or a class; a decoder's is a bare OSError.
    if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
        return True
    # A cloud's errors are as little known as a decoder's; but the cloud refuses the first byte of what it refuses.
    filesystem, path = get_filesystem(shard)
    try:
        filesystem.cat_file(path, start=0, end=1)
    except Exception:
        return True
    return False


def read_file(address: str) -> Read:
    """One photo of a folder, if it is a plain file of a photo's size."""
    filesystem, path = get_filesystem(address)
    try:
        facts = filesystem.info(path)
        if facts["type"] != "file":
            return Read(address, None, NOT_PLAIN)
        # Some web servers do not say.
        large = too_large(facts.get("size") or 0)
        return Read(address, None, large) if large else Read(address, filesystem.cat_file(path))
    except MemoryError:
        raise
    except FileNotFoundError:
        return Read(address, None, "there is no such file")
    # Each file system has errors of its own.
    except Exception as error:
        return Read(address, None, f"{UNREACHABLE}: {_words_of(error)}")


def _words_of(error: BaseException | None) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def as_text(address: str) -> str:
    """An address as a part holds it: a file name need not be text, Parquet's strings are."""
    return address.encode(errors="backslashreplace").decode()


def _divided(files: Sequence[str]) -> list[Chunk]:
    return [Chunk(files=tuple(files[i : i + FILES])) for i in range(0, len(files), FILES)]


def _add_shards(found: Sequence[str], shards: dict[str, None], files: dict[str, None]) -> None:
    parquet = [url for url in found if shard_kind(url) == "parquet"]
    # What the first of a source holds, the others do: to open every one takes long where there are many.
    if not parquet or read_image_list(parquet[0]) is None:
        shards |= dict.fromkeys(found)
        return
    for url in found:
        named = read_image_list(url) if shard_kind(url) == "parquet" else None
        if named is None:
            shards[url] = None
        else:
            files |= dict.fromkeys(named)


def _address(filesystem: Any, path: str) -> str:
    return os.path.abspath(path) if is_local(filesystem) else str(filesystem.unstrip_protocol(path))  # noqa: PTH100


def _is_image(name: str, root: str) -> bool:
    below = PurePosixPath(name[len(root) :].lstrip("/"))
    return below.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in below.parts)
