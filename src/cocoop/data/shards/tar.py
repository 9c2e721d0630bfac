"""WebDataset shards: tar files in which the members of a photo follow one another and share a key.

    000017.jpg  000017.cls      the class, by name or index, in a text file
    000018.jpg  000018.json     {"classname": "tabby cat"}, or "class", or "label"; "split" if wanted
    000019.jpg  000019.txt      the class, where there is no .cls and no .json with one

The key is the path up to the first dot of the file's name. Reference: webdataset's documentation, "The WebDataset
Format". The tar file is streamed and never unpacked; its own reader in the package webdataset also opens `pipe:`
addresses, which are shell commands.
"""

from __future__ import annotations

import functools
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, NoReturn, cast

from cocoop.data.catalog.archives import Metered, tar_refusal
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES
from cocoop.data.shards.source import MAX_IMAGE, Entry, Shard, compressed, split_of
from cocoop.errors import DataError

__all__ = ["scan_tar"]

MAX_LABEL = 1 << 20
"""Bytes of a .cls, .json or .txt member."""
MAX_HEADERS = 1 << 20
"""Bytes of the headers of one member, long names included."""
MAX_TAIL = 64 << 20
"""Bytes of zeros that a tar file may end with; GNU tar fills its last record, usually 10 KiB."""

_CHUNK = 1 << 18
_BLOCK = 512
_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_KEY_AND_ENDING = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_LABELS = ("cls", "json", "txt")
_CLASS_FIELDS = ("classname", "class", "label")


@dataclass
class _Sample:
    """The members of one key."""

    key: str = ""
    images: list[tuple[str, tuple[int, int], bytes]] = field(default_factory=list)
    """Name, place and bytes of each photo."""
    size: int = 0
    """Bytes of its photos."""
    labels: dict[str, bytes] = field(default_factory=dict)
    """Contents of label members, by ending."""


def scan_tar(
    shard: Shard, *, with_bytes: bool, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[Entry, bytes]]:
    """Stream a tar file from its beginning to its end.

    Args:
        shard: the file.
        with_bytes: whether the photos' bytes are wanted; else they are passed over and come as `b""`.
        on_bytes: called with the position in the file, after each member.

    Yields:
        The photos in their order, each when all members of its key have been seen.

    Raises:
        DataError: if it is compressed, damaged or cut off, holds links or anything else that is no plain file, claims
            absurd sizes, or says a class in a way that is no text and no number.
    """
    sample = _Sample()
    for member, read in _members(shard, on_bytes):
        named = _KEY_AND_ENDING.fullmatch(member.name)
        if named is None or not member.isreg():
            continue
        key, ending = named[1], named[2].lower()
        if key != sample.key:
            yield from _entries(sample, shard)
            sample = _Sample(key)
        if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            sample.size += member.size
            if sample.size > MAX_IMAGE:
                _refuse(shard, f"has {sample.size:,} bytes of photos named {key!r}; {MAX_IMAGE:,} are allowed")
            place = (member.offset_data, member.size)
            sample.images.append((member.name, place, read() if with_bytes else b""))
        elif ending in _LABELS:
            if member.size > MAX_LABEL:
                _refuse(shard, f"has the label {member.name!r} of {member.size:,} bytes; {MAX_LABEL:,} are allowed")
            sample.labels[ending] = read()
    yield from _entries(sample, shard)


def _members(
    shard: Shard, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The members, and how to read each before the next is asked for; at the end, whether that was the whole file."""
    size, end = shard.size, 0
    if shard.read(0, min(size, _BLOCK)).startswith(_COMPRESSIONS):
        raise compressed(shard.url)
    with shard.filesystem.open(shard.path, "rb") as file:
        # What may be read beyond the members: headers, which can be a flood of their own, and a chunk ahead.
        metered = Metered(file, MAX_HEADERS + _CHUNK, lambda: _refuse(shard, "has a header without an end"))
        with tarfile.open(fileobj=cast("IO[bytes]", metered), mode="r|", bufsize=_CHUNK, encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                # The standard library keeps every member that it has seen, which a stream of millions cannot.
                tar.members = []  # type: ignore[attr-defined]
                if refusal := tar_refusal(member):
                    _refuse(shard, f"has the member {member.name!r}, which {refusal}")
                begin, end = end, member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.size < 0 or end > size:
                    _refuse(shard, f"is cut off: {member.name!r} should end at byte {end:,}, the file ends at {size:,}")
                metered.left += end - begin
                yield member, functools.partial(_content, tar, member)
                if on_bytes is not None:
                    on_bytes(end)
    _check_end(shard, end, size)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _check_end(shard: Shard, end: int, size: int) -> None:
    """Check that zeros follow the last member, up to the end of the file.

    The standard library takes a file that is cut between two members, or that goes on with a broken header, for a
    whole one.
    """
    if size - end > MAX_TAIL or any(shard.read(end, size)):
        _refuse(shard, f"is damaged, or several tar files in one: it goes on after its end at byte {end:,}")
    if size - end < _BLOCK:
        _refuse(shard, f"is cut off: the mark of its end is missing after byte {end:,}")


def _entries(sample: _Sample, shard: Shard) -> Iterator[tuple[Entry, bytes]]:
    if not sample.images:
        return
    where = f"'{shard.url}', {sample.key!r}"
    facts = _json(sample.labels["json"], where) if "json" in sample.labels else {}
    classname = next((str(facts[name]) for name in _CLASS_FIELDS if facts.get(name) is not None), None)
    for ending in ("cls", "txt") if classname is None else ("cls",):
        if ending in sample.labels:
            classname = _text(sample.labels[ending], f"{where}, .{ending}")
            break
    split = split_of(facts.get("split"), shard.url, where)
    for name, place, data in sample.images:
        yield Entry(name, classname or None, split, place), data


def _json(content: bytes, where: str) -> dict[str, object]:
    try:
        facts = json.loads(_text(content, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: its .json is not valid JSON: {error}.") from error
    if not isinstance(facts, dict):
        raise DataError(f'{where}: its .json must be an object like {{"classname": "dog"}}.')
    for name in (*_CLASS_FIELDS, "split"):
        value = facts.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise DataError(f"{where}: {name!r} in its .json must be a text or a whole number, not {value!r}.")
    return facts


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: its label is not UTF-8 text.") from error


def _refuse(shard: Shard, reason: str) -> NoReturn:
    raise DataError(f"The shard '{shard.url}' is not read: it {reason}. Get it again, or pack it anew.")
