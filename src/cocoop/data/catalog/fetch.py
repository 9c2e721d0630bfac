"""Download of a data set: its split file, and its archives, unpacked into place.

Files that are in place already are neither downloaded nor changed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cocoop.data.catalog.archives import unpack
from cocoop.data.catalog.download import ByteProgress, download
from cocoop.data.catalog.entry import Archive, CatalogEntry
from cocoop.data.catalog.location import Location
from cocoop.data.catalog.read import check_split_file
from cocoop.errors import DataError
from cocoop.storage.cache_directory import cache_directory
from cocoop.storage.hashing import hash_content
from cocoop.storage.locks import try_lock

__all__ = ["StageProgress", "fetch"]

StageProgress = Callable[[str], ByteProgress]
"""Called at the start of each stage (`downloading x.zip`); returns the function to call with its progress."""


def fetch(
    entry: CatalogEntry,
    location: Location,
    *,
    keep_archives: bool = False,
    on_stage: StageProgress | None = None,
    pause: float = 1.0,
) -> None:
    """Download and unpack the missing files of a data set.

    Args:
        entry: the data set.
        location: its directories.
        keep_archives: keep archives after unpacking; those that were downloaded by hand are always kept.
        on_stage: called at the start of each download and unpacking.
        pause: seconds before a failed transfer is tried again.

    Raises:
        CheckpointError: if the cache directory cannot be written.
        DataError: if a file cannot be downloaded, checked or unpacked, or another process is downloading the data set.
            Complete files stay, and interrupted downloads continue with the next call.
    """
    # The lock is in the cache, so that the data root holds nothing but data.
    name = hash_content(str(location.directory.resolve()))[:24]
    with try_lock(cache_directory() / "locks" / name) as acquired:
        if not acquired:
            raise DataError(f"Another process is downloading to '{location.directory}'. Wait until it has finished.")
        _fetch(entry, location, keep_archives, on_stage or (lambda _stage: lambda _done, _total: None), pause)


def _fetch(entry: CatalogEntry, location: Location, keep_archives: bool, on_stage: StageProgress, pause: float) -> None:
    _fetch_split_file(entry, location, on_stage, pause)
    ready: list[tuple[Archive, Path]] = []
    for archive in entry.archives:
        if _in_place(archive, entry, location):
            continue
        file = location.downloads / archive.file_name
        if archive.checksum is not None and not archive.manual_name:
            progress = on_stage(f"downloading {file.name}")
            download(archive.url, file, checksum=archive.checksum, on_progress=progress, pause=pause)
        if file.is_file():
            ready.append((archive, file))
    for archive, file in ready:
        _unpack_into_place(archive, file, location.directory, on_stage(f"unpacking {file.name}"))
        if not keep_archives and not archive.manual_name:
            file.unlink()


def _fetch_split_file(entry: CatalogEntry, location: Location, on_stage: StageProgress, pause: float) -> None:
    split_file = entry.split_file
    if split_file is None or split_file.url is None:
        return
    existing = location.find_file(split_file.name)
    if existing is not None:
        check_split_file(split_file, existing)
        return
    download(
        split_file.url,
        location.directory / split_file.name,
        checksum=f"sha256:{split_file.sha256}",
        on_progress=on_stage(f"downloading {split_file.name}"),
        pause=pause,
    )


def _in_place(archive: Archive, entry: CatalogEntry, location: Location) -> bool:
    provided = [location.directory / path for path in archive.provides]
    default_images = location.root / entry.image_directories[0]
    # The images may exist in a layout other than the one that the archive unpacks to.
    elsewhere = location.images.is_dir() and location.images != default_images
    return all(path.exists() for path in provided) or (elsewhere and default_images in provided)


def _unpack_into_place(archive: Archive, file: Path, directory: Path, on_progress: ByteProgress) -> None:
    """Unpack an archive beside its destination and move the content there, leaving existing directories alone."""
    work = directory / ".unpacking"
    try:
        # An interrupted call may have left this directory.
        _remove(work)
        content = work / "archive"
        unpack(file, content, on_progress=on_progress)
        if archive.inner_archive:
            inner = _member(content, archive.inner_archive, file)
            content = work / "inner"
            unpack(inner, content, on_progress=on_progress)
        source = _member(content, archive.subdirectory, file)
        moves = {source: archive.target} if archive.target else {path: path.name for path in source.iterdir()}
        # Paths in `provides` mark the archive as unpacked, so they are moved last, files before directories.
        for path, name in sorted(moves.items(), key=lambda move: (move[1] in archive.provides, move[0].is_dir())):
            destination = directory / name
            if not destination.is_dir():
                path.replace(destination)
            elif name in archive.provides:
                raise DataError(
                    f"'{destination}' exists, but other files of '{file.name}' are missing. Move it away and try again."
                )
    except OSError as error:
        raise DataError(f"'{file.name}' cannot be unpacked to '{directory}': {error.strerror or error}.") from error
    finally:
        _remove(work)


def _member(content: Path, name: str, file: Path) -> Path:
    if not (content / name).exists():
        raise DataError(f"The archive '{file}' does not contain '{name}'. Delete it and download it again.")
    return content / name


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
