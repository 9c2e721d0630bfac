"""Unpacking of tar and zip archives, limited in size and to plain files below the target directory."""

from __future__ import annotations

import functools
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from cocoop.data.catalog.download import ByteProgress
from cocoop.errors import DataError

__all__ = ["unpack"]

MAX_RATIO = 50
"""Largest size of the unpacked files relative to the archive; images hardly compress."""
ALWAYS_ALLOWED = 100_000_000
"""Bytes that may be unpacked from any archive; lists of names compress well."""
_BYTES_PER_MEMBER = 512
"""Size of an empty member, so that the limit also stops archives of many empty files."""

# The standard library trusts the numbers in headers, so damage may surface as any of these.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    LookupError,
    struct.error,
)

_Member = tuple[int, Callable[[], object]]
"""Size of a member, and a function that extracts it."""


class _RefusedError(Exception):
    """A member that is not unpacked."""


def unpack(
    archive: Path, target: Path, *, max_bytes: int | None = None, on_progress: ByteProgress | None = None
) -> None:
    """Unpack an archive into a new directory, which is removed if that fails.

    Args:
        archive: a zip file, or a tar file, plain or compressed; the kind is detected from the content.
        target: the directory; it must not exist.
        max_bytes: limit for the size of all unpacked files; by default 50 times the size of the archive.
        on_progress: called with the number of bytes read from the archive, and its size.

    Raises:
        DataError: if the archive is damaged or of another kind, has links, devices or members outside of the target,
            or exceeds the limit, or if the disk is full.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError("Unpacking archives safely needs Python 3.10.12, 3.11.4 or newer. Upgrade Python.")
    try:
        with archive.open("rb") as file:
            target.mkdir(parents=True)
            try:
                _unpack(archive, file, target, max_bytes, on_progress)
            except BaseException:
                shutil.rmtree(target)
                raise
    except (tarfile.FilterError, _RefusedError, NotImplementedError) as error:
        raise DataError(
            f"'{archive}' was not unpacked: {error}. Download it again, or unpack it yourself if you trust it."
        ) from error
    except _DAMAGED as error:
        raise DataError(
            f"'{archive}' is damaged, or neither a tar nor a zip file: {error}. Delete it and download it again."
        ) from error
    except OSError as error:
        raise DataError(f"'{archive.name}' cannot be unpacked to '{target}': {error.strerror or error}.") from error


def _unpack(
    archive: Path, file: IO[bytes], target: Path, max_bytes: int | None, on_progress: ByteProgress | None
) -> None:
    size = archive.stat().st_size
    limit = max_bytes or max(MAX_RATIO * size, ALWAYS_ALLOWED)
    unpacked = 0
    is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    file.seek(0)
    for member_size, extract in (_zip_members if is_zip else _tar_members)(file, target):
        unpacked += member_size + _BYTES_PER_MEMBER
        if unpacked > limit:
            raise DataError(
                f"'{archive}' was not unpacked: its {size:,} bytes hold files of more than {limit:,} bytes. Download it"
                " again, or unpack it yourself if you trust it."
            )
        extract()
        if on_progress is not None:
            on_progress(file.tell(), size)


def _zip_members(file: IO[bytes], target: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise _RefusedError(f"{info.filename!r} is encrypted")
            # extract() removes drives, leading slashes and "..", and writes links as plain files.
            yield info.file_size, functools.partial(archive.extract, info, target)


def _tar_members(file: IO[bytes], target: Path) -> Iterator[_Member]:
    # A stream: seeking back in a compressed file would start over.
    with tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            yield member.size, functools.partial(archive.extract, member, str(target), filter=_plain_files)


def _plain_files(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    """Refuse links, which no data set needs, and everything that the standard library's filter refuses."""
    if member.issym() or member.islnk():
        raise _RefusedError(f"{member.name!r} is a link to {member.linkname!r}")
    return tarfile.data_filter(member, target)
