"""Shards as a data set: an index of their images, and images read from their position in a shard.

The index holds names, classes and positions. It is built by streaming each shard once, and cached in one file per
shard. The file is named by a hash of the shard's address and of its size, time and ETag, as far as the file system has
them:

    COCOOP_CACHE/shards/<hash>.json         first line: SHA-256 of the second; second line: the entries
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cocoop.data.class_names import sort_by_name
from cocoop.data.readers.rows import SPLIT_NAMES, Listing, Row, assign_splits, check_unique
from cocoop.data.shards.parquet import clear_row_group_cache, read_parquet_image
from cocoop.data.shards.scan import find_shards, scan_shard
from cocoop.data.shards.source import (
    Shard,
    ShardEntry,
    check_shard_kind,
    get_filesystem,
    shard_errors,
    shard_kind,
    without_query,
)
from cocoop.errors import CheckpointError, DamageWarning, DataError
from cocoop.storage.atomic import remove_stale_files, write_atomic
from cocoop.storage.cache_directory import cache_directory
from cocoop.storage.hashing import hash_content

__all__ = ["ShardIndex", "ShardPath", "is_sharded", "read_shards", "shard_dataset_name"]

_FORMAT = 1
_REQUESTS = 16
"""Number of shards whose size and time are requested at once."""


@dataclass(frozen=True)
class ShardPath:
    """Address of an image in a shard, with the path methods that reading needs."""

    url: str
    """Address of the shard."""
    member: str
    """Name in the shard."""
    position: tuple[int, int]
    """Position in the shard, as in `ShardEntry`."""

    def __str__(self) -> str:
        return f"{self.url}::{self.member}"

    def is_file(self) -> bool:
        """Return True, because the index lists the image."""
        return True

    def read_bytes(self) -> bytes:
        """Read the image, or raise an OSError, as for a file."""
        try:
            with shard_errors(self.url):
                shard = Shard.at(self.url)
                start, length = self.position
                if check_shard_kind(self.url) == "parquet":
                    return read_parquet_image(shard, start, length)
                return shard.read(start, start + length)
        except DataError as error:
            raise OSError(str(error)) from error


@dataclass(frozen=True)
class ShardIndex:
    """Image root of a data set in shards: `index / path` is the address of an image."""

    root: str
    """Directory of the shards."""
    addresses: Mapping[str, str] = field(hash=False, repr=False, compare=False)
    """Address of each shard by its name in that directory; a signature in it may expire."""
    positions: Mapping[str, tuple[int, int]] = field(hash=False, repr=False)
    """Position of each image in its shard by the path of its item: `train-000.tar::cat/1.jpg`."""

    def __truediv__(self, path: str) -> ShardPath:
        shard, _, member = path.partition("::")
        return ShardPath(self.addresses[shard], member, self.positions[path])

    def __str__(self) -> str:
        return self.root


def is_sharded(source: str) -> bool:
    """Return True for the name of a shard, a URL, or a directory that holds shards and no directories."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        content = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
        return any(shard_kind(entry.name) for entry in content) and not any(entry.is_dir() for entry in content)
    return "://" in source or shard_kind(source) is not None


