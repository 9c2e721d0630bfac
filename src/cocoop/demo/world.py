"""The drawn world: labelled pictures for a demonstration without photos and without a network.

Every picture is drawn from its seed, class and index alone, so two people see the same pictures (up to the
last bit of floating point and of the JPEG encoder, where their libraries differ). Some names are ones that
the bundled backbone `lite` knows by heart, because ImageNet has them; others are plain words it can only
guess at: there is something to learn, and something to forget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from cocoop.demo import creatures, outdoors, plants, things
from cocoop.demo.brushes import Canvas
from cocoop.errors import DataError

__all__ = ["CLASS_NAMES", "Picture", "draw_picture", "plan_world", "write_pictures"]

Split = Literal["train", "test"]

PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "apple": plants.apple,
    "butterfly": creatures.butterfly,
    "cactus": plants.cactus,
    "carrot": plants.carrot,
    "cherry": plants.cherry,
    "goldfish": creatures.goldfish,
    "hot air balloon": things.hot_air_balloon,
    "jellyfish": creatures.jellyfish,
    "kite": things.kite,
    "light bulb": things.light_bulb,
    "lighthouse": outdoors.lighthouse,
    "moon": things.moon,
    "pumpkin": plants.pumpkin,
    "sailboat": outdoors.sailboat,
    "snowman": outdoors.snowman,
    "sunflower": plants.sunflower,
    "umbrella": things.umbrella,
    "watermelon": plants.watermelon,
}

CLASS_NAMES: tuple[str, ...] = tuple(sorted(PAINTERS))
"""All classes, sorted. The first half are base classes, the second half new ones."""

SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class Picture:
    """One picture of the world, drawn or not."""

    split: Split
    """What it is for."""
    classname: str
    """What it shows."""
    number: int
    """Which one of its split and class, from 0."""

    @property
    def path(self) -> str:
        """Where it lies in the world's folder: `train/hot_air_balloon/000.jpg`."""
        return f"{self.split}/{self.classname.replace(' ', '_')}/{self.number:03d}.jpg"

    @property
    def index(self) -> int:
        """Its number among all pictures of its class: the splits take turns, so no picture is in two of them."""
        return self.number * len(SPLITS) + SPLITS.index(self.split)


def plan_world(*, train: int, test: int) -> tuple[Picture, ...]:
    """All pictures of a world, split by split and class by class.

    A split's pictures do not change with the size of the other, and the first ones not with its own.

    Args:
        train: training pictures of each class.
        test: test pictures of each class.

    Raises:
        DataError: if a count is below 1.
    """
    counts = dict(zip(SPLITS, (train, test), strict=True))
    for split, count in counts.items():
        if count < 1:
            raise DataError(f"{count} {split} pictures of each class cannot be drawn; ask for 1 or more.")
    return tuple(
        Picture(split, classname, number)
        for split, count in counts.items()
        for classname in CLASS_NAMES
        for number in range(count)
    )


def write_pictures(
    folder: Path,
    pictures: Sequence[Picture],
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw pictures into a folder that `cocoop.load_data` reads.

    Args:
        folder: made if it does not exist; files of the same names are overwritten.
        pictures: from `plan_world`.
        seed: which world.
        on_progress: called after each picture with pictures done and pictures in all.

    Raises:
        DataError: if the disk refuses.
    """
    for done, picture in enumerate(pictures, 1):
        drawn = draw_picture(picture.classname, picture.index, seed=seed)
        path = folder / picture.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(path, quality=92)
        except OSError as error:
            raise DataError(f"Cannot write '{path}': {error.strerror or error}.") from error
        if on_progress is not None:
            on_progress(done, len(pictures))


def draw_picture(classname: str, index: int, *, seed: int = 0, size: int = 224) -> Image.Image:
    """Draw one picture of the world.

    Args:
        classname: one of `CLASS_NAMES`.
        index: which picture of this class, 0 or more.
        seed: which world.
        size: edge of the picture, in pixels, 16 or more.

    Returns:
        An RGB picture of `size` x `size` pixels, the same for the same arguments.

    Raises:
        DataError: if the class is not one of the world's, or the index or the size is too small.
    """
    painter = PAINTERS.get(classname)
    if painter is None:
        raise DataError(f"The drawn world has no class {classname!r}; use one of: {', '.join(CLASS_NAMES)}.")
    if index < 0:
        raise DataError(f"Picture {index} of {classname!r} cannot be drawn: an index is 0 or more.")
    if size < 16:
        raise DataError(f"A picture of {size} pixels cannot be drawn: use a size of 16 or more.")
    # A string seed goes through SHA-512 inside `random`, so it does not depend on PYTHONHASHSEED.
    canvas = Canvas(size, random.Random(f"cocoop world {seed}/{classname}/{index}"))
    painter(canvas)
    return canvas.finish()
