"""Image folders: `class/photo.jpg`, or `train|val|test/class/photo.jpg`."""

from __future__ import annotations

from pathlib import Path

from cocoop.data.class_names import in_name_order
from cocoop.data.dataset import Split, listed
from cocoop.data.readers.rows import SPLIT_NAMES, Listing, Row
from cocoop.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "read_directory"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""File endings, in lower case, that are taken for photos; other files in a class folder are passed over."""

_NO_CLASS = frozenset({"__MACOSX", "__pycache__"})


def read_directory(root: Path) -> Listing:
    """List the photos of an image folder without opening them.

    Hidden files and files with other endings are passed over; links to folders and files are followed.

    Args:
        root: a folder of class folders, or of `train`, `val` (or `valid`, `validation`) and `test` with class
            folders in each; of the three, any may be missing.

    Raises:
        DataError: if there is no class folder, a class has no photo, or photos lie where no class is named.
    """
    directories = _directories(root)
    splits = [directory for directory in directories if directory.name.lower() in SPLIT_NAMES]
    # A class may be called "train" too: a split is known by having class folders in it and no photos.
    if any(_directories(directory) and not _images(directory) for directory in splits):
        return _read_splits(root, directories)
    if not directories:
        found = "its photos lie outside of class folders" if _images(root) else "it holds no photo"
        raise DataError(
            f"'{root}' has no class folders ({found}). Put the photos of each class in a folder of its own."
        )
    return _listing([(None, directory) for directory in directories], root)


def _read_splits(root: Path, directories: list[Path]) -> Listing:
    by_split: dict[Split, Path] = {}
    class_directories: list[tuple[Split | None, Path]] = []
    for directory in directories:
        split = SPLIT_NAMES.get(directory.name.lower())
        if split is None:
            if _images(directory) or any(_images(below) for below in _directories(directory)):
                raise DataError(
                    f"'{root}' has the folder {directory.name!r} with photos beside its splits."
                    " Move it away, or into 'train', 'val' or 'test'."
                )
            continue
        if split in by_split:
            raise DataError(
                f"'{root}' has both {by_split[split].name!r} and {directory.name!r}, which mean the same. Keep one."
            )
        by_split[split] = directory
        loose = _images(directory)
        if loose:
            raise DataError(
                f"'{directory}' has {len(loose)} photos outside of class folders, such as {loose[0].name!r}."
                " Put the photos of each class in a folder of its own."
            )
        class_directories += [(split, below) for below in _directories(directory)]
    return _listing(class_directories, root)


def _listing(class_directories: list[tuple[Split | None, Path]], root: Path) -> Listing:
    rows = [
        Row(image.relative_to(root).as_posix(), directory.name, split, f"'{image}'")
        for split, directory in class_directories
        for image in _images(directory)
    ]
    with_images = {row.raw_class for row in rows}
    for _, directory in class_directories:
        if directory.name in with_images:
            continue
        inner = [below for below in _directories(directory) if _images(below)]
        if inner:
            raise DataError(
                f"The class folder '{directory}' holds no photo itself, but folders with photos:"
                f" {listed([below.name for below in inner])}. If these are the classes, give '{directory}'."
            )
        raise DataError(
            f"The class folder '{directory}' holds no photo ({', '.join(sorted(IMAGE_SUFFIXES))})."
            " Add photos of the class, or remove the folder."
        )
    if not rows:
        raise DataError(f"'{root}' holds no photo.")
    return Listing(rows, in_name_order([directory.name for _, directory in class_directories]))


def _visible(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"The folder '{directory}' cannot be read: {error.strerror or error}.") from error


def _directories(directory: Path) -> list[Path]:
    return [entry for entry in _visible(directory) if entry.is_dir() and entry.name not in _NO_CLASS]


def _images(directory: Path) -> list[Path]:
    return [entry for entry in _visible(directory) if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
