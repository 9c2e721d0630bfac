"""Finding photos that belong to no data set: named one by one, or in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cocoop.data.dataset import listed
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES
from cocoop.errors import DataError

__all__ = ["find_images"]


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Photos named directly, and all photos in and below folders, sorted.

    Raises:
        DataError: if a path does not exist, or there is no photo at all.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        try:
            if path.is_dir():
                found += sorted(
                    file for file in path.rglob("*") if _is_image(file.relative_to(path)) and file.is_file()
                )
            elif path.exists():
                found.append(path)
            else:
                raise DataError(f"There is no '{path}'; give photos or folders of photos.")
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    if not found:
        where = f"There are no photos in {listed([str(path) for path in paths])}" if paths else "No photo is named"
        raise DataError(f"{where}; give photos or folders of photos.")
    return found


def _is_image(below: Path) -> bool:
    return below.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in below.parts)
