"""Reader of image directories: `class/image.jpg`, or `train|val|test/class/image.jpg`."""

from __future__ import annotations

from pathlib import Path

from cocoop.data.class_names import sort_by_name
from cocoop.data.dataset import Split, join_names
from cocoop.data.readers.rows import SPLIT_NAMES, Listing, Row
from cocoop.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "read_image_directory"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""Suffixes of image files, in lower case; other files are ignored."""

_IGNORED_DIRECTORIES = frozenset({"__MACOSX", "__pycache__"})


def read_image_directory(root: Path) -> Listing:
    """List the images of a directory; none is opened.

    Hidden files and files with other suffixes are ignored; symbolic links are followed.

    Args:
        root: a directory of class directories, or of `train`, `val` (or `valid`, `validation`) and `test` with class
            directories in each; each of the three is optional.

    Raises:
        DataError: if there is no class directory, a class has no image, or images lie outside of class directories.
    """
    directories = _directories(root)
    splits = [directory for directory in directories if directory.name.lower() in SPLIT_NAMES]
    # A class may be called "train" too, but the directory of a split has class directories and no images.
    if any(_directories(directory) and not _images(directory) for directory in splits):
        return _read_splits(root, directories)
    if not directories:
        reason = "its images lie outside of class directories" if _images(root) else "it holds no image"
        raise DataError(
            f"'{root}' has no class directories ({reason}). Put the images of each class into a directory of its own."
        )
    return _list_images([(None, directory) for directory in directories], root)


def _read_splits(root: Path, directories: list[Path]) -> Listing:
    by_split: dict[Split, Path] = {}
    class_directories: list[tuple[Split | None, Path]] = []
    for directory in directories:
        split = SPLIT_NAMES.get(directory.name.lower())
        if split is None:
            if _images(directory) or any(_images(inner) for inner in _directories(directory)):
                raise DataError(
                    f"'{root}' has images in {directory.name!r}, beside the directories of its splits."
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
                f"'{directory}' has {len(loose)} images outside of class directories, such as {loose[0].name!r}."
                " Put the images of each class into a directory of its own."
            )
        class_directories += [(split, inner) for inner in _directories(directory)]
    return _list_images(class_directories, root)


def _list_images(class_directories: list[tuple[Split | None, Path]], root: Path) -> Listing:
    rows = [
        Row(image.relative_to(root).as_posix(), directory.name, split, f"'{image}'")
        for split, directory in class_directories
        for image in _images(directory)
    ]
    with_images = {row.raw_class for row in rows}
    for _, directory in class_directories:
        if directory.name in with_images:
            continue
        inner = [inner for inner in _directories(directory) if _images(inner)]
        if inner:
            raise DataError(
                f"The class directory '{directory}' holds no image, but directories with images:"
                f" {join_names([path.name for path in inner])}. If these are the classes, use '{directory}' as the"
                " data."
            )
        raise DataError(
            f"The class directory '{directory}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})."
            " Add images of the class, or remove the directory."
        )
    if not rows:
        raise DataError(f"'{root}' holds no image.")
    return Listing(rows, sort_by_name([directory.name for _, directory in class_directories]))


def _visible(directory: Path) -> list[Path]:
    try:
        return sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"The directory '{directory}' cannot be read: {error.strerror or error}.") from error


def _directories(directory: Path) -> list[Path]:
    return [entry for entry in _visible(directory) if entry.is_dir() and entry.name not in _IGNORED_DIRECTORIES]


def _images(directory: Path) -> list[Path]:
    return [entry for entry in _visible(directory) if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
