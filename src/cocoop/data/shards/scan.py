"""Streams of the images in shards: WebDataset tar files and Parquet files, local or remote (`s3://`, `https://`).

Nothing is copied to disk, and about one image is in memory at a time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cocoop.data.dataset import Split
from cocoop.data.shards.parquet import scan_parquet
from cocoop.data.shards.source import Shard, ShardEntry, check_shard_kind, get_filesystem, shard_errors, shard_kind
from cocoop.data.shards.tar import scan_tar
from cocoop.errors import DataError

__all__ = ["ShardSample", "find_shards", "read_shard", "scan_shard"]

MAX_SHARDS = 1_000_000
"""Largest number of shards in a range of numbers."""

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_SCANS = {"tar": scan_tar, "parquet": scan_parquet}


class ShardSample(NamedTuple):
    """An image in a shard, with its bytes."""

    path: str
    """Shard and name in it: `shards/train-000.tar::cat/1.jpg`."""
    data: bytes
    """Encoded image."""
    classname: str | None
    """Class as the shard spells it; None if it has none."""
    split: Split | None
    """Split by the shard's content or name (`train-000.tar`); None if neither has one."""


def find_shards(source: str) -> list[str]:
    """List shards; none is opened.

    Args:
        source: a directory of shards, a shard, or a pattern of shards, such as `train-{000..099}.tar` or
            `{train,test}-*.parquet`, on any file system of fsspec.

    Returns:
        Sorted addresses; absolute paths for local shards.

    Raises:
        ConfigError: if a package that the file system needs is not installed.
        DataError: if there is no shard, or one is compressed.
    """
    filesystem, _ = get_filesystem(source)
    shards: set[str] = set()
    with shard_errors(source):
        for pattern in _expand_braces(source):
            path = filesystem._strip_protocol(pattern)
            # In a URL, a question mark starts the query.
            if any(character in pattern for character in ("*[" if "://" in pattern else "*[?")):
                shards.update(filesystem.glob(path))
            elif shard_kind(pattern) is None and filesystem.isdir(path):
                shards.update(name for name in filesystem.ls(path, detail=False) if shard_kind(name))
            else:
                shards.add(path)
    if not shards:
        raise DataError(f"There is no shard at '{source}'. A shard is a WebDataset .tar or a .parquet file.")
    is_local = filesystem.unstrip_protocol("/").startswith(("file:", "local:"))
    urls = sorted(shards if is_local else map(filesystem.unstrip_protocol, shards))
    for url in urls:
        check_shard_kind(url)
    return urls


def read_shard(url: str) -> Iterator[ShardSample]:
    """Stream the images of a shard.

    Args:
        url: address of an uncompressed WebDataset tar file or of a Parquet file.

    Raises:
        ConfigError: if a required package is not installed.
        DataError: naming the shard, if it is missing, damaged, cut off, compressed or malicious.
    """
    for entry, data in scan_shard(url, with_bytes=True):
        yield ShardSample(f"{url}::{entry.member}", data, entry.classname, entry.split)


def scan_shard(
    url: str, *, with_bytes: bool, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[ShardEntry, bytes]]:
    """Stream the entries of a shard, with the images' bytes or with `b""`.

    Args:
        url: address of the shard.
        with_bytes: read the images too.
        on_bytes: called with the number of bytes done.
    """
    with shard_errors(url):
        scan = _SCANS[check_shard_kind(url)]
        yield from scan(Shard.at(url), with_bytes=with_bytes, on_bytes=on_bytes)


def _expand_braces(pattern: str) -> list[str]:
    """Expand `a-{08..10}` to `a-08`, `a-09`, `a-10` and `{a,b}` to `a` and `b`, as a shell does."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    first, last, names = braces.groups()
    if names is not None:
        values = names.split(",")
    else:
        if not int(first) <= int(last) < int(first) + MAX_SHARDS:
            raise DataError(f"'{braces[0]}' in '{pattern}' must count up, over at most {MAX_SHARDS:,} shards.")
        values = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    prefix, suffixes = pattern[: braces.start()], _expand_braces(pattern[braces.end() :])
    return [f"{prefix}{value}{suffix}" for value, suffix in itertools.product(values, suffixes)]
