"""Shards as a data set: an index that is streamed once and kept, and photos read from their place in a shard.

An index holds names, classes and places, and no photo. It is kept a file a shard, found by the shard's address and what
the file system says of it (size, time, ETag):

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

from cocoop.data.class_names import in_name_order
from cocoop.data.readers.rows import SPLIT_NAMES, Listing, Row, check_unique, divide
from cocoop.data.shards.parquet import close_parquet_files, read_parquet_image
from cocoop.data.shards.scan import find_shards, scan_shard
from cocoop.data.shards.source import Entry, Shard, check_shard_kind, get_filesystem, shard_errors, shard_kind, unsigned
from cocoop.errors import CheckpointError, DamageWarning, DataError
from cocoop.storage.atomic import remove_stale_files, write_atomic
from cocoop.storage.cache_directory import cache_directory
from cocoop.storage.hashing import hash_content

__all__ = ["ShardIndex", "ShardedImage", "is_sharded", "name_of_shards", "read_shards"]

_FORMAT = 1
_REQUESTS = 16
"""Shards that are asked for at once whether they have changed."""


@dataclass(frozen=True)
class ShardedImage:
    """Where a photo in a shard lies: to it what a path is to a file."""

    url: str
    """Of the shard."""
    member: str
    """Its name in the shard."""
    place: tuple[int, int]
    """As in its `Entry`."""

    def __str__(self) -> str:
        return f"{self.url}::{self.member}"

    def is_file(self) -> bool:
        """Whether it is there, which the index says."""
        return True

    def read_bytes(self) -> bytes:
        """Its bytes, and no more of a tar file; of a Parquet file, its row group is read.

        Raises:
            OSError: if they cannot be read.
        """
        try:
            with shard_errors(self.url):
                shard = Shard.at(self.url)
                start, length = self.place
                if check_shard_kind(self.url) == "parquet":
                    return read_parquet_image(shard, start, length)
                return shard.read(start, start + length)
        except DataError as error:
            raise OSError(str(error)) from error


@dataclass(frozen=True)
class ShardIndex:
    """What an image root is to files: `index / path` is where a photo lies."""

    root: str
    """The folder of the shards."""
    addresses: Mapping[str, str] = field(hash=False, repr=False, compare=False)
    """By the name of a shard in that folder, how it is reached; a signature in it is good for some hours only."""
    places: Mapping[str, tuple[int, int]] = field(hash=False, repr=False)
    """The place in its shard of each photo, by the path of its item: `train-000.tar::cat/1.jpg`."""

    def __truediv__(self, path: str) -> ShardedImage:
        shard, _, member = path.partition("::")
        return ShardedImage(self.addresses[shard], member, self.places[path])

    def __str__(self) -> str:
        return self.root


def is_sharded(source: str) -> bool:
    """Whether a source names shards: by its ending or scheme, or as a folder that holds shards and no folders."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        inside = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
        return any(shard_kind(entry.name) for entry in inside) and not any(entry.is_dir() for entry in inside)
    return "://" in source or shard_kind(source) is not None


