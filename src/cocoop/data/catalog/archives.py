"""Unpacking tar and zip files that were made by others: nothing outside of the target, nothing but files, no floods.

A member's name must stay below the target; links, devices and encrypted members are refused, and nothing of the
archive's owners, modes or times is taken over. That is stricter than the standard library's `data` filter for tar
files, which lets links pass and which not every Python 3.10 has; one rule serves both formats here. The members are
counted and measured while they are written, so that an archive that lies about its size is stopped too.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NoReturn, Protocol, cast, runtime_checkable

from cocoop.data.catalog.download import ByteProgress
from cocoop.errors import DataError
from cocoop.storage.atomic import sync_directory

__all__ = ["Limits", "Metered", "tar_refusal", "unpack"]

_CHUNK = 1 << 20

_COMPRESSIONS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""First bytes of a compressed tar file, and how it is read; names tell nothing (ImageNetV2's .tar.gz may be plain)."""

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    # The library believes what headers say of numbers.
    ValueError,
    LookupError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an archive may unpack to; the data sets of the papers stay far below."""

    members: int = 3_000_000
    """Files and folders."""
    size: int = 400_000_000_000
    """Bytes of all files."""
    ratio: int = 50
    """Bytes of all files over bytes of the archive; photos hardly compress."""
    spared: int = 100_000_000
    """Bytes up to which the ratio does not count: lists of names compress well."""


@dataclass(frozen=True)
class _Member:
    """What is common to members of tar and zip files."""

    name: str
    directory: bool
    refusal: str
    """Why it is not unpacked; empty if it is."""
    open: Callable[[], Any]
    """Its content as a file; not for folders and what is refused."""


def unpack(
    archive: Path,
    target: Path,
    *,
    limits: Limits | None = None,
    on_progress: ByteProgress | None = None,
) -> None:
    """Unpack an archive into a new folder, which is there whole or not at all.

    Args:
        archive: a zip file, or a tar file, plain or compressed (gzip, bzip2, xz); known by its content.
        target: the folder; it must not exist. What an interrupted call left is cleared away.
        limits: what it may unpack to.
        on_progress: called with the bytes of the archive that were read, and its size.

    Raises:
        DataError: if the archive is damaged or of another kind, a member leads out of the target or is no plain file,
            the limits are passed, or the disk is full. Then nothing of it stays.
    """
    if target.exists():
        raise DataError(f"'{target}' is there already; '{archive.name}' is not unpacked over it.")
    staging = target.with_name(f".{target.name}.unpacking")
    _clear(staging)
    try:
        staging.mkdir(parents=True)
        _unpack(archive, staging, limits or Limits(), on_progress)
        if hasattr(os, "sync"):
            # Once for all files: after the rename nobody looks whether they are whole.
            os.sync()
        staging.replace(target)
        sync_directory(target.parent)
    except _BROKEN as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        # The decompressors know damage as an OSError without a number; those of the disk have one.
        if error.errno is None:
            raise _damaged(archive, error) from error
        raise DataError(f"'{archive.name}' cannot be unpacked to '{target}': {error.strerror}.") from error
    finally:
        _clear(staging)


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(
        f"The archive '{archive}' is damaged, or neither tar nor zip: {error}. Remove it and get it again."
    )


def _unpack(archive: Path, staging: Path, limits: Limits, on_progress: ByteProgress | None) -> None:
    packed = archive.stat().st_size
    allowed = min(limits.size, max(limits.ratio * packed, limits.spared))
    flood = f"holds more than {{}}, though it has only {packed:,} bytes; photos do not pack like that"
    count = written = 0
    with archive.open("rb") as file:
        for member in _members(file, lambda: _refuse(archive, flood.format(f"{allowed:,} bytes")), allowed):
            count += 1
            if count > limits.members:
                _refuse(archive, flood.format(f"{limits.members:,} files"))
            path = _path_below(staging, member, archive)
            if member.refusal:
                _refuse(archive, f"has the member {member.name!r}, which {member.refusal}")
            if member.directory:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, path.open("wb") as copy:
                while chunk := source.read(_CHUNK):
                    written += len(chunk)
                    if written > allowed:
                        _refuse(archive, flood.format(f"{allowed:,} bytes"))
                    copy.write(chunk)
            if on_progress is not None:
                on_progress(file.tell(), packed)


def _members(file: IO[bytes], overflow: Callable[[], NoReturn], allowed: int) -> Iterator[_Member]:
    """The members of an archive in their order; each must be read before the next is asked for."""
    start = file.read(6)
    file.seek(0)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                yield _Member(info.filename, info.is_dir(), _zip_refusal(info), functools.partial(archive.open, info))
        return
    decompress = next((opened for magic, opened in _COMPRESSIONS.items() if start.startswith(magic)), None)
    content = Metered(file if decompress is None else decompress(file), allowed, overflow)
    with tarfile.open(fileobj=cast("IO[bytes]", content), mode="r|", bufsize=_CHUNK) as tar:
        for member in tar:
            opened = functools.partial(tar.extractfile, member)
            yield _Member(member.name, member.isdir(), tar_refusal(member), opened)
    # The tar file ends before the compressed one does, whose checksum comes last.
    while content.read(_CHUNK):
        pass


@runtime_checkable
class _Readable(Protocol):
    """What a tar file is read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""


class Metered:
    """A tar file's bytes, up to a limit: its headers alone can be a flood."""

    def __init__(self, file: _Readable, left: int, overflow: Callable[[], NoReturn]) -> None:
        self.file = file
        self.left = left
        self.overflow = overflow

    def read(self, size: int) -> bytes:
        """As of a file."""
        data = self.file.read(size)
        self.left -= len(data)
        if self.left < 0:
            self.overflow()
        return data


def tar_refusal(member: tarfile.TarInfo) -> str:
    """Why a member is not taken from a tar file; empty for plain files and folders."""
    if member.issym() or member.islnk():
        return f"is a link to {member.linkname!r}"
    if member.issparse() or not (member.isreg() or member.isdir()):
        return "is neither a plain file nor a folder"
    return ""


def _zip_refusal(info: zipfile.ZipInfo) -> str:
    # The upper half holds the Unix mode, 0 where the file was made elsewhere.
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a plain file nor a folder"
    return "is encrypted" if info.flag_bits & 1 else ""


def _path_below(directory: Path, member: _Member, archive: Path) -> Path:
    name = member.name
    path = PurePosixPath(name)
    # Backslashes and drives lead elsewhere on Windows; no data set has them in a name.
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or PureWindowsPath(name).drive:
        _refuse(archive, f"has the member {name!r}, which leads out of its folder")
    if not path.parts and not member.directory:
        _refuse(archive, f"has the member {name!r}, a file without a name")
    return directory / path


def _refuse(archive: Path, reason: str) -> NoReturn:
    raise DataError(
        f"The archive '{archive}' is not unpacked: it {reason}. Get it again from its owners, or unpack it yourself if"
        " you trust it."
    )


def _clear(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
