"""One shard as a file somewhere: what kind it is, how it is reached (fsspec), and what a photo in it is known by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from cocoop.data.dataset import Split
from cocoop.data.readers.rows import SPLIT_NAMES, split_called
from cocoop.errors import CocoopError, ConfigError, DataError

__all__ = [
    "MAX_IMAGE",
    "Entry",
    "Kind",
    "Shard",
    "check_shard_kind",
    "compressed",
    "get_filesystem",
    "shard_errors",
    "shard_kind",
    "split_of",
    "unsigned",
]

Kind = Literal["tar", "parquet"]

MAX_IMAGE = 256 << 20
"""Bytes of one photo; a member that claims more is no photo."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Entry(NamedTuple):
    """One photo of a shard, without its bytes."""

    member: str
    """Its name in the shard; no two photos of a shard share one."""
    classname: str | None
    """Its class as the shard spells it; None if the shard does not say."""
    split: Split | None
    """Its split; None if neither the shard's content nor its name says."""
    place: tuple[int, int]
    """Where its bytes are. Of a tar file: offset and size; of a Parquet file: row group and row within it."""


@dataclass(frozen=True)
class Shard:
    """A shard and the file system it lies on."""

    url: str
    """As it was found."""
    filesystem: Any
    """Of fsspec."""
    path: str
    """The shard, as its file system calls it."""

    @classmethod
    def at(cls, url: str) -> Shard:
        """The shard of that address; nothing is opened.

        Raises:
            ConfigError: if a package that its file system needs is not installed.
            DataError: if the address makes no sense.
        """
        return cls(url, *get_filesystem(url))

    @property
    def size(self) -> int:
        """Bytes of the file.

        Raises:
            DataError: if the file system does not say.
        """
        size = self.filesystem.info(self.path)["size"]
        if not isinstance(size, int):
            raise DataError(f"'{self.url}' has no size, so that no part of it can be asked for; copy it elsewhere.")
        return size

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, and no others.

        Raises:
            OSError: if they are not all there.
        """
        if start == end:
            return b""
        data: bytes = self.filesystem.cat_file(self.path, start=start, end=end)
        if len(data) != end - start:
            raise OSError(f"bytes {start:,} to {end:,} of '{self.url}' are not there, or come only with all others")
        return data


def get_filesystem(url: str) -> tuple[Any, str]:
    """The file system of an address, and what that calls it.

    Raises:
        ConfigError: if a package that it needs is not installed.
        DataError: if the address makes no sense.
    """
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError(
            "Data in shards need the library fsspec, which is not installed: pip install 'cocoop[shards]'"
        ) from error
    try:
        filesystem, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise ConfigError(f"'{url}' cannot be reached: {error}.") from error
    except ValueError as error:
        raise DataError(f"'{url}' cannot be reached: {error}.") from error
    return filesystem, path


def unsigned(url: str) -> str:
    """An address without its query, which may hold a signature: a secret, and another one tomorrow."""
    return url.partition("?")[0] if "://" in url else url


def shard_kind(url: str) -> Kind | Literal["compressed"] | None:
    """What a name says its file is; None if it is no shard."""
    name = (urlsplit(url).path if "://" in url else url).lower()
    if name.endswith(".tar"):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    return "compressed" if name.endswith(_COMPRESSED) else None


def check_shard_kind(url: str) -> Kind:
    """What a shard holds photos as, by its name.

    Raises:
        DataError: if it is neither tar nor Parquet, or compressed.
    """
    kind = shard_kind(url)
    if kind is None:
        raise DataError(f"'{url}' is no shard; a shard is a WebDataset .tar or a .parquet file.")
    if kind == "compressed":
        raise compressed(url)
    return kind


def compressed(url: str) -> DataError:
    """A shard in which no photo can be reached without unpacking all before it."""
    return DataError(
        f"The shard '{url}' is compressed, so that a photo in it can only be read after all before it. Unpack it, with"
        " `gunzip` for .gz, and give the .tar: photos hardly compress."
    )


def split_in_name(url: str) -> Split | None:
    """The split that a shard's name says first or last (`train-00000-of-00100`, `pets-val-7`), or else its folder's."""
    path = PurePosixPath(urlsplit(url).path if "://" in url else url)
    words = [word for word in re.split(r"[^a-z]+", path.stem.lower()) if word not in ("", "of")]
    found = {SPLIT_NAMES[word] for word in words[:1] + words[-1:] if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else SPLIT_NAMES.get(path.parent.name.lower())


def split_of(word: object, url: str, where: str) -> Split | None:
    """The split of a photo: what the shard says of it, or else the shard's name.

    Raises:
        DataError: if the shard says what is no split.
    """
    if word is None or word == "":
        return split_in_name(url)
    return split_called(str(word), where)


@contextmanager
def shard_errors(url: str) -> Iterator[None]:
    """Turn what goes wrong with a shard into an error that names it."""
    try:
        yield
    except (CocoopError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no shard '{url}'.") from error
    # Each file system has errors of its own (of its HTTP client, its cloud), which share no class but this.
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        what_to_do = "Get it again if it was cut off."
        raise DataError(f"The shard '{url}' cannot be read: {reason.rstrip('.')}. {what_to_do}") from error