def read_shards(
    source: str, *, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> tuple[Listing, ShardIndex]:
    """List the photos of shards and where they are; no photo is decoded or kept.

    Photos to learn from and to validate with stand in the order of an image folder of the same names, class by class,
    so that a draw is the same however they are packed; those to test with stand in the order of the shards, so that
    reading goes forward.

    Args:
        source: as `find_shards` takes it.
        seed: of the split of shards that come without one; the split depends on the photos' names in their shards.
        on_progress: called with the bytes of all shards that are done, and all there are.

    Raises:
        CocoopError: as `find_shards` and `read_shard` do; if a photo has no class, is there twice, or some have a
            split and some have none.
    """
    urls = find_shards(source)
    close_parquet_files()
    # Not commonpath, which would take the slashes of `s3://` for one.
    root = os.path.commonprefix([unsigned(url) for url in urls]).rpartition("/")[0] + "/"  # noqa: RUF071
    addresses = {unsigned(url).removeprefix(root): url for url in urls}
    rows: list[Row] = []
    places: dict[str, tuple[int, int]] = {}
    for url, entries in _indexed(urls, on_progress):
        where, shard = f"'{url}'", unsigned(url).removeprefix(root)
        for entry in entries:
            if entry.classname is None:
                raise _without_class(url, entry.member)
            path = f"{shard}::{entry.member}"
            rows.append(Row(path, entry.classname, entry.split, where))
            places[path] = entry.place
    if not rows:
        raise DataError(f"The shards at '{source}' hold no photo.")
    check_unique(rows)
    without = [row for row in rows if row.split is None]
    if 0 < len(without) < len(rows):
        raise DataError(
            f"The photo {without[0].path!r} has no split, though others have one. Name every shard after its split"
            " (train-000.tar), or none."
        )

    def by_name(row: Row) -> tuple[str, str, str]:
        return row.raw_class, row.path.partition("::")[2], row.path

    def forward(row: Row) -> tuple[str, tuple[int, int]]:
        return row.path.partition("::")[0], places[row.path]

    if without:
        rows = divide(rows, seed, by=by_name)
    learned = sorted((row for row in rows if row.split != "test"), key=by_name)
    tested = sorted((row for row in rows if row.split == "test"), key=forward)
    classes = in_name_order([row.raw_class for row in rows])
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    return Listing(learned + tested, classes), ShardIndex(root, addresses, places)


def name_of_shards(source: str) -> str:
    """What a data set in shards is called: what their names share, or else their folder's name.

    `pets-{000..099}.tar` is `pets`, and so is `pets/train-*.parquet`.
    """
    place = source if "://" in source else Path(source).expanduser().absolute().as_posix()
    directory, _, file = unsigned(place).rstrip("/").rpartition("/")
    if shard_kind(file) is None:
        return file
    shared = re.split(r"[{*?\[]", file.rpartition(".")[0])[0].rstrip("-_.0123456789")
    return shared if shared and shared.lower() not in SPLIT_NAMES else directory.rpartition("/")[2] or "shards"


def _indexed(urls: list[str], on_progress: Callable[[int, int], None] | None) -> Iterator[tuple[str, list[Entry]]]:
    """The entries of each shard, from where they are kept or else from the shard itself."""
    filesystem, _ = get_filesystem(urls[0])
    kept_in = cache_directory() / "shards"
    remove_stale_files(kept_in, "*.json")

    def facts_of(url: str) -> dict[str, Any]:
        with shard_errors(url):
            facts: dict[str, Any] = filesystem.info(filesystem._strip_protocol(url))
            return facts

    with ThreadPoolExecutor(_REQUESTS) as pool:
        facts = list(pool.map(facts_of, urls))
    total, before = sum(shard["size"] or 0 for shard in facts), 0

    def tell(done: int) -> None:
        if on_progress is not None:
            on_progress(before + done, total)

    for url, shard in zip(urls, facts, strict=True):
        known_by = json.dumps(
            [_FORMAT, unsigned(url), {k: v for k, v in shard.items() if v != url}], default=str, sort_keys=True
        )
        file = kept_in / f"{hash_content(known_by)}.json"
        entries = _kept(file)
        if entries is None:
            entries = [entry for entry, _ in scan_shard(url, with_bytes=False, on_bytes=tell)]
            content = json.dumps(entries).encode()
            # Where nothing can be kept, the index is made anew the next time.
            with contextlib.suppress(CheckpointError):
                write_atomic(file, hash_content(content).encode() + b"\n" + content)
        before += shard["size"] or 0
        tell(0)
        yield url, entries


def _kept(file: Path) -> list[Entry] | None:
    """The entries that a file keeps; None if there is no such file, or it is damaged."""
    try:
        digest, _, content = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest.decode(errors="replace") != hash_content(content):
        warnings.warn(f"The index '{file}' is damaged; it is made anew.", DamageWarning, stacklevel=2)
        return None
    return [Entry(member, name, split, (start, length)) for member, name, split, (start, length) in json.loads(content)]


def _without_class(url: str, member: str) -> DataError:
    if shard_kind(url) == "parquet":
        return DataError(f"The photo '{url}::{member}' has no class. Give the shard a column 'label' that is filled.")
    return DataError(
        f"The photo '{url}::{member}' has no class. Pack it as WebDataset does, with its class in a text file of the"
        " same name right beside it (1.jpg, 1.cls); unpack an archive of class folders and give the folder."
    )
