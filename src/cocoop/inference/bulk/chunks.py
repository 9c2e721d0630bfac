"""Find the images to label and divide them into chunks: some files of a directory or list, or one shard.

A chunk is the unit of work, and the most that a killed worker loses: its labels are one output file, written
atomically. Sources may be on any file system of fsspec. Local paths become absolute, so that they mean the same on
every worker, and an image has the same address however its path is written.
"""

from __future__ import annotations

import os.path
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cocoop.data.image_formats import NOT_A_FILE, describe_too_large
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES
from cocoop.data.shards.scan import find_shards, read_shard
from cocoop.data.shards.source import check_shard_kind, get_filesystem, shard_errors, shard_kind
from cocoop.errors import CocoopWarning, DataError
from cocoop.inference.bulk.image_lists import entry_type, is_local, read_image_list
from cocoop.storage.hashing import hash_content

__all__ = [
    "CHUNK_FILES",
    "UNREACHABLE",
    "Chunk",
    "RawImage",
    "Sources",
    "find_sources",
    "pending_chunks",
    "printable",
    "read_image_file",
    "read_shard_images",
]

CHUNK_FILES = 256
"""Files per chunk; each takes seconds, and a million images give 4,000 output files."""

UNREACHABLE = "it cannot be read"
"""First words of the reason if the file system failed rather than the file itself."""


@dataclass(frozen=True)
class Chunk:
    """Images that are labelled together: one shard, or some files."""

    shard: str | None = None
    """Address of the shard."""
    files: tuple[str, ...] = ()
    """Addresses of the files."""

    def __str__(self) -> str:
        if self.shard is not None:
            return f"the shard '{self.shard}'"
        if len(self.files) == 1:
            return f"the file '{self.files[0]}'"
        return f"{len(self.files)} files from '{self.files[0]}' to '{self.files[-1]}'"

    @property
    def output_file(self) -> str:
        """The name of the output file, which depends on the content of the chunk only."""
        digest = hash_content("\n".join([self.shard or "", *self.files]).encode(errors="surrogateescape"))
        return f"{'files' if self.shard is None else 'shard'}-{digest[:24]}.parquet"


class Sources(NamedTuple):
    """All images and shards to label."""

    shards: tuple[str, ...]
    files: tuple[str, ...]


class RawImage(NamedTuple):
    """An encoded image, or the reason why it cannot be read."""

    path: str
    """Its address; in a shard, followed by `::` and its name there."""
    content: bytes | None
    error: str | None = None


def find_sources(sources: Sequence[str], output: str | None = None) -> Sources:
    """List images and shards without opening them.

    Args:
        sources: images; directories, with all images in and below them or, if there are none, the shards
            directly in them; shards and patterns, as for `find_shards`; Parquet files that list paths of images.
        output: directory of the labels; files in it are not sources.

    Raises:
        ConfigError: if a package for a file system is not installed.
        DataError: if there is nothing at a source.
    """
    shards: dict[str, None] = {}
    files: dict[str, None] = {}
    labels = () if output is None else (f"{_address(*get_filesystem(output)).rstrip('/')}/",)
    for source in sources:
        filesystem, path = get_filesystem(source)
        # Patterns such as train-{000..099}.tar have a suffix too.
        if shard_kind(source) is not None and entry_type(filesystem, path) != "directory":
            _add_shards(find_shards(source), shards, files)
            continue
        with shard_errors(source):
            if not filesystem.exists(path):
                raise DataError(f"There is no '{source}'; give images, directories of images or shards.")
            if not filesystem.isdir(path):
                files[_address(filesystem, path)] = None
                continue
            below = sorted(filesystem.find(path))
        images = [_address(filesystem, name) for name in below if _is_image(name, path)]
        files |= dict.fromkeys(images)
        others = [name for name in below if shard_kind(name) is not None]
        if not images:
            _add_shards(_shards_in(source, filesystem, path, others), shards, files)
        # Shards beside images may be an archive of the same images, or a table of their labels.
        elif ignored := sum(not _address(filesystem, name).startswith(labels) for name in others):
            warnings.warn(
                f"'{source}' has images and {ignored:,} shards (.tar, .parquet), which are ignored; give them too to "
                "have the images in them labelled.",
                CocoopWarning,
                stacklevel=2,
            )
    return Sources(tuple(shards), tuple(files))


