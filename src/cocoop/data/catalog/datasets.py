"""Public functions of the catalog: list, download and verify the data sets of the papers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.data.catalog.fetch import StageProgress, fetch
from cocoop.data.catalog.location import Location
from cocoop.data.catalog.table import CATALOG, catalog_entry
from cocoop.data.catalog.verify import Verification, verify

__all__ = ["DatasetStatus", "download_dataset", "list_datasets", "verify_dataset"]


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """A data set of the papers, and its location on this machine."""

    entry: CatalogEntry
    """The data set."""
    directory: Path
    """Its directory, which may not exist."""
    images: Path
    """Directory of its images, which may not exist."""

    @property
    def available(self) -> bool:
        """True if the directory of images exists; see `verify_dataset` for a full check."""
        return self.images.is_dir()


def list_datasets(data_root: str | Path | None = None) -> list[DatasetStatus]:
    """List the data sets of the papers.

    Args:
        data_root: directory of the data sets; see `cocoop.data.data_root`.
    """
    locations = {name: Location.find(entry, data_root) for name, entry in CATALOG.items()}
    return [
        DatasetStatus(entry=CATALOG[name], directory=location.directory, images=location.images)
        for name, location in locations.items()
    ]


def download_dataset(
    name: str,
    *,
    data_root: str | Path | None = None,
    splits: str | Path | None = None,
    keep_archives: bool = False,
    on_stage: StageProgress | None = None,
) -> Verification:
    """Download a data set from its owners, with its official split file, and check it.

    Args:
        name: name, title or alias of the data set.
        data_root: directory of the data sets; see `cocoop.data.data_root`.
        splits: directory with split files, if they are not in the data set's own.
        keep_archives: keep archives after unpacking.
        on_stage: called with the name of each download and unpacking; returns a function to call with the number of
            bytes done and in total.

    Returns:
        The result of the check. It includes instructions if the images must be downloaded by hand.

    Raises:
        DataError: if there is no such data set, or a file cannot be downloaded, checked or unpacked. The next call
            continues an interrupted download.
    """
    entry = catalog_entry(name)
    location = Location.find(entry, data_root, splits=splits)
    fetch(entry, location, keep_archives=keep_archives, on_stage=on_stage)
    return verify_dataset(name, data_root=data_root, splits=splits)


def verify_dataset(name: str, *, data_root: str | Path | None = None, splits: str | Path | None = None) -> Verification:
    """Check layout, split file and numbers of images and classes of a data set; no image is opened.

    Args:
        name: name, title or alias of the data set.
        data_root: directory of the data sets; see `cocoop.data.data_root`.
        splits: directory with split files, if they are not in the data set's own.

    Raises:
        DataError: if there is no such data set. A missing or incomplete one is a problem in the result, not an error.
    """
    entry = catalog_entry(name)
    return verify(entry, Location.find(entry, data_root, splits=splits))
