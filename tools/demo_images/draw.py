"""Draw the demo's images and write them to an archive.

Usage: python tools/demo_images/draw.py [ARCHIVE]

ARCHIVE defaults to src/cocoop/data/demo_images.zip. It has the layout of an image directory, SPLIT/CLASS/NUMBER.jpg.
Each image depends on its class and index alone. Python's `random`, NumPy's generators and Pillow (shapes, filters, JPEG
encoder) decide the pixels; other versions of them may change a few.

The backbone `lite` knows some of the class names from ImageNet and can only guess at the others, so a prompt has
something to learn on the base classes and something to lose on the new ones.
"""

from __future__ import annotations

import io
import multiprocessing
import random
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

import creatures
import objects
import outdoors
import plants
from canvas import Canvas

__all__ = ["ARCHIVE", "IMAGES", "PAINTERS", "draw_image", "encode_image", "image_paths", "main"]

ARCHIVE = Path(__file__).resolve().parents[2] / "src" / "cocoop" / "data" / "demo_images.zip"

PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "apple": plants.apple,
    "butterfly": creatures.butterfly,
    "cactus": plants.cactus,
    "carrot": plants.carrot,
    "cherry": plants.cherry,
    "goldfish": creatures.goldfish,
    "hot air balloon": objects.hot_air_balloon,
    "jellyfish": creatures.jellyfish,
    "kite": objects.kite,
    "light bulb": objects.light_bulb,
    "lighthouse": outdoors.lighthouse,
    "moon": objects.moon,
    "pumpkin": plants.pumpkin,
    "sailboat": outdoors.sailboat,
    "snowman": outdoors.snowman,
    "sunflower": plants.sunflower,
    "umbrella": objects.umbrella,
    "watermelon": plants.watermelon,
}
"""Painter of each class. In alphabetical order, the first half are the demo's base classes."""

IMAGES = {"train": 24, "test": 20}
"""Number of images per class in each split."""


def draw_image(classname: str, index: int, *, size: int = 224) -> Image.Image:
    """Draw one image.

    Args:
        classname: a key of `PAINTERS`.
        index: number of the image among all of its class, from 0.
        size: edge of the image, in pixels.

    Returns:
        An RGB image of `size` x `size` pixels, the same for the same arguments.
    """
    # `random` hashes a string seed with SHA-512, so it does not depend on PYTHONHASHSEED.
    canvas = Canvas(size, random.Random(f"cocoop world 0/{classname}/{index}"))
    PAINTERS[classname](canvas)
    return canvas.finish()


def encode_image(image: Image.Image) -> bytes:
    """Encode an image as JPEG.

    The results of the demo depend on every pixel, and these are the pixels they were published with. Lossless WebP is
    three times as large, and lossy WebP of any quality changes predictions.
    """
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, optimize=True, progressive=True)
    return buffer.getvalue()


def image_paths() -> dict[str, tuple[str, int]]:
    """Return the class name and index of each image, by its path in the archive."""
    paths = {}
    for offset, (split, count) in enumerate(IMAGES.items()):
        for classname in PAINTERS:
            for number in range(count):
                path = f"{split}/{classname.replace(' ', '_')}/{number:03d}.jpg"
                # The splits alternate, so that no image is in both.
                paths[path] = classname, number * len(IMAGES) + offset
    return paths


def _draw_encoded(key: tuple[str, int]) -> bytes:
    return encode_image(draw_image(*key))


def main(archive: Path = ARCHIVE) -> None:
    """Draw all images and write the archive."""
    paths = image_paths()
    pool = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
    with pool, zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.comment = b"Images of `cocoop demo`: SPLIT/CLASS/NUMBER.jpg, 224 x 224, drawn by tools/demo_images"
        for path, content in zip(paths, pool.map(_draw_encoded, paths.values(), chunksize=8), strict=True):
            # ZipInfo's fixed date makes the archive the same whenever it is written.
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o644 << 16
            file.writestr(entry, content)
    print(f"{len(paths)} images in {archive}, {archive.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
