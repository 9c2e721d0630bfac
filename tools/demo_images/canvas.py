"""Canvas with lighting: masks, flat shapes with relief, solids of revolution, shadows and noise.

Coordinates are in the unit square: x to the right, y down, (0, 0) the upper left corner. Everything is drawn at
`SUPERSAMPLING` times the final size and averaged down at the end, for anti-aliasing. Smooth parts (shadows, relief,
noise) are computed at the final size and scaled up, which takes less time.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from camera import photograph

__all__ = [
    "SUPERSAMPLING",
    "Array",
    "Canvas",
    "Colour",
    "Point",
    "Pose",
    "Texture",
    "about_axis",
    "arc",
    "hsv",
    "mix",
    "ramp",
    "random_rotation",
    "smooth",
]

SUPERSAMPLING = 3
Colour = tuple[int, int, int]
Point = tuple[float, float]
Array = NDArray[np.floating[Any]]
Texture = Callable[[Array, Array, Array], Array]
"""Function from points (x, y, z) on a solid to colours in 0..1, [..., 3]; y is the axis, z points to the viewer."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Convert hue (in turns), saturation and value (0..1, clipped) to a colour."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours; `share` (0..1) is the part of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def ramp(grey: Image.Image, colours: Sequence[Colour]) -> Image.Image:
    """Colour a grey image: black becomes the first colour, white the last, the others are spaced evenly between."""
    stops = np.linspace(0, 255, len(colours))
    channels = zip(*colours, strict=True)
    tables = [np.interp(np.arange(256), stops, channel).astype(np.uint8).tolist() for channel in channels]
    return Image.merge("RGB", [grey.point(table) for table in tables])


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 8) -> list[Point]:
    """Return a Catmull-Rom curve through the points as a fine polyline."""
    ring = [points[-1], *points, *points[:2]] if closed else [points[0], *points, points[-1]]
    curve = []
    for (ax, ay), (bx, by), (cx, cy), (dx, dy) in zip(ring, ring[1:], ring[2:], ring[3:], strict=False):
        for step in range(steps):
            t = step / steps
            wa, wb = -t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3
            wc, wd = t + 4 * t**2 - 3 * t**3, t**3 - t**2
            curve.append(((wa * ax + wb * bx + wc * cx + wd * dx) / 2, (wa * ay + wb * by + wc * cy + wd * dy) / 2))
    return curve if closed else [*curve, points[-1]]


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 1, steps: int = 40) -> list[Point]:
    """Return points of an ellipse from `start` to `stop`, in turns, clockwise from the right."""
    turns = [math.tau * (start + (stop - start) * k / steps) for k in range(steps + 1)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def about_axis(angle: float) -> Array:
    """Return the rotation by an angle (radians) about the vertical axis, [3, 3]."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=np.float32)


def random_rotation(rng: random.Random) -> Array:
    """Return a uniformly random rotation, [3, 3]."""
    w, x, y, z = (rng.gauss(0, 1) for _ in range(4))
    n = 2 / (w * w + x * x + y * y + z * z)
    rows = [
        [1 - n * (y * y + z * z), n * (x * y - w * z), n * (x * z + w * y)],
        [n * (x * y + w * z), 1 - n * (x * x + z * z), n * (y * z - w * x)],
        [n * (x * z - w * y), n * (y * z + w * x), 1 - n * (x * x + y * y)],
    ]
    return np.array(rows, dtype=np.float32)


@dataclass(frozen=True)
class Pose:
    """Position, size and angle of an object: maps its own coordinates (about -1..1) to the unit square."""

    x: float
    y: float
    scale: float
    angle: float = 0.0
    """In radians, clockwise."""
    wide: float = 1.0
    """Stretch along the object's own x axis, before the rotation."""

    def __call__(self, points: Iterable[Point]) -> list[Point]:
        """Map points of the object to the canvas."""
        cos, sin = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        return [
            (self.x + cos * px * self.wide - sin * py, self.y + sin * px * self.wide + cos * py) for px, py in points
        ]

    def at(self, x: float, y: float) -> Point:
        """Map one point of the object to the canvas."""
        return self([(x, y)])[0]


class Canvas:
    """An image while it is drawn.

    Args:
        size: edge of the finished image, in pixels.
        rng: source of all random choices.
    """

    def __init__(self, size: int, rng: random.Random) -> None:
        self.size = size
        self.rng = rng
        self.edge = size * SUPERSAMPLING
        self.image = Image.new("RGB", (self.edge, self.edge))
        side, height = rng.uniform(-0.75, 0.75), rng.uniform(0.45, 0.85)
        light = np.array([side, -height, 0.75], dtype=np.float32)
        self.light: Array = light / np.linalg.norm(light)

    @property
    def light_x(self) -> float:
        """Horizontal direction of the light, from -1 (left) to 1 (right)."""
        return float(self.light[0])

    @property
    def light_y(self) -> float:
        """Vertical direction of the light, from -1 (up) to 1 (down)."""
        return float(self.light[1])

    # Masks: grey images of the whole canvas, white inside the shape.

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        return [(x * self.edge, y * self.edge) for x, y in points]

    def area(self, *outlines: Sequence[Point]) -> Image.Image:
        """Return the mask of one or more filled outlines."""
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        for outline in outlines:
            draw.polygon(self._pixels(outline), fill=255)
        return mask

    def disc(self, x: float, y: float, radius: float) -> Image.Image:
        """Return the mask of a disc."""
        return self.area(arc(x, y, radius, radius, steps=90))

    def strokes(self, lines: Iterable[Sequence[Point]], width: float) -> Image.Image:
        """Return the mask of polylines with round joints and ends."""
        mask = Image.new("L", self.image.size)
        draw = ImageDraw.Draw(mask)
        thick = max(1, round(width * self.edge))
        for line in lines:
            pixels = self._pixels(line)
            draw.line(pixels, fill=255, width=thick, joint="curve")
            for x, y in (pixels[0], pixels[-1]):
                r = thick / 2
                draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        return mask

    # Fields: smooth grey images of the whole canvas, to be coloured by `ramp`.

    def noise(self, cells: float, *, octaves: int = 3, stretch: float = 1.0, sharp: bool = False) -> Image.Image:
        """Return cloudy noise.

        Args:
            cells: number of lumps from top to bottom.
            octaves: number of layers, each twice as fine as the one before.
            stretch: width of a lump relative to its height.
            sharp: scale up without interpolation, for the grain of cloth.
        """
        source = np.random.default_rng(self.rng.getrandbits(64))
        total = np.zeros((self.size, self.size), dtype=np.float32)
        for octave in range(octaves):
            high = max(2, round(cells * 2**octave))
            across = max(2, round(high / stretch))
            lumps = Image.fromarray(source.random((high, across), dtype=np.float32))
            total += np.asarray(lumps.resize((self.size, self.size), Image.Resampling.BICUBIC)) * 0.55**octave
        low, high_value = np.percentile(total, (1, 99))
        grey = np.clip((total - low) / (high_value - low), 0, 1) * 255
        return self._enlarge(Image.fromarray(grey.astype(np.uint8)), sharp=sharp)

    def fade(self, start: Point = (0, 0), stop: Point = (0, 1)) -> Image.Image:
        """Return a linear gradient, black at `start` and white at `stop`."""
        dx, dy = stop[0] - start[0], stop[1] - start[1]
        grid = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        along = ((grid[None, :] - start[0]) * dx + (grid[:, None] - start[1]) * dy) / (dx * dx + dy * dy)
        return self._enlarge(Image.fromarray((np.clip(along, 0, 1) * 255).astype(np.uint8)))

    def glow(self, x: float, y: float, radius: float, *, falloff: float = 1.5) -> Image.Image:
        """Return a radial gradient, white at (x, y) and black from `radius` on."""
        grid = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        distance = np.hypot(grid[None, :] - x, grid[:, None] - y) / radius
        grey = np.clip(1 - distance, 0, 1) ** falloff * 255
        return self._enlarge(Image.fromarray(grey.astype(np.uint8)))

    def _enlarge(self, small: Image.Image, *, sharp: bool = False) -> Image.Image:
        how = Image.Resampling.NEAREST if sharp else Image.Resampling.BILINEAR
        return small.resize(self.image.size, how)

    # Painting.

    def fill(self, paint: Colour | Image.Image, mask: Image.Image | None = None, opacity: float = 1.0) -> None:
        """Paint a colour or an image on the canvas, through a mask."""
        box = (0, 0, self.edge, self.edge) if mask is None else mask.getbbox()
        if box is None:
            return
        if mask is None:
            mask = Image.new("L", self.image.size, 255)
        part = mask.crop(box)
        if opacity < 1:
            part = part.point([round(value * opacity) for value in range(256)])
        self.image.paste(paint.crop(box) if isinstance(paint, Image.Image) else paint, box, part)

    def soften(self, mask: Image.Image, radius: float) -> Image.Image:
        """Return the blurred mask."""
        soft = Image.new("L", mask.size)
        box = self._box_around(mask, 3 * radius)
        if box is not None:
            part = mask.crop(box)
            small = part.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(radius * self.size))
            soft.paste(small.resize(part.size, Image.Resampling.BILINEAR), box)
        return soft

    def blur(self, radius: float) -> None:
        """Blur everything painted so far."""
        small = self.image.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(radius * self.size))
        self.image = small.resize(self.image.size, Image.Resampling.BICUBIC)

    def shadow(self, mask: Image.Image, *, away: float = 0.03, soft: float = 0.02, dark: float = 0.5) -> None:
        """Paint the shadow of a shape on the surface just behind it."""
        shift = (round(-self.light_x * away * self.edge), round(-self.light_y * away * self.edge))
        moved = Image.new("L", mask.size)
        moved.paste(mask, shift)
        self.fill((12, 10, 24), self.soften(moved, soft), dark)

    def ground(self, x: float, y: float, rx: float, ry: float, *, dark: float = 0.55) -> None:
        """Paint the shadow of an object that stands at (x, y)."""
        outline = arc(x - self.light_x * rx * 0.7, y, rx, ry)
        self.fill((14, 10, 20), self.soften(self.area(outline), ry * 0.55), dark)

    def relief(
        self,
        mask: Image.Image,
        paint: Colour | Image.Image,
        *,
        depth: float = 0.04,
        gloss: float = 0.25,
        bumps: Image.Image | None = None,
        rough: float = 0.3,
        opacity: float = 1.0,
    ) -> None:
        """Paint a flat shape with rounded edges.

        Args:
            mask: the shape.
            paint: its colour or an image of it.
            depth: width of the rounded edge.
            gloss: strength of the highlight.
            bumps: fine relief of the surface, white is high.
            rough: height of the bumps.
            opacity: from 0 to 1.
        """
        box = self._box_around(mask, 2 * depth)
        if box is None:
            return
        part = mask.crop(box)
        base = paint.crop(box) if isinstance(paint, Image.Image) else Image.new("RGB", part.size, paint)
        small = part.reduce(SUPERSAMPLING)
        height = np.zeros((small.height, small.width), dtype=np.float32)
        for share in (1.0, 0.5, 0.25):
            blurred = small.filter(ImageFilter.GaussianBlur(depth * share * self.size))
            height += np.asarray(blurred, dtype=np.float32) / 255 * depth * self.size * share
        if bumps is not None:
            height += np.asarray(bumps.crop(box).reduce(SUPERSAMPLING), dtype=np.float32) / 255 * 6 * rough
        down, right = np.gradient(height)
        normal = np.stack([-1.3 * right, -1.3 * down, np.ones_like(height)], axis=-1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        if opacity < 1:
            part = part.point([round(value * opacity) for value in range(256)])
        self.image.paste(self._apply_light(base, *self._shading(normal, gloss)), box, part)

    def _box_around(self, mask: Image.Image, margin: float) -> tuple[int, int, int, int] | None:
        """Return the bounding box of a mask plus a margin, on whole pixels of the finished image."""
        box = mask.getbbox()
        if box is None:
            return None
        left, top, right, bottom = (edge // SUPERSAMPLING for edge in box)
        more = 2 + round(margin * self.size)
        low = (max(left - more, 0) * SUPERSAMPLING, max(top - more, 0) * SUPERSAMPLING)
        return (*low, min(right + more, self.size) * SUPERSAMPLING, min(bottom + more, self.size) * SUPERSAMPLING)

    def _shading(self, normal: Array, gloss: float) -> tuple[Image.Image, Image.Image]:
        """Return the shade (grey, to multiply by) and the highlights (grey, to screen with) of a surface."""
        facing = normal @ self.light
        shade = 0.42 + 0.62 * np.clip(facing, 0, None) + 0.1 * np.clip(normal[..., 2], 0, 1)
        half = self.light + np.array([0, 0, 1], dtype=np.float32)
        mirror = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1)
        shine = gloss * (mirror**42 + 0.18 * mirror**7)
        return (
            Image.fromarray((np.clip(shade, 0, 1) * 255).astype(np.uint8)),
            Image.fromarray((np.clip(shine, 0, 1) * 255).astype(np.uint8)),
        )

    @staticmethod
    def _apply_light(base: Image.Image, shade: Image.Image, shine: Image.Image) -> Image.Image:
        # The sky lights what the lamp does not, so shade is violet rather than grey.
        tinted = ramp(shade, [(10, 0, 40), (80, 72, 108), (170, 166, 178), (255, 255, 255)])
        tinted = tinted.resize(base.size, Image.Resampling.BILINEAR)
        glare = Image.merge("RGB", [shine.resize(base.size, Image.Resampling.BILINEAR)] * 3)
        return ImageChops.screen(ImageChops.multiply(base, tinted), glare)

    def solid(
        self,
        pose: Pose,
        profile: Sequence[Point],
        texture: Texture,
        *,
        turn: Array | None = None,
        gloss: float = 0.4,
        shadow: float = 0.0,
    ) -> Image.Image:
        """Paint a solid of revolution, seen from the side, and return its mask.

        Args:
            pose: the axis of the solid is the y axis of the pose.
            profile: pairs (y, radius), y rising from about -1 to 1, joined by straight lines.
            texture: colours of surface points.
            turn: rotation [3, 3] of the points before `texture` is called; None shows the front.
            gloss: strength of the highlight.
            shadow: darkness of the shadow just behind the solid.
        """
        heights, radii = (np.array(column, dtype=np.float32) for column in zip(*profile, strict=True))
        reach = float(radii.max()) * pose.wide
        corners = pose([(sx * reach / pose.wide, y) for sx in (-1, 1) for y in (float(heights[0]), float(heights[-1]))])
        left, right = (int(f(x for x, _ in corners) * self.edge) + d for f, d in ((min, -2), (max, 3)))
        top, bottom = (int(f(y for _, y in corners) * self.edge) + d for f, d in ((min, -2), (max, 3)))
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, self.edge), min(bottom, self.edge)
        mask = Image.new("L", self.image.size)
        if left >= right or top >= bottom:
            return mask
        dx = (np.arange(left, right, dtype=np.float32)[None, :] / self.edge - pose.x) / pose.scale
        dy = (np.arange(top, bottom, dtype=np.float32)[:, None] / self.edge - pose.y) / pose.scale
        cos, sin = math.cos(pose.angle), math.sin(pose.angle)
        x, y = (cos * dx + sin * dy) / pose.wide, cos * dy - sin * dx
        # The slope of the squared radius is finite at the poles. Without smoothing, the straight lines of the profile
        # would show as facets.
        fine = np.linspace(heights[0], heights[-1], 512)
        fine_radii = np.interp(fine, heights, radii)
        rise = np.gradient(fine_radii**2, fine) / 2
        rise = np.convolve(np.pad(rise, 16, mode="edge"), np.hanning(33) / 16, mode="valid")
        radius = np.interp(y, fine, fine_radii, left=0, right=0).astype(np.float32)
        up = -np.interp(y, fine, rise).astype(np.float32)
        depth2 = radius * radius - x * x
        z = np.sqrt(np.clip(depth2, 0, None))
        length = np.sqrt(x * x + up * up + z * z) + 1e-6
        normal = np.stack([(cos * x - sin * up) / length, (sin * x + cos * up) / length, z / length], axis=-1)
        points = np.stack([x, y, z], axis=-1)
        if turn is not None:
            points = points @ turn.T
        colour = np.clip(texture(points[..., 0], points[..., 1], points[..., 2]), 0, 1) * 255
        lit = self._apply_light(Image.fromarray(colour.astype(np.uint8)), *self._shading(normal, gloss))
        mask.paste(Image.fromarray((depth2 > 0) * np.uint8(255)), (left, top))
        if shadow:
            self.shadow(mask, dark=shadow)
        self.image.paste(lit, (left, top), mask.crop((left, top, right, bottom)))
        return mask

    def finish(self) -> Image.Image:
        """Return the finished image, as a camera takes it."""
        return photograph(self.image, self.size, self.rng)
