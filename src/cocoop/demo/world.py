"""The drawn world: labelled pictures for a demonstration without photos and without a network.

Every picture is drawn from its seed, class and index alone, so two people see the same pictures (up to the
last bit of floating point and of the JPEG encoder, where their libraries differ). Some names are ones that
the bundled backbone `lite` knows by heart, because ImageNet has them; others are plain words it can only
guess at: there is something to learn, and something to forget.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from cocoop.demo import creatures, plants, things
from cocoop.demo.brushes import Canvas
from cocoop.errors import DataError

__all__ = ["CLASS_NAMES", "PER_CLASS", "draw_picture", "write_world"]

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
    "lighthouse": things.lighthouse,
    "moon": things.moon,
    "pumpkin": plants.pumpkin,
    "sailboat": things.sailboat,
    "snowman": things.snowman,
    "sunflower": plants.sunflower,
    "umbrella": things.umbrella,
    "watermelon": plants.watermelon,
}

CLASS_NAMES: tuple[str, ...] = tuple(sorted(PAINTERS))
"""All classes, sorted. The first half are base classes, the second half new ones."""

PER_CLASS: Mapping[str, int] = MappingProxyType({"train": 16, "val": 4, "test": 20})
"""How many pictures `write_world` draws of each class, by split."""

SPLITS = ("train", "val", "test")


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
        raise DataError(f"The drawn world has no class {classname!r}; use one of: {', '.join(CLASS_NAMES)}")
    if index < 0:
        raise DataError(f"Picture {index} of {classname!r} cannot be drawn: an index is 0 or more")
    if size < 16:
        raise DataError(f"A picture of {size} pixels cannot be drawn: use a size of 16 or more")
    # A string seed goes through SHA-512 inside `random`, so it does not depend on PYTHONHASHSEED.
    canvas = Canvas(size, random.Random(f"cocoop world {seed}/{classname}/{index}"))
    painter(canvas)
    return canvas.finish()


def write_world(
    folder: Path,
    *,
    per_class: Mapping[str, int] = PER_CLASS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the world as class folders: `folder/train/hot_air_balloon/000.jpg` and so on.

    No picture is in two splits, and a split's pictures do not change with the size of the others.

    Args:
        folder: made if it does not exist; pictures of the same name are overwritten.
        per_class: how many pictures of each class, by split: `train`, `val` and `test`, or some of them.
        seed: which world.
        progress: called after each picture with the number of pictures written and to be written.

    Raises:
        DataError: if a split has another name, or a count is below 0.
    """
    for split, count in per_class.items():
        if split not in SPLITS:
            raise DataError(f"The drawn world has no split {split!r}; use one of: {', '.join(SPLITS)}")
        if count < 0:
            raise DataError(f"{count} pictures per class for split {split!r} cannot be drawn: use 0 or more")
    total, written = sum(per_class.values()) * len(CLASS_NAMES), 0
    for split, count in per_class.items():
        for classname in CLASS_NAMES:
            home = folder / split / classname.replace(" ", "_")
            home.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                # The splits take turns in the indices, so they never share one, however many each has.
                index = number * len(SPLITS) + SPLITS.index(split)
                picture = draw_picture(classname, index, seed=seed)
                picture.save(home / f"{number:03d}.jpg", quality=92)
                written += 1
                if progress is not None:
                    progress(written, total)
