"""Data in shards: WebDataset tar files and Parquet files, here or on any file system of fsspec (`s3://`, `https://`).

Shards are streamed: nothing is unpacked or copied to a disk, and about one photo is in memory at a time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cocoop.data.dataset import Split
from cocoop.data.shards.parquet import scan_parquet
from cocoop.data.shards.source import Entry, Shard, check_shard_kind, get_filesystem, shard_errors, shard_kind
from cocoop.data.shards.tar import scan_tar
from cocoop.errors import DataError

__all__ = ["ShardImage", "find_shards", "read_shard", "scan_shard"]

MAX_SHARDS = 1_000_000
"""Shards that a range of numbers may name."""

_RANGE_OR_LIST = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_SCANS = {"tar": scan_tar, "parquet": scan_parquet}


class ShardImage(NamedTuple):
    """One photo of a shard."""

    path: str
    """The shard and its name in it: `shards/train-000.tar::cat/1.jpg`."""
    data: bytes
    """Its bytes, as a file would hold them."""
    classname: str | None
    """Its class, as the shard spells it; None if it does not say."""
    split: Split | None
    """Its split, as the shard or its file name (`train-000.tar`) says; None if neither does."""


def find_shards(source: str) -> list[str]:
    """List shards; none is opened.

    Args:
        source: a folder with shards directly in it, a shard, or a pattern of them: `train-{000..099}.tar`,
            `{train,test}-*.parquet`, on any file system that fsspec knows by its scheme.

    Returns:
        Their addresses, sorted; absolute paths if they are on this machine.

    Raises:
        ConfigError: if a package that the file system needs is not installed.
        DataError: if there is no shard, or one is compressed.
    """
    filesystem, _ = get_filesystem(source)
    found: set[str] = set()
    with shard_errors(source):
        for pattern in _expanded(source):
            path = filesystem._strip_protocol(pattern)
            # A query, as in signed addresses, also begins with a question mark.
            if any(sign in pattern for sign in ("*[" if "://" in pattern else "*[?")):
                found.update(filesystem.glob(path))
            elif shard_kind(pattern) is None and filesystem.isdir(path):
                found.update(name for name in filesystem.ls(path, detail=False) if shard_kind(name))
            else:
                found.add(path)
    if not found:
        raise DataError(f"There is no shard at '{source}'; a shard is a WebDataset .tar or a .parquet file.")
    is_local = filesystem.unstrip_protocol("/").startswith(("file:", "local:"))
    shards = sorted(found if is_local else map(filesystem.unstrip_protocol, found))
    for url in shards:
        check_shard_kind(url)
    return shards


def read_shard(url: str) -> Iterator[ShardImage]:
    """Stream the photos of a shard.

    Args:
        url: of a WebDataset tar file, plain, or of a Parquet file.

    Raises:
        ConfigError: if a package that it needs is not installed.
        DataError: naming the shard, if it is missing, damaged, cut off, compressed or hostile.
    """
    for entry, data in scan_shard(url, with_bytes=True):
        yield ShardImage(f"{url}::{entry.member}", data, entry.classname, entry.split)


def scan_shard(
    url: str, *, with_bytes: bool, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[Entry, bytes]]:
    """Stream what is known of each photo of a shard, with its bytes or with none.

    Args:
        url: of the shard.
        with_bytes: whether the photos' bytes are wanted; else they come as `b""`.
        on_bytes: called with the bytes of the shard that are done.

    Raises:
        CocoopError: as `read_shard` does.
    """
    with shard_errors(url):
        scan = _SCANS[check_shard_kind(url)]
        yield from scan(Shard.at(url), with_bytes=with_bytes, on_bytes=on_bytes)


def _expanded(pattern: str) -> list[str]:
    """`a-{08..10}` to `a-08`, `a-09`, `a-10`, as a shell does, and `{a,b}` to `a` and `b`."""
    found = _RANGE_OR_LIST.search(pattern)
    if found is None:
        return [pattern]
    first, last, names = found.groups()
    if names is not None:
        values = names.split(",")
    else:
        if not int(first) <= int(last) < int(first) + MAX_SHARDS:
            raise DataError(f"'{found[0]}' in '{pattern}' must count up, over at most {MAX_SHARDS:,} shards.")
        values = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    before, rests = pattern[: found.start()], _expanded(pattern[found.end() :])
    return [f"{before}{value}{rest}" for value, rest in itertools.product(values, rests)]
