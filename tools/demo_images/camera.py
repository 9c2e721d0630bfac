"""Camera effects: framing, focus, film, vignette and grain.

They make the images of a class vary as photos do: some are cropped and tilted, some taken in haze or at dusk, some in
black and white, some faded.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

__all__ = ["photograph"]


def photograph(scene: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """Photograph a scene.

    Args:
        scene: square image, several times larger than the photo.
        size: edge of the photo, in pixels.
        rng: source of all random choices.

    Returns:
        An RGB image of `size` x `size` pixels.
    """
    image = _crop(scene, size, rng)
    image = rng.choices(list(FILMS), weights=list(FILMS.values()))[0](image, rng)
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.002, 0.008) * size))
    return _expose(image, rng)


def _crop(scene: Image.Image, size: int, rng: random.Random) -> Image.Image:
    """Crop the scene, sometimes tilted and mirrored."""
    if rng.random() < 0.5:
        scene = ImageOps.mirror(scene)
    edge = scene.width
    frame = edge * rng.uniform(0.62, 1.0)
    spare = edge - frame
    left, top = (spare * rng.uniform(0.1, 0.9) for _ in range(2))
    # A rotation about the centre of the frame needs this much margin; otherwise the corners would be black.
    tilt = min(12.0, 60 * min(left, top, spare - left, spare - top) / frame)
    if tilt > 1:
        middle = (left + frame / 2, top + frame / 2)
        scene = scene.rotate(rng.uniform(-tilt, tilt), Image.Resampling.BILINEAR, center=middle)
    box = (left, top, left + frame, top + frame)
    return scene.resize((size, size), Image.Resampling.HAMMING, box=box)


def _colour(image: Image.Image, rng: random.Random) -> Image.Image:
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.82, 1.12))
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.92, 1.12))


def _black_and_white(image: Image.Image, rng: random.Random) -> Image.Image:
    grey = ImageOps.autocontrast(ImageOps.grayscale(image), cutoff=1)
    return ImageEnhance.Contrast(grey).enhance(rng.uniform(0.85, 1.2)).convert("RGB")


def _faded(image: Image.Image, rng: random.Random) -> Image.Image:
    brown = ImageOps.colorize(ImageOps.grayscale(image), (52, 32, 26), (252, 236, 204), mid=(166, 122, 86))
    return Image.blend(image, brown, rng.uniform(0.6, 0.95))


def _dusk(image: Image.Image, rng: random.Random) -> Image.Image:
    strength = rng.uniform(0.4, 0.8)
    night = ImageChops.multiply(image, Image.new("RGB", image.size, (86, 104, 176)))
    return Image.blend(image, night, strength)


def _haze(image: Image.Image, rng: random.Random) -> Image.Image:
    air = Image.new("RGB", image.size, rng.choice([(214, 220, 226), (230, 218, 206), (196, 208, 220)]))
    return Image.blend(image, air, rng.uniform(0.3, 0.6))


FILMS: dict[Callable[[Image.Image, random.Random], Image.Image], float] = {
    _colour: 0.52,
    _black_and_white: 0.12,
    _faded: 0.12,
    _dusk: 0.12,
    _haze: 0.12,
}
"""Probability of each film."""


def _expose(image: Image.Image, rng: random.Random) -> Image.Image:
    """Apply warmth, exposure, vignette and grain."""
    pixels = np.asarray(image, dtype=np.float32)
    warmth = rng.uniform(-0.05, 0.05)
    grid = np.linspace(-1, 1, image.width, dtype=np.float32)
    corner = 1 - rng.uniform(0.05, 0.22) * (grid[None, :] ** 2 + grid[:, None] ** 2) / 2
    gains = np.array([1 + warmth, 1, 1 - warmth], dtype=np.float32) * rng.uniform(0.92, 1.1)
    grain = np.random.default_rng(rng.getrandbits(64)).standard_normal(corner.shape, dtype=np.float32)
    pixels = pixels * corner[..., None] * gains + grain[..., None] * rng.uniform(1.0, 3.5)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
