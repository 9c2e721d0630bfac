"""Locations of the catalog's data sets on this machine.

Data sets are side by side in one directory, the data root, in the layout of the CoOp code or of torchvision.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cocoop.data.catalog.entry import CatalogEntry
from cocoop.errors import DataError

__all__ = ["DATA_ROOT_VARIABLE", "DOWNLOADS", "Location", "data_root"]

DATA_ROOT_VARIABLE = "COCOOP_DATA"
"""Environment variable with the data root."""
DOWNLOADS = "downloads"
"""Directory of archives, below the data root."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """Directories of a data set, which may not exist yet."""

    root: Path
    """The data root."""
    directory: Path
    """The data set's directory, where downloads are unpacked."""
    images: Path
    """Directory that the paths in its lists start from."""
    splits: Path | None
    """Directory of split files that is searched first."""

    @classmethod
    def find(
        cls,
        entry: CatalogEntry,
        root: str | Path | None = None,
        *,
        splits: str | Path | None = None,
        image_root: str | Path | None = None,
    ) -> Location:
        """Locate a data set: in the layout of the CoOp code, else in that of torchvision.

        Args:
            entry: the data set.
            root: the data root; see `data_root`.
            splits: directory with official split files.
            image_root: directory of the images, if they are elsewhere.

        Raises:
            DataError: if `splits` or `image_root` is not a directory.
        """
        root = data_root(root)
        candidates = [root / path for path in entry.image_directories]
        images = next((path for path in candidates if path.is_dir()), candidates[0])
        return cls(
            root=root,
            directory=root / entry.directory,
            images=_existing_directory("image_root", image_root) or images,
            splits=_existing_directory("splits", splits),
        )

    @property
    def downloads(self) -> Path:
        """Directory of downloaded archives."""
        return self.root / DOWNLOADS

    def find_file(self, name: str) -> Path | None:
        """Find a list in the directory of splits, in the data set's directory or beside its images."""
        directories = [self.splits, self.directory, self.images.parent, self.images]
        paths = [directory / name for directory in directories if directory is not None]
        return next((path for path in paths if path.is_file()), None)


def _existing_directory(parameter: str, path: str | Path | None) -> Path | None:
    if path is None:
        return None
    directory = Path(path).expanduser()
    if not directory.is_dir():
        raise DataError(f"`{parameter}` is '{path}', which is not a directory.")
    return directory


def data_root(path: str | Path | None = None) -> Path:
    """Return the directory of the catalog's data sets, which may not exist yet.

    Args:
        path: the directory, if the user named one; by default the environment variable COCOOP_DATA, else
            `cocoop/data` in the user's cache directory (XDG_CACHE_HOME or ~/.cache).
    """
    chosen = path or os.environ.get(DATA_ROOT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cocoop" / "data"
