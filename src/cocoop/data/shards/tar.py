"""WebDataset shards: tar files in which the members of a sample follow one another and share a key.

    000017.jpg  000017.cls      class, by name or index, in a text file
    000018.jpg  000018.json     {"classname": "tabby cat"}, or "class", or "label"; optionally "split"
    000019.jpg  000019.txt      class, if there is neither a .cls nor a .json with one

The key is the path up to the first dot of the file name. Reference: webdataset's documentation, "The WebDataset
Format". The package webdataset is not used, because it also opens `pipe:` addresses, which are shell commands.
"""

from __future__ import annotations

import functools
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn, cast

from cocoop.data.readers.image_directories import IMAGE_SUFFIXES
from cocoop.data.shards.source import MAX_IMAGE_BYTES, Shard, ShardEntry, compressed_shard_error, image_split
from cocoop.errors import DataError

__all__ = ["scan_tar"]

MAX_LABEL_BYTES = 1 << 20
"""Largest size of a .cls, .json or .txt member."""
MAX_HEADER_BYTES = 1 << 20
"""Largest size of the headers of a member, long names included."""
MAX_PADDING = 64 << 20
"""Largest number of zeros at the end of a tar file; GNU tar fills its last record, usually of 10 KiB."""

_CHUNK = 1 << 18
_BLOCK = 512
_COMPRESSIONS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_KEY_AND_SUFFIX = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_LABEL_SUFFIXES = ("cls", "json", "txt")
_CLASS_FIELDS = ("classname", "class", "label")


@dataclass
class _Sample:
    """Members that share a key."""

    key: str = ""
    images: list[tuple[str, tuple[int, int], bytes]] = field(default_factory=list)
    """Name, position and bytes of each image."""
    size: int = 0
    """Total size of the images in bytes."""
    labels: dict[str, bytes] = field(default_factory=dict)
    """Content of label members, by suffix."""


def scan_tar(
    shard: Shard, *, with_bytes: bool, on_bytes: Callable[[int], None] | None = None
) -> Iterator[tuple[ShardEntry, bytes]]:
    """Stream a tar file as `scan_shard` does.

    Raises:
        DataError: if the file is compressed, damaged or cut off, holds links or devices, claims absurd sizes, or has a
            class that is not text or a number.
    """
    sample = _Sample()
    for member, read in _members(shard, on_bytes):
        match = _KEY_AND_SUFFIX.fullmatch(member.name)
        if match is None or not member.isreg():
            continue
        key, suffix = match[1], match[2].lower()
        if key != sample.key:
            yield from _entries(sample, shard)
            sample = _Sample(key)
        if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            sample.size += member.size
            if sample.size > MAX_IMAGE_BYTES:
                _refuse(
                    shard,
                    f"it has {sample.size:,} bytes of images with the key {key!r}; the limit is {MAX_IMAGE_BYTES:,}",
                )
            position = (member.offset_data, member.size)
            sample.images.append((member.name, position, read() if with_bytes else b""))
        elif suffix in _LABEL_SUFFIXES:
            if member.size > MAX_LABEL_BYTES:
                _refuse(shard, f"its label {member.name!r} has {member.size:,} bytes; the limit is {MAX_LABEL_BYTES:,}")
            sample.labels[suffix] = read()
    yield from _entries(sample, shard)


class _HeaderMeter:
    """A shard's file that limits how many bytes are read besides the content of members."""

    def __init__(self, file: Any, shard: Shard) -> None:
        self.file = file
        self.shard = shard
        self.allowed = MAX_HEADER_BYTES + _CHUNK

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes."""
        data: bytes = self.file.read(size)
        self.allowed -= len(data)
        if self.allowed < 0:
            _refuse(self.shard, "it has an endless header")
        return data


def _members(
    shard: Shard, on_bytes: Callable[[int], None] | None
) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """Yield each member with a function to read it before the next is taken; check at the end that none is missing."""
    size, end = shard.size, 0
    if shard.read(0, min(size, _BLOCK)).startswith(_COMPRESSIONS):
        raise compressed_shard_error(shard.url)
    with shard.filesystem.open(shard.path, "rb") as file:
        meter = _HeaderMeter(file, shard)
        with tarfile.open(fileobj=cast("IO[bytes]", meter), mode="r|", bufsize=_CHUNK, encoding="utf-8") as tar:
            while (member := tar.next()) is not None:
                # The standard library keeps all members, of which a shard may have millions.
                tar.members = []  # type: ignore[attr-defined]
                _check_type(member, shard)
                start, end = end, member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                if member.size < 0 or end > size:
                    _refuse(
                        shard, f"it is cut off: {member.name!r} should end at byte {end:,}, the file ends at {size:,}"
                    )
                meter.allowed += end - start
                yield member, functools.partial(_content, tar, member)
                if on_bytes is not None:
                    on_bytes(end)
    _check_end(shard, end, size)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _check_type(member: tarfile.TarInfo, shard: Shard) -> None:
    if member.issym() or member.islnk():
        _refuse(shard, f"{member.name!r} is a link to {member.linkname!r}")
    if member.issparse() or not (member.isreg() or member.isdir()):
        _refuse(shard, f"{member.name!r} is neither a plain file nor a directory")


def _check_end(shard: Shard, end: int, size: int) -> None:
    """Check that only zeros follow the last member.

    The standard library accepts a file that is cut off between members, or has a broken header there, as complete.
    """
    if size - end > MAX_PADDING or any(shard.read(end, size)):
        _refuse(shard, f"it is damaged, or several tar files in one: there is data after its end at byte {end:,}")
    if size - end < _BLOCK:
        _refuse(shard, f"it is cut off: there is no end mark after byte {end:,}")


def _entries(sample: _Sample, shard: Shard) -> Iterator[tuple[ShardEntry, bytes]]:
    if not sample.images:
        return
    origin = f"'{shard.url}', {sample.key!r}"
    fields = _parse_json(sample.labels["json"], origin) if "json" in sample.labels else {}
    classname = next((str(fields[name]) for name in _CLASS_FIELDS if fields.get(name) is not None), None)
    for suffix in ("cls", "txt") if classname is None else ("cls",):
        if suffix in sample.labels:
            classname = _decode(sample.labels[suffix], f"{origin}, .{suffix}")
            break
    split = image_split(fields.get("split"), shard.url, origin)
    for name, position, data in sample.images:
        yield ShardEntry(name, classname or None, split, position), data


def _parse_json(content: bytes, origin: str) -> dict[str, Any]:
    try:
        fields = json.loads(_decode(content, origin))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{origin}: its .json is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise DataError(f'{origin}: its .json must be an object like {{"classname": "dog"}}.')
    for name in (*_CLASS_FIELDS, "split"):
        value = fields.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise DataError(f"{origin}: {name!r} in its .json must be a string or an integer, not {value!r}.")
    return fields


def _decode(content: bytes, origin: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{origin}: its label is not UTF-8 text.") from error


def _refuse(shard: Shard, reason: str) -> NoReturn:
    raise DataError(f"The shard '{shard.url}' cannot be used: {reason}. Download it again, or create it again.")