def _shards_in(source: str, filesystem: Any, path: str, below: Sequence[str]) -> list[str]:
    """Return the addresses of the shards directly in a directory."""
    shards = [_address(filesystem, name) for name in below if "/" not in name[len(path) :].strip("/")]
    if not shards:
        raise DataError(
            f"There are no images in '{source}' or below, and no shards in it (WebDataset .tar, or .parquet); give "
            "images, directories of images or shards."
        )
    for url in shards:
        check_shard_kind(url)
    return shards


def pending_chunks(
    sources: Sources, output_files: Collection[str], labelled_in: Callable[[Sequence[str]], Collection[str]]
) -> list[Chunk]:
    """Return the chunks that have no labels yet.

    Args:
        sources: all images and shards.
        output_files: names of the output files that exist.
        labelled_in: returns the addresses of the images in output files.
    """
    chunks = [*map(Chunk, sources.shards), *_divide(sources.files)]
    existing, expected = set(output_files), {chunk.output_file for chunk in chunks}
    # Reading output files is slow on a remote disk; it is needed only if images were added or removed later.
    others = [name for name in output_files if name.startswith("files-") and name not in expected]
    labelled = set(labelled_in(others)) if others else set()
    pending = [chunk for chunk in chunks if chunk.output_file not in existing]
    if not labelled:
        return pending
    new = [file for chunk in pending for file in chunk.files if printable(file) not in labelled]
    return [chunk for chunk in pending if chunk.shard is not None] + _divide(new)


def read_shard_images(shard: str) -> Iterator[RawImage]:
    """Yield the images of a shard.

    If the shard cannot be read to its end, the last item is the shard itself with the reason, which starts with
    `UNREACHABLE` if the file system failed.
    """
    if entry_type(*get_filesystem(shard)) not in ("file", None):
        yield RawImage(shard, None, NOT_A_FILE)
        return
    try:
        for image in read_shard(shard):
            yield RawImage(image.path, image.data)
    except DataError as error:
        cause = error.__cause__
        unreachable = cause is not None and _is_storage_error(cause, shard)
        yield RawImage(shard, None, f"{UNREACHABLE}: {_describe(cause)}" if unreachable else str(error))


def _is_storage_error(error: BaseException | None, shard: str) -> bool:
    """Return True if the file system failed, as opposed to the content of the shard."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return False
    # Disks and networks set an error number or raise a subclass; decoders raise a plain OSError.
    if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
        return True
    # Errors of clouds look like those of decoders, but then the first byte cannot be read either.
    filesystem, path = get_filesystem(shard)
    try:
        filesystem.cat_file(path, start=0, end=1)
    except Exception:
        return True
    return False


def read_image_file(address: str) -> RawImage:
    """Read an image file, if it is a regular file of acceptable size."""
    filesystem, path = get_filesystem(address)
    try:
        info = filesystem.info(path)
        if info["type"] != "file":
            return RawImage(address, None, NOT_A_FILE)
        # Some web servers do not report the size.
        reason = describe_too_large(info.get("size") or 0)
        return RawImage(address, None, reason) if reason else RawImage(address, filesystem.cat_file(path))
    except MemoryError:
        raise
    except FileNotFoundError:
        return RawImage(address, None, "there is no such file")
    # Each file system has its own errors.
    except Exception as error:
        return RawImage(address, None, f"{UNREACHABLE}: {_describe(error)}")


def _describe(error: BaseException | None) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def printable(address: str) -> str:
    """Return an address as valid Unicode, which Parquet requires; file names may contain other bytes."""
    return address.encode(errors="backslashreplace").decode()


def _divide(files: Sequence[str]) -> list[Chunk]:
    return [Chunk(files=tuple(files[i : i + CHUNK_FILES])) for i in range(0, len(files), CHUNK_FILES)]


def _add_shards(urls: Sequence[str], shards: dict[str, None], files: dict[str, None]) -> None:
    parquet = [url for url in urls if shard_kind(url) == "parquet"]
    # If the first Parquet file of a source is not a list, none is; opening all of them would take long.
    if not parquet or read_image_list(parquet[0]) is None:
        shards |= dict.fromkeys(urls)
        return
    for url in urls:
        images = read_image_list(url) if shard_kind(url) == "parquet" else None
        if images is None:
            shards[url] = None
        else:
            files |= dict.fromkeys(images)


def _address(filesystem: Any, path: str) -> str:
    return os.path.abspath(path) if is_local(filesystem) else str(filesystem.unstrip_protocol(path))  # noqa: PTH100


def _is_image(name: str, root: str) -> bool:
    below = PurePosixPath(name[len(root) :].lstrip("/"))
    return below.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in below.parts)
