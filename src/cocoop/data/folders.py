"""Image folders: `class/photo.jpg`, or `train|val|test/class/photo.jpg`."""

from __future__ import annotations

from pathlib import Path

from cocoop.data.dataset import Split, listed
from cocoop.data.names import in_name_order
from cocoop.data.rows import SPLIT_NAMES, Listing, Row
from cocoop.errors import DataError

__all__ = ["PHOTO_SUFFIXES", "read_folder"]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
"""File endings, in lower case, that are taken for photos; other files in a class folder are passed over."""

_NO_CLASS = frozenset({"__MACOSX", "__pycache__"})


def read_folder(root: Path) -> Listing:
    """List the photos of an image folder without opening them.

    Hidden files and files with other endings are passed over; links to folders and files are followed.

    Args:
        root: a folder of class folders, or of `train`, `val` (or `valid`, `validation`) and `test` with class
            folders in each; of the three, any may be missing.

    Raises:
        DataError: if there is no class folder, a class has no photo, or photos lie where no class is named.
    """
    folders = _folders(root)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    # A class may be called "train" too: a split is known by having class folders in it and no photos.
    if any(_folders(folder) and not _photos(folder) for folder in splits):
        return _read_splits(root, folders)
    if not folders:
        found = "its photos lie outside of class folders" if _photos(root) else "it holds no photo"
        raise DataError(
            f"'{root}' has no class folders ({found}). Put the photos of each class in a folder of its own."
        )
    return _listing([(None, folder) for folder in folders], root)


def _read_splits(root: Path, folders: list[Path]) -> Listing:
    by_split: dict[Split, Path] = {}
    class_folders: list[tuple[Split | None, Path]] = []
    for folder in folders:
        split = SPLIT_NAMES.get(folder.name.lower())
        if split is None:
            if _photos(folder) or any(_photos(below) for below in _folders(folder)):
                raise DataError(
                    f"'{root}' has the folder {folder.name!r} with photos beside its splits."
                    " Move it away, or into 'train', 'val' or 'test'."
                )
            continue
        if split in by_split:
            raise DataError(
                f"'{root}' has both {by_split[split].name!r} and {folder.name!r}, which mean the same. Keep one."
            )
        by_split[split] = folder
        loose = _photos(folder)
        if loose:
            raise DataError(
                f"'{folder}' has {len(loose)} photos outside of class folders, such as {loose[0].name!r}."
                " Put the photos of each class in a folder of its own."
            )
        class_folders += [(split, below) for below in _folders(folder)]
    return _listing(class_folders, root)


def _listing(class_folders: list[tuple[Split | None, Path]], root: Path) -> Listing:
    rows = [
        Row(photo.relative_to(root).as_posix(), folder.name, split, f"'{photo}'")
        for split, folder in class_folders
        for photo in _photos(folder)
    ]
    with_photos = {row.raw_class for row in rows}
    for _, folder in class_folders:
        if folder.name in with_photos:
            continue
        inner = [below for below in _folders(folder) if _photos(below)]
        if inner:
            raise DataError(
                f"The class folder '{folder}' holds no photo itself, but folders with photos:"
                f" {listed([below.name for below in inner])}. If these are the classes, give '{folder}'."
            )
        raise DataError(
            f"The class folder '{folder}' holds no photo ({', '.join(sorted(PHOTO_SUFFIXES))})."
            " Add photos of the class, or remove the folder."
        )
    if not rows:
        raise DataError(f"'{root}' holds no photo.")
    return Listing(rows, in_name_order([folder.name for _, folder in class_folders]))


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"The folder '{folder}' cannot be read: {error.strerror or error}.") from error


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.is_dir() and entry.name not in _NO_CLASS]


def _photos(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.suffix.lower() in PHOTO_SUFFIXES and entry.is_file()]
