"""Getting a data set of the catalog: its archives from its owners, unpacked into place, and its official lists.

Archives lie in `downloads` under the data root while they are fetched; one that a person puts there is used as well.
What is in place already is neither fetched nor touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cocoop.data.catalog.archives import unpack
from cocoop.data.catalog.download import ByteProgress, download
from cocoop.data.catalog.entry import Archive, CatalogEntry, Place
from cocoop.data.catalog.read import check_split_file
from cocoop.errors import DataError
from cocoop.storage.cache_directory import cache_directory
from cocoop.storage.hashing import hash_content
from cocoop.storage.locks import try_lock

__all__ = ["DOWNLOADS", "fetch", "instructions"]

DOWNLOADS = "downloads"
"""Folder of archives, below the data root."""

Stage = Callable[[str], ByteProgress]
"""Called with what begins now (`downloading x.zip`); returns what to call with its bytes."""


def fetch(
    entry: CatalogEntry, place: Place, *, keep_archives: bool = False, on_stage: Stage | None = None, pause: float = 1.0
) -> None:
    """Get what is missing of a data set, as far as a program can.

    Args:
        entry: the data set.
        place: where it goes.
        keep_archives: keep archives once they are unpacked; one that must be fetched by hand is kept anyway.
        on_stage: told of each download and unpacking.
        pause: seconds before a failed transfer is tried again.

    Raises:
        CheckpointError: if the cache folder cannot be written.
        DataError: if something cannot be fetched, checked or unpacked, or another process is at it. What is complete
            stays, and a transfer that was cut off is continued by the next call.
    """
    on_stage = on_stage or (lambda _: lambda _done, _total: None)
    # Two that append to one download, or unpack into one folder, would destroy each other's work. The lock is in the
    # cache: nothing but data is left where data are.
    name = hash_content(str(place.directory.resolve()))[:24]
    with try_lock(cache_directory() / "locks" / name) as is_ours:
        if not is_ours:
            raise DataError(f"Another process is getting '{place.directory}'; wait for it.")
        _fetch(entry, place, keep_archives, on_stage, pause)


def _fetch(entry: CatalogEntry, place: Place, keep_archives: bool, on_stage: Stage, pause: float) -> None:
    _fetch_split_file(entry, place, on_stage, pause)
    # Photos may lie in another layout than the one that archives are unpacked to.
    elsewhere = place.images.is_dir() and place.images != place.root / entry.images[0]
    wanted = [archive for archive in entry.archives if not _in_place(archive, entry, place, elsewhere)]
    downloads = place.root / DOWNLOADS
    ready: list[tuple[Archive, Path]] = []
    for archive in wanted:
        file = downloads / archive.file_name
        if not archive.by_hand:
            progress = on_stage(f"downloading {file.name}")
            download(archive.url, file, checksum=archive.checksum, on_progress=progress, pause=pause)
        if file.is_file():
            ready.append((archive, file))
    for archive, file in ready:
        _put(archive, file, place.directory, on_stage(f"unpacking {file.name}"))
        if not keep_archives and not archive.by_hand:
            file.unlink(missing_ok=True)


def instructions(entry: CatalogEntry, place: Place) -> str:
    """What a person must do to get the photos, line by line; empty if nothing."""
    return entry.by_hand.format(directory=place.directory, downloads=place.root / DOWNLOADS)


def _in_place(archive: Archive, entry: CatalogEntry, place: Place, elsewhere: bool) -> bool:
    needed = [place.directory / path for path in archive.gives]
    return all(path.exists() for path in needed) or (elsewhere and place.root / entry.images[0] in needed)


def _fetch_split_file(entry: CatalogEntry, place: Place, on_stage: Stage, pause: float) -> None:
    split_file = entry.split_file
    if split_file is None or split_file.url is None:
        return
    there = place.find(split_file.name)
    if there is not None:
        check_split_file(split_file, there)
        return
    progress = on_stage(f"downloading {split_file.name}")
    checksum = f"sha256:{split_file.sha256}"
    download(split_file.url, place.directory / split_file.name, checksum=checksum, on_progress=progress, pause=pause)


def _put(archive: Archive, file: Path, directory: Path, on_progress: ByteProgress) -> None:
    """Unpack an archive and move its content into the data set's folder; a folder that is there already stays."""
    work = directory / ".unpacked"
    try:
        _clear(work)
        unpack(file, work / "archive", on_progress=on_progress)
        content = work / "archive"
        if archive.inner:
            unpack(_part(content, archive.inner, file), work / "inner", on_progress=on_progress)
            content = work / "inner"
        source = _part(content, archive.inside, file) if archive.inside else content
        moves = (
            [(source, directory / archive.to)] if archive.to else [(s, directory / s.name) for s in source.iterdir()]
        )
        # What others look for goes last, folders after files: once all of it is there, everything is.
        for origin, goal in sorted(moves, key=lambda move: (move[1].name in archive.gives, move[0].is_dir())):
            if goal.is_dir() and goal.name in archive.gives:
                raise DataError(
                    f"'{goal}' is there already, but not all that comes with it in '{file.name}'. Move it away and run"
                    " the command again."
                )
            if goal.is_dir():
                continue
            origin.replace(goal)
    except OSError as error:
        raise DataError(f"'{file.name}' cannot be put into '{directory}': {error.strerror or error}.") from error
    finally:
        _clear(work)


def _part(content: Path, name: str, file: Path) -> Path:
    if not (content / name).exists():
        raise DataError(f"The archive '{file}' has no '{name}' in it. Remove it and get it again from its owners.")
    return content / name


def _clear(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
