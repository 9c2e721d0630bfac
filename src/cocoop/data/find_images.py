"""Image files outside of a data set, given one by one or found in directories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cocoop.data.dataset import join_names
from cocoop.data.readers.image_directories import IMAGE_SUFFIXES
from cocoop.errors import DataError

__all__ = ["find_images"]


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the given files, and the images in and below the given directories, sorted within each directory.

    Raises:
        DataError: if a path does not exist, or there are no images.
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
                raise DataError(f"'{path}' does not exist; pass images or directories of images.")
        except OSError as error:
            raise DataError(f"Cannot read '{path}': {error.strerror or error}.") from error
    if not found:
        problem = (
            f"There are no images in {join_names([str(path) for path in paths])}" if paths else "No path was given"
        )
        raise DataError(f"{problem}; pass images or directories of images.")
    return found


def _is_image(relative: Path) -> bool:
    return relative.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in relative.parts)
