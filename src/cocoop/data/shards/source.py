"""A shard as a file on any file system of fsspec: its kind, its bytes and the entries of its images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from cocoop.data.dataset import Split
from cocoop.data.readers.rows import SPLIT_NAMES, parse_split
from cocoop.errors import CocoopError, ConfigError, DataError

__all__ = [
    "MAX_IMAGE_BYTES",
    "Kind",
    "Shard",
    "ShardEntry",
    "check_shard_kind",
    "compressed_shard_error",
    "get_filesystem",
    "image_split",
    "shard_errors",
    "shard_kind",
    "without_query",
]

Kind = Literal["tar", "parquet"]

MAX_IMAGE_BYTES = 256 << 20
"""Largest size of an image in a shard."""

_COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class ShardEntry(NamedTuple):
    """An image in a shard, without its bytes."""

    member: str
    """Name in the shard, different for each image."""
    classname: str | None
    """Class as the shard spells it; None if it has none."""
    split: Split | None
    """Split by the shard's content or name; None if neither has one."""
    position: tuple[int, int]
    """In a tar file, offset and size of the bytes; in a Parquet file, row group and row in it."""


@dataclass(frozen=True)
class Shard:
    """A shard and its file system."""

    url: str
    """Address, as it was found."""
    filesystem: Any
    """File system of fsspec."""
    path: str
    """Path on the file system."""

    @classmethod
    def at(cls, url: str) -> Shard:
        """Return the shard at an address; it is not opened."""
        return cls(url, *get_filesystem(url))

    @property
    def size(self) -> int:
        """Number of bytes."""
        size = self.filesystem.info(self.path)["size"]
        if not isinstance(size, int):
            raise DataError(f"The server does not report the size of '{self.url}', which is needed. Copy it elsewhere.")
        return size

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` up to `end`, or raise an OSError if the server sends more or fewer."""
        if start == end:
            return b""
        data: bytes = self.filesystem.cat_file(self.path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"bytes {start:,} to {end:,} of '{self.url}' are missing, or cannot be read alone")
        return data


def get_filesystem(url: str) -> tuple[Any, str]:
    """Return the file system of an address and the path on it.

    Raises:
        ConfigError: if a package that it needs is not installed.
        DataError: if the address is malformed.
    """
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError("Shards need the package fsspec. Install it: pip install 'cocoop[shards]'") from error
    try:
        filesystem, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"'{url}' cannot be reached: {error}.") from error
    except ValueError as error:
        raise DataError(f"'{url}' cannot be reached: {error}.") from error
    return filesystem, path


def without_query(url: str) -> str:
    """Return an address without its query, which may hold a signature that is secret and expires."""
    return url.partition("?")[0] if "://" in url else url


def shard_kind(url: str) -> Kind | Literal["compressed"] | None:
    """Return the kind of a shard by its file name; None if it is not a shard."""
    name = (urlsplit(url).path if "://" in url else url).lower()
    if name.endswith(".tar"):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    return "compressed" if name.endswith(_COMPRESSED_SUFFIXES) else None


def check_shard_kind(url: str) -> Kind:
    """Return the kind of a shard, or raise a DataError for a compressed tar file or any other file."""
    kind = shard_kind(url)
    if kind is None:
        raise DataError(f"'{url}' is not a shard. A shard is a WebDataset .tar or a .parquet file.")
    if kind == "compressed":
        raise compressed_shard_error(url)
    return kind


def compressed_shard_error(url: str) -> DataError:
    """Return the error for a compressed tar file, whose images cannot be read one by one."""
    return DataError(
        f"The shard '{url}' is compressed, so its images cannot be read one by one. Decompress it, with `gunzip` for"
        " .gz, and use the .tar: images hardly compress."
    )


def image_split(value: object, url: str, origin: str) -> Split | None:
    """Return the split of an image: the value in the shard, else the split in the shard's name, if any."""
    if value is None or value == "":
        return _split_in_name(url)
    return parse_split(str(value), origin)


def _split_in_name(url: str) -> Split | None:
    """Return the split at the start or end of a name (`train-00000-of-00100`, `pets-val-7`), or of its directory."""
    path = PurePosixPath(urlsplit(url).path if "://" in url else url)
    words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if word not in ("", "of")]
    splits = {SPLIT_NAMES[word] for word in words[:1] + words[-1:] if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else SPLIT_NAMES.get(path.parent.name.lower())


@contextmanager
def shard_errors(url: str) -> Iterator[None]:
    """Turn errors of file systems and decoders into a DataError that names the shard."""
    try:
        yield
    except (CocoopError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no shard '{url}'.") from error
    # File systems raise errors of their HTTP and cloud clients, which have no other base class in common.
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise DataError(
            f"The shard '{url}' cannot be read: {reason.rstrip('.')}. Download it again if it is incomplete."
        ) from error