def read_shards(
    source: str, *, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Listing, ShardIndex]:
    """List the images of shards; none is decoded or kept.

    Images of train and val are in the order of an image directory with the same names, so that few-shot sampling does
    not depend on how they are packed. Images of test are in the order of the shards, so that they are read in sequence.

    Args:
        source: shards, as for `find_shards`.
        seed: seed of the split of shards that have none; the split depends on the names of the images.
        on_progress: called with the number of bytes done and in total.

    Raises:
        CocoopError: as `find_shards` and `read_shard`; if an image has no class or is listed twice, or only some have a
            split.
    """
    urls = find_shards(source)
    clear_row_group_cache()
    # os.path.commonpath would merge the slashes of `s3://`.
    root = os.path.commonprefix([without_query(url) for url in urls]).rpartition("/")[0] + "/"  # noqa: RUF071
    addresses = {without_query(url).removeprefix(root): url for url in urls}
    rows: list[Row] = []
    positions: dict[str, tuple[int, int]] = {}
    for url, entries in _index_shards(urls, on_progress):
        shard = without_query(url).removeprefix(root)
        for entry in entries:
            if entry.classname is None:
                raise _missing_class_error(url, entry.member)
            path = f"{shard}::{entry.member}"
            rows.append(Row(path, entry.classname, entry.split, f"'{url}'"))
            positions[path] = entry.position
    if not rows:
        raise DataError(f"The shards at '{source}' hold no image.")
    check_unique(rows)
    without_split = [row for row in rows if row.split is None]
    if 0 < len(without_split) < len(rows):
        raise DataError(
            f"The image {without_split[0].path!r} has no split, though others have one. Name every shard after its"
            " split (train-000.tar), or none."
        )

    def by_name(row: Row) -> tuple[str, str, str]:
        return row.raw_class, row.path.partition("::")[2], row.path

    def by_position(row: Row) -> tuple[str, tuple[int, int]]:
        return row.path.partition("::")[0], positions[row.path]

    if without_split:
        rows = assign_splits(rows, seed, key=by_name)
    train_and_val = sorted((row for row in rows if row.split != "test"), key=by_name)
    test = sorted((row for row in rows if row.split == "test"), key=by_position)
    classes = sort_by_name([row.raw_class for row in rows])
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    return Listing(train_and_val + test, classes), ShardIndex(root, addresses, positions)


def shard_dataset_name(source: str) -> str:
    """Return the common part of the shards' names, or else the name of their directory.

    `pets-{000..099}.tar` is `pets`, and so is `pets/train-*.parquet`.
    """
    url = source if "://" in source else Path(source).expanduser().absolute().as_posix()
    directory, _, file = without_query(url).rstrip("/").rpartition("/")
    if shard_kind(file) is None:
        return file
    common = re.split(r"[{*?\[]", file.rpartition(".")[0])[0].rstrip("-_.0123456789")
    return common if common and common.lower() not in SPLIT_NAMES else directory.rpartition("/")[2] or "shards"


def _index_shards(
    urls: list[str], on_progress: Callable[[int, int], None] | None
) -> Iterator[tuple[str, list[ShardEntry]]]:
    """Yield the entries of each shard, from the cache or from the shard itself."""
    filesystem, _ = get_filesystem(urls[0])
    cache = cache_directory() / "shards"
    remove_stale_files(cache, "*.json")

    def get_info(url: str) -> dict[str, Any]:
        with shard_errors(url):
            info: dict[str, Any] = filesystem.info(filesystem._strip_protocol(url))
            return info

    with ThreadPoolExecutor(_REQUESTS) as pool:
        infos = list(pool.map(get_info, urls))
    total, before = sum(info["size"] or 0 for info in infos), 0

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(before + done, total)

    for url, info in zip(urls, infos, strict=True):
        # The address, which `info` repeats, may hold a signature.
        identity = [_FORMAT, without_query(url), {key: value for key, value in info.items() if value != url}]
        file = cache / f"{hash_content(json.dumps(identity, default=str, sort_keys=True))}.json"
        entries = _read_cached(file)
        if entries is None:
            entries = [entry for entry, _ in scan_shard(url, with_bytes=False, on_bytes=report)]
            content = json.dumps(entries).encode()
            # Without a writable cache, the index is rebuilt the next time.
            with contextlib.suppress(CheckpointError):
                write_atomic(file, hash_content(content).encode() + b"\n" + content)
        before += info["size"] or 0
        report(0)
        yield url, entries


def _read_cached(file: Path) -> list[ShardEntry] | None:
    """Return the entries in a file; None if it does not exist or is damaged."""
    try:
        digest, _, content = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest.decode(errors="replace") != hash_content(content):
        warnings.warn(f"The index '{file}' is damaged; it is rebuilt.", DamageWarning, stacklevel=2)
        return None
    return [
        ShardEntry(member, classname, split, (start, length))
        for member, classname, split, (start, length) in json.loads(content)
    ]


def _missing_class_error(url: str, member: str) -> DataError:
    if shard_kind(url) == "parquet":
        return DataError(
            f"The image '{url}::{member}' has no class. Give every row of the shard a value in a column 'label'."
        )
    return DataError(
        f"The image '{url}::{member}' has no class. Write shards as WebDataset does, with the class in a text file of"
        " the same name next to the image (1.jpg, 1.cls). To use an archive of class directories, unpack it."
    )
