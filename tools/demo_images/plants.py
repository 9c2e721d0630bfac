"""Painters of plants and fruit. Each paints one image; all random choices come from `canvas.rng`."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageChops

from canvas import (
    Array,
    Canvas,
    Colour,
    Pose,
    Texture,
    about_axis,
    arc,
    hsv,
    mix,
    ramp,
    smooth,
)
from scenery import bokeh, cloth, planks, room, sky
from shapes import BALL, blend, leaf, scatter, speckle, uniform

__all__ = ["apple", "cactus", "carrot", "cherry", "pumpkin", "sunflower", "watermelon"]


def apple(canvas: Canvas) -> None:
    """Paint one to three apples: red, red and yellow, or green."""
    rng = canvas.rng
    rng.choice([planks, cloth, lambda c: bokeh(c, 0.3), lambda c: room(c, 0.5)])(canvas)
    if rng.random() < 0.7:
        colour, cheek = hsv(rng.uniform(0.96, 1.0), 0.9, rng.uniform(0.6, 0.78)), hsv(0.12, 0.65, 0.85)
    else:
        colour, cheek = hsv(0.23, 0.72, 0.7), hsv(0.19, 0.55, 0.86)
    blush = rng.uniform(0.1, 0.8)
    half = [
        (0, -0.86),
        (0.3, -0.88),
        (0.62, -0.8),
        (0.92, -0.5),
        (1, -0.1),
        (0.92, 0.35),
        (0.68, 0.75),
        (0.4, 0.93),
    ]
    outline = smooth([*half, (0.0, 0.96)], closed=False, steps=6)
    flank = [(y, r) for r, y in outline if r > 0.36]
    profile = sorted([(-0.885, 0.0), (-0.88, 0.36), *flank, (0.955, 0.3), (0.965, 0.0)])

    def skin(x: Array, y: Array, z: Array) -> Array:
        around = np.arctan2(x, z)
        cheeks = np.clip(blush - 0.9 * y + 0.5 * np.sin(around * 2 + 1), 0, 1) * blush
        streaks = 1 + 0.06 * np.sin(around * 37 + 2 * np.sin(y * 4)) * np.sin(around * 23)
        freckles = (np.sin(around * 29) * np.sin(y * 41 + 7 * around) > 0.93) * 0.35
        base = blend(blend(uniform(colour, x), cheek, cheeks), (250, 236, 190), freckles)
        return base * streaks[..., None] + speckle(canvas, x, 0.012)

    for pose in scatter(canvas, rng.choice([1, 1, 2, 3]), 0.24, 0.35):
        canvas.solid(pose, profile, skin, gloss=0.8, shadow=0.55)
        hollow = canvas.soften(canvas.area(pose(arc(0, -0.84, 0.3, 0.06))), 0.012)
        canvas.fill((52, 34, 10), hollow, 0.75)
        stem = smooth([pose.at(0, -0.83), pose.at(0.03, -1.0), pose.at(0.13, -1.16)], closed=False)
        canvas.relief(canvas.strokes([stem], 0.018), (92, 60, 34), depth=0.008)
        if rng.random() < 0.6:
            leaf(canvas, Pose(*pose.at(0.02, -0.92), pose.scale * 0.75, pose.angle + 1.1), hsv(0.29, 0.7, 0.45))


def cactus(canvas: Canvas) -> None:
    """Paint a ribbed cactus with arms, in the desert or in a pot."""
    rng = canvas.rng
    green = hsv(rng.uniform(0.3, 0.4), rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.6))
    potted = rng.random() < 0.4
    if potted:
        room(canvas, 0.72)
    else:
        sky(canvas, bottom=0.7)
        dune = canvas.area([(0, 0.75), *smooth([(0, 0.74), (0.4, 0.7), (1, 0.75)], closed=False), (1, 1), (0, 1)])
        rough = canvas.noise(18, octaves=4, stretch=2)
        canvas.relief(
            dune,
            ramp(rough, [(150, 100, 60), (200, 150, 96), (228, 186, 130)]),
            depth=0.01,
            bumps=rough,
            rough=0.4,
            gloss=0,
        )

    def skin(x: Array, y: Array, z: Array) -> Array:
        a = np.arctan2(x, z) * 11 / math.pi
        groove = np.abs(a - np.round(a))
        base = uniform(green, x) * (0.65 + 0.8 * groove)[..., None]
        thorn = (groove > 0.42) & (np.abs(y * 9 - np.round(y * 9)) < 0.2)
        return blend(base, (246, 238, 200), thorn.astype(np.float32) * 0.85)

    def limb(pose: Pose, long: float, thick: float) -> None:
        dome = [(-long + thick * (1 - math.cos(t)), thick * math.sin(t)) for t in np.linspace(0, math.pi / 2, 12)]
        canvas.solid(pose, [*dome, (0, thick)], skin, gloss=0.15)

    x, foot, high = rng.uniform(0.45, 0.55), 0.8 if not potted else 0.7, rng.uniform(0.5, 0.6)
    thick = rng.uniform(0.075, 0.1)
    canvas.ground(x, foot + 0.01, 0.16, 0.03)
    for s in rng.sample([-1, 1], rng.choice([1, 2, 2])):
        y, out, up = foot - high * rng.uniform(0.35, 0.6), rng.uniform(0.16, 0.2), rng.uniform(0.16, 0.26)
        bend = smooth([(x, y), (x + s * out * 0.7, y), (x + s * out, y - 0.05), (x + s * out, y - 0.1)], closed=False)
        canvas.relief(canvas.strokes([bend], thick * 1.25), mix(green, (0, 20, 0), 0.15), depth=0.04, gloss=0.1)
        limb(Pose(x + s * out, y - 0.04, 1), up, thick * 0.63)
    limb(Pose(x, foot, 1), high, thick)
    if rng.random() < 0.4:
        for k in range(7):
            leaf(canvas, Pose(x, foot - high + 0.03, 0.09, (k - 3) * 0.45), hsv(0.93, 0.6, 0.95), veins=False)
    if potted:
        clay = (186, 96, 60)
        canvas.solid(
            Pose(x, 0.8, 0.2),
            [(-0.55, 0.75), (-0.3, 0.75), (-0.29, 0.66), (0.7, 0.5), (0.72, 0)],
            lambda x, _y, _z: uniform(clay, x) + speckle(canvas, x, 0.02),
            gloss=0.1,
        )


def carrot(canvas: Canvas) -> None:
    """Paint one to four carrots with their greens."""
    rng = canvas.rng
    rng.choice([planks, cloth])(canvas)
    half = [
        (-1, 0),
        (-0.97, 0.16),
        (-0.85, 0.22),
        (-0.4, 0.19),
        (0.2, 0.13),
        (0.7, 0.07),
        (0.95, 0.02),
        (1.1, 0),
    ]

    def skin(x: Array, y: Array, z: Array) -> Array:
        rings = np.sin(y * 27 + 2 * np.sin(y * 61)) > 0.86
        base = uniform(hsv(0.065, 0.9, 0.93), x) + speckle(canvas, x, 0.015)
        return blend(base, (170, 80, 20), rings * np.clip(np.sin(np.arctan2(x, z) * 4 + y * 40), 0, 1) * 0.6)

    count, lean = rng.choice([1, 2, 3, 4]), rng.uniform(-0.9, 0.9)
    for k in range(count):
        pose = Pose(
            0.5 + (k - (count - 1) / 2) * 0.16,
            0.62 + rng.uniform(-0.04, 0.04),
            rng.uniform(0.29, 0.36),
            lean + rng.uniform(-0.15, 0.15),
        )
        greens = [
            pose(smooth([(0, -0.95), (a * 0.4, -1.25), (a, -1.5 + 0.3 * abs(a))], closed=False))
            for a in np.linspace(-0.5, 0.5, 7)
        ]
        canvas.relief(canvas.strokes(greens, 0.012), hsv(0.29, 0.65, 0.5), depth=0.008)
        fronds = [
            (x + rng.gauss(0, 0.018), y + rng.gauss(0, 0.018)) for stem in greens for x, y in stem[6:] for _ in range(3)
        ]
        canvas.relief(
            canvas.area(*(arc(x, y, 0.008, 0.008, steps=6) for x, y in fronds)),
            hsv(0.3, 0.7, rng.uniform(0.4, 0.6)),
            depth=0.006,
        )
        canvas.solid(pose, half, skin, gloss=0.25, shadow=0.5)


def shaded(colour: Colour) -> Texture:
    """Return the texture of a fruit that is darker at the bottom."""
    return lambda x, y, _z: blend(uniform(colour, x), (40, 0, 10), np.clip(0.5 * y, 0, 1))


def cherry(canvas: Canvas) -> None:
    """Paint one or two pairs of cherries on their stems."""
    rng = canvas.rng
    rng.choice([cloth, planks, lambda c: bokeh(c, 0.32)])(canvas)
    count = rng.choice([1, 1, 2])
    for k in range(count):
        middle = 0.5 if count == 1 else 0.3 + 0.42 * k
        top = (middle + rng.uniform(-0.12, 0.12), rng.uniform(0.12, 0.22))
        scale, apart = rng.uniform(0.14, 0.18) / count**0.5, 0.21 / count**0.5
        colour = hsv(rng.uniform(0.95, 1.0), 0.92, rng.uniform(0.45, 0.8))
        pair = [
            Pose(middle + side * apart * rng.uniform(0.85, 1.2), rng.uniform(0.58, 0.74), scale, side * 0.1)
            for side in (-1, 1)
        ]
        for pose in pair:
            canvas.solid(
                pose,
                [(y * 0.95, r) for y, r in BALL],
                shaded(colour),
                gloss=1.0,
                shadow=0.5,
            )
            hollow = canvas.soften(canvas.area(pose(arc(0, -0.74, 0.26, 0.1))), 0.006)
            canvas.fill((50, 0, 8), hollow, 0.7)
            stem = smooth(
                [pose.at(0, -0.72), (0.6 * pose.x + 0.4 * top[0] + 0.02, 0.5 * (pose.y + top[1])), top],
                closed=False,
            )
            canvas.relief(canvas.strokes([stem], 0.012), (110, 140, 54), depth=0.006)
        leaf(canvas, Pose(*top, 0.26, rng.choice([-1.7, 1.7])), hsv(0.3, 0.7, 0.42))


def pumpkin(canvas: Canvas) -> None:
    """Paint a pumpkin: whole in daylight, or carved and lit from inside."""
    rng = canvas.rng
    carved = rng.random() < 0.5
    rng.choice([lambda c: room(c, c.rng.uniform(0.6, 0.75)), lambda c: bokeh(c, 0.09, light=0.5)])(canvas)
    canvas.fill((8, 4, 20), None, rng.uniform(0.3, 0.75) if carved else rng.uniform(0, 0.15))
    pose = Pose(rng.uniform(0.45, 0.55), rng.uniform(0.54, 0.58), rng.uniform(0.3, 0.37))
    canvas.ground(pose.x, pose.y + pose.scale * 0.85, pose.scale, 0.05, dark=0.7)
    rind = hsv(rng.uniform(0.055, 0.075), 0.92, rng.uniform(0.8, 0.95))

    def skin(x: Array, _y: Array, z: Array) -> Array:
        ribs = np.abs(np.sin(np.arctan2(x, z + 0.15) * 6))
        base = uniform(rind, x) * (0.55 + 0.5 * ribs**0.5)[..., None]
        return base + speckle(canvas, x, 0.015)

    profile = [(0.88 * y, 1.12 * r**0.85 if r > 0 else 0.0) for y, r in BALL]
    canvas.solid(pose, profile, skin, gloss=0.35)
    stem = canvas.area(
        pose(smooth([(-0.13, -0.8), (-0.08, -1.05), (0.08, -1.18), (0.18, -1.1), (0.1, -0.95), (0.14, -0.8)]))
    )
    canvas.relief(stem, (96, 110, 50), depth=0.02, gloss=0.1)
    if carved:
        carve(canvas, pose)


def carve(canvas: Canvas, pose: Pose) -> None:
    """Paint a grinning face with light behind it."""
    rng = canvas.rng
    grin = rng.uniform(0.1, 0.3)
    eyes = [[(s * 0.22, -0.12), (s * 0.4, -0.44 - rng.uniform(0, 0.1)), (s * 0.62, -0.14)] for s in (-1, 1)]
    nose = [[(-0.09, 0.1), (0, -0.08), (0.09, 0.1)]]
    upper = [(x, 0.26 - grin * x * x * 1.6 + (0.09 if k % 2 else 0)) for k, x in enumerate(np.linspace(-0.7, 0.7, 8))]
    lower = [
        (x, 0.26 - grin * x * x * 1.6 + 0.26 * (1 - (x / 0.75) ** 2) + (0.0 if k % 2 else 0.09))
        for k, x in enumerate(np.linspace(0.7, -0.7, 7))
    ]
    mouth = [[*upper, *lower]]
    holes = canvas.area(*map(pose, [*eyes, *nose, *mouth]))
    flesh = ImageChops.lighter(holes, ImageChops.offset(holes, 0, round(0.012 * canvas.edge)))
    canvas.fill((120, 50, 8), flesh)
    light = canvas.glow(pose.x, pose.y + 0.1, pose.scale * 1.1, falloff=0.8)
    canvas.fill(ramp(light, [(220, 90, 10), (255, 180, 40), (255, 244, 170)]), holes)
    canvas.fill((255, 150, 30), canvas.soften(holes, 0.035), 0.45)


def sunflower(canvas: Canvas) -> None:
    """Paint one to three sunflowers in front of a sky or a field."""
    rng = canvas.rng
    if rng.random() < 0.5:
        sky(canvas)
        canvas.blur(0.01)
    else:
        bokeh(canvas, 0.28)
    for pose in scatter(canvas, rng.choice([1, 1, 2, 3]), 0.32, 0.42):
        stem = smooth(
            [(pose.x, pose.y), (pose.x + rng.uniform(-0.04, 0.04), pose.y + 0.4), (pose.x, 1.2)], closed=False
        )
        canvas.relief(canvas.strokes([stem], 0.035), (84, 128, 50), depth=0.015)
        leaf(
            canvas,
            Pose(pose.x, pose.y + pose.scale * 1.25, 0.3, rng.choice([-1.2, 1.2])),
            hsv(0.29, 0.65, 0.4),
        )
        for ring in range(2):
            petals = 17
            outlines = []
            for k in range(petals):
                t, long = (
                    math.tau * (k + ring / 2) / petals + rng.uniform(-0.06, 0.06),
                    rng.uniform(0.88, 1.05),
                )
                shape = smooth([(0, 0.4), (0.12, 0.65), (0.02, long), (-0.02, long), (-0.12, 0.65)], steps=4)
                outlines.append(
                    pose([(math.cos(t) * x - math.sin(t) * y, math.sin(t) * x + math.cos(t) * y) for x, y in shape])
                )
            tone = hsv(rng.uniform(0.115, 0.14), 0.95, 0.82 + 0.14 * ring)
            for start in (0, 1):
                mask = canvas.area(*outlines[start::2])
                canvas.shadow(mask, away=0.006, soft=0.006, dark=0.35)
                canvas.relief(
                    mask,
                    ramp(canvas.glow(pose.x, pose.y, pose.scale), [tone, tone, mix(tone, (150, 60, 0), 0.6)]),
                    depth=0.015,
                    gloss=0.1,
                )
        heart = canvas.area(pose(arc(0, 0, 0.45, 0.45)))
        canvas.shadow(heart, away=0.008, soft=0.012)
        seeds = canvas.noise(70, octaves=2)
        canvas.relief(
            heart,
            ramp(seeds, [(40, 22, 8), (96, 56, 18), (150, 96, 30)]),
            depth=0.05,
            bumps=seeds,
            rough=0.7,
            gloss=0.1,
        )


def watermelon(canvas: Canvas) -> None:
    """Paint a striped melon and cut slices."""
    rng = canvas.rng
    rng.choice([planks, cloth, lambda c: room(c, 0.45)])(canvas)
    green = hsv(0.31, 0.65, 0.5)

    def rind(x: Array, y: Array, z: Array) -> Array:
        a = np.arctan2(x, z) * 5 + 0.5 * np.sin(y * 14) + 0.3 * np.sin(y * 31)
        return blend(
            uniform(mix(green, (210, 230, 150), 0.4), x), mix(green, (0, 20, 0), 0.55), (np.sin(a) + 0.15) * 4
        ) + speckle(canvas, x, 0.02)

    whole = rng.random() < 0.6
    if whole:
        canvas.solid(
            Pose(rng.uniform(0.3, 0.6), 0.42, rng.uniform(0.27, 0.33), rng.uniform(0.9, 1.9)),
            [(1.15 * y, 0.92 * r) for y, r in BALL],
            rind,
            turn=about_axis(rng.random() * 6),
            gloss=0.6,
            shadow=0.6,
        )
    for k in range(rng.choice([1, 2])):
        pose = Pose(
            0.6 - 0.22 * k,
            (0.58 if whole else 0.4) + 0.1 * k,
            rng.uniform(0.28, 0.34) * (1 if whole else 1.15),
            rng.uniform(-0.4, 0.4),
        )
        outer = canvas.area(pose(arc(0, 0, 1, 0.9, 0, 0.5)))
        canvas.shadow(outer)
        canvas.relief(outer, mix(green, (0, 20, 0), 0.3), depth=0.02)
        canvas.fill((226, 240, 200), canvas.area(pose(arc(0, 0, 0.93, 0.83, 0, 0.5))))
        flesh = canvas.area(pose(arc(0, 0, 0.86, 0.76, 0, 0.5)))
        pulp = canvas.noise(50, octaves=3)
        canvas.relief(
            flesh,
            ramp(pulp, [(206, 40, 50), (232, 66, 70), (246, 110, 104)]),
            depth=0.015,
            bumps=pulp,
            rough=0.3,
            gloss=0.3,
        )
        seeds = [
            pose(arc(r * math.cos(t), 0.86 * r * math.sin(t), 0.022, 0.038, steps=12))
            for r, n in ((0.38, 4), (0.62, 7))
            for t in np.linspace(0.35, math.pi - 0.35, n)
        ]
        canvas.relief(canvas.area(*seeds), (30, 18, 14), depth=0.005, gloss=0.8)
