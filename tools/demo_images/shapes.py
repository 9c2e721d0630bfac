"""Shapes, colours and textures that several painters share."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageChops

from canvas import Array, Canvas, Colour, Point, Pose, Texture, mix, smooth

__all__ = ["BALL", "BLACK", "PAINTS", "WHITE", "blend", "leaf", "plain", "scatter", "speckle", "uniform"]

PAINTS: tuple[Colour, ...] = (
    (204, 52, 46),
    (34, 84, 156),
    (244, 192, 58),
    (42, 138, 106),
    (118, 66, 140),
    (236, 122, 52),
    (60, 160, 190),
    (244, 240, 230),
)
"""Colours of kites, sails, wool and umbrellas; any two go together."""

WHITE: Colour = (246, 246, 242)
BLACK: Colour = (20, 20, 24)

BALL: list[Point] = [(math.sin(t), math.cos(t)) for t in np.linspace(-math.pi / 2, math.pi / 2, 65).tolist()]
"""Profile of a ball of radius 1, for `Canvas.solid`."""


def uniform(colour: Colour, like: Array) -> Array:
    """Return one colour for all points of a surface, [..., 3] in 0..1."""
    return np.broadcast_to(np.array(colour, dtype=np.float32) / 255, (*like.shape, 3))


def plain(colour: Colour) -> Texture:
    """Return the texture of a solid of one colour."""
    return lambda x, _y, _z: uniform(colour, x)


def blend(texture: Array, colour: Colour, share: Array) -> Array:
    """Mix a colour into the colours of a surface; `share` (0..1, one per point) is the part of it."""
    share = np.clip(share, 0, 1)[..., None]
    return texture * (1 - share) + np.array(colour, dtype=np.float32) / 255 * share


def speckle(canvas: Canvas, like: Array, amount: float) -> Array:
    """Return fine grain to add to the colours of a surface, [..., 1]."""
    source = np.random.default_rng(canvas.rng.getrandbits(64))
    return source.standard_normal(like.shape, dtype=np.float32)[..., None] * amount


def leaf(canvas: Canvas, pose: Pose, colour: Colour, *, veins: bool = True) -> None:
    """Paint a leaf from (0, 0) to (0, -1) of the pose, half as wide as long."""
    mask = canvas.area(pose(smooth([(0, 0), (0.22, -0.3), (0.2, -0.65), (0, -1), (-0.2, -0.65), (-0.22, -0.3)])))
    canvas.shadow(mask, away=0.012, soft=0.01, dark=0.35)
    canvas.relief(mask, colour, depth=0.02, gloss=0.3)
    if veins:
        side: list[list[Point]] = [[(0, -k / 6), (s * 0.15, -k / 6 - 0.14)] for k in range(1, 5) for s in (-1, 1)]
        side.append([(0, 0), (0, -0.95)])
        lines = canvas.strokes([pose(line) for line in side], 0.006 * pose.scale * 3)
        canvas.fill(mix(colour, (220, 240, 160), 0.45), ImageChops.multiply(lines, mask), 0.7)


def scatter(canvas: Canvas, count: int, low: float, high: float) -> list[Pose]:
    """Return poses for `count` objects side by side, the farthest (highest) first."""
    rng = canvas.rng
    if count == 1:
        return [
            Pose(
                rng.uniform(0.42, 0.58),
                rng.uniform(0.45, 0.57),
                rng.uniform(low, high),
                rng.uniform(-0.5, 0.5),
            )
        ]
    start = rng.random() * math.tau
    poses = []
    for k in range(count):
        turn, scale = start + math.tau * k / count, rng.uniform(low, high) * (0.78 if count == 2 else 0.62)
        away = 0.1 + scale * (0.75 if count == 2 else 0.85)
        poses.append(
            Pose(0.5 + away * math.cos(turn), 0.5 + away * 0.85 * math.sin(turn), scale, rng.uniform(-0.9, 0.9))
        )
    return sorted(poses, key=lambda pose: pose.y)
