"""Images of the demo: drawings of 18 classes, in the archive `demo_images.zip` beside this file.

The archive has the layout of an image directory, such as `train/hot_air_balloon/000.jpg`. The program that drew the
images is `tools/demo_images` in the repository.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from cocoop.data.dataset import Dataset, Item
from cocoop.errors import DataError
from cocoop.text.prompts import clean_name

__all__ = ["TEST_IMAGES", "TRAIN_IMAGES", "unpack_demo_images"]

ARCHIVE = Path(__file__).with_suffix(".zip")

TRAIN_IMAGES = 24
"""Number of training images of each class in the archive."""

TEST_IMAGES = 20
"""Number of test images of each class in the archive."""


def unpack_demo_images(directory: Path, *, train: int = TRAIN_IMAGES, test: int = TEST_IMAGES) -> Dataset:
    """Write the first images of each class to a directory and return them as a data set.

    Args:
        directory: created if it does not exist; files of the same names are overwritten.
        train: number of training images per class.
        test: number of test images per class.

    Raises:
        DataError: if an image cannot be written.
    """
    counts = {"train": train, "test": test}
    with ZipFile(ARCHIVE) as archive:
        paths = [Path(name) for name in archive.namelist()]
        paths = [path for path in paths if int(path.stem) < counts[path.parts[0]]]
        try:
            archive.extractall(directory, map(Path.as_posix, paths))
        except OSError as error:
            raise DataError(f"Cannot write the demo's images to '{directory}': {error.strerror or error}.") from error
    classnames = tuple(sorted({clean_name(path.parts[1]) for path in paths}))

    def items(split: str) -> tuple[Item, ...]:
        chosen = (path for path in paths if path.parts[0] == split)
        return tuple(Item(path.as_posix(), classnames.index(clean_name(path.parts[1]))) for path in chosen)

    return Dataset(classnames, items("train"), (), items("test"), directory, "demo images")
