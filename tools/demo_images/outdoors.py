"""Painters of outdoor scenes: lighthouse, sailboat, snowman. All random choices come from `canvas.rng`."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageChops

from canvas import Array, Canvas, Colour, Pose, arc, hsv, mix, ramp, smooth
from scenery import sea, sky
from shapes import BALL, PAINTS, WHITE, blend, plain, speckle, uniform

__all__ = ["lighthouse", "sailboat", "snowman"]


def lighthouse(canvas: Canvas) -> None:
    """Paint a lighthouse on a rock by the sea."""
    rng = canvas.rng
    sea(canvas, rng.uniform(0.66, 0.76))
    dusk = rng.choice([0.0, 0.0, 0.45])
    canvas.fill((26, 18, 60), None, dusk)
    side = rng.choice([-1, 1])
    x = 0.5 - side * rng.uniform(-0.05, 0.14)
    coast = [
        (0.5 + side * (px - 0.5), py + rng.uniform(-0.015, 0.015))
        for px, py in (
            (-0.1, 0.8),
            (0.15, 0.76),
            (0.35, 0.77),
            (0.6, 0.78),
            (0.75, 0.86),
            (0.9, 0.93),
            (0.98, 1.1),
            (-0.1, 1.1),
        )
    ]
    rock = canvas.noise(20, octaves=4)
    tone = hsv(rng.uniform(0.07, 0.3), 0.25, rng.uniform(0.35, 0.55))
    canvas.relief(
        canvas.area(smooth(coast, steps=4)),
        ramp(rock, [mix(tone, (0, 0, 0), 0.6), tone, mix(tone, WHITE, 0.3)]),
        depth=0.05,
        bumps=rock,
        rough=1.2,
        gloss=0,
    )
    pose = Pose(x, 0.5, rng.uniform(0.27, 0.32))
    band, bands = rng.choice([(196, 34, 34), (196, 34, 34), (30, 40, 60), WHITE]), rng.choice([2, 3, 4])
    twist = rng.choice([0, 0, 1.2])

    def wall(x: Array, y: Array, z: Array) -> Array:
        stripe = np.floor(y * bands * 0.75 + twist * np.arctan2(x, z) / math.tau).astype(int) % 2
        base = blend(uniform((244, 242, 236), x), band, stripe.astype(np.float32)) + speckle(canvas, x, 0.015)
        door = np.hypot(np.clip(np.abs(x) - 0.045, 0, None), np.clip(np.abs(y - 0.9) - 0.1, 0, None)) < 0.015
        panes = (np.abs(x) < 0.03) & (np.abs(np.abs(y - 0.15) - 0.3) < 0.05)
        return blend(base, (40, 36, 44), (door | panes).astype(np.float32))

    hut = canvas.area(pose([(side * -0.25, 0.72), (side * -0.82, 0.72), (side * -0.82, 1.0), (side * -0.25, 1.0)]))
    canvas.relief(hut, (236, 230, 220), depth=0.008, gloss=0)
    canvas.relief(
        canvas.area(pose([(side * -0.2, 0.74), (side * -0.88, 0.74), (side * -0.72, 0.54), (side * -0.3, 0.54)])),
        (160, 60, 44),
        depth=0.008,
        gloss=0,
    )
    canvas.solid(pose, [(-0.92, 0.17), (0.98, 0.3), (1.02, 0.3)], wall, gloss=0.15)
    lantern(canvas, pose, band if band != WHITE else (170, 40, 36), side, dusk)


def lantern(canvas: Canvas, pose: Pose, roof: Colour, side: int, dusk: float) -> None:
    """Paint gallery, lamp and roof of a lighthouse, and its beam at dusk."""
    canvas.solid(pose, [(-1.0, 0.25), (-0.9, 0.24), (-0.88, 0.17)], plain((50, 50, 58)))
    rail = canvas.strokes(
        [pose([(0.25 * t, -1.1), (0.25 * t, -1.0)]) for t in np.linspace(-1, 1, 9)]
        + [pose([(-0.25, -1.1), (0.25, -1.1)])],
        0.005,
    )
    canvas.solid(pose, [(-1.3, 0.14), (-1.0, 0.14)], plain((255, 236, 160)), gloss=0.6)
    panes = canvas.strokes([pose([(0.14 * t, -1.3), (0.14 * t, -1.0)]) for t in (-1, -0.5, 0, 0.5, 1)], 0.006)
    canvas.fill((40, 40, 48), ImageChops.lighter(rail, panes))
    canvas.solid(
        pose,
        [(-1.56, 0.0), (-1.52, 0.03), (-1.42, 0.14), (-1.3, 0.19), (-1.28, 0.19)],
        plain(roof),
    )
    lamp = pose.at(0, -1.15)
    canvas.fill((255, 244, 190), canvas.glow(*lamp, 0.16, falloff=2), 0.5 + dusk)
    if dusk:
        beam = canvas.area([lamp, (side * 2, lamp[1] - 0.25), (side * 2, lamp[1] + 0.12)])
        canvas.fill((255, 244, 190), ImageChops.multiply(canvas.soften(beam, 0.01), canvas.glow(*lamp, 0.8)), 0.6)


def sailboat(canvas: Canvas) -> None:
    """Paint a sailboat on the sea, sometimes with others far away."""
    rng = canvas.rng
    horizon = rng.uniform(0.5, 0.66)
    sea(canvas, horizon)
    for _ in range(rng.choice([0, 0, 1, 2])):
        one_sailboat(
            canvas,
            Pose(
                rng.choice([0.12, 0.88]) + rng.uniform(-0.06, 0.06),
                horizon + 0.015,
                0.07,
                0,
                rng.choice([-1, 1]),
            ),
        )
    one_sailboat(
        canvas,
        Pose(
            rng.uniform(0.42, 0.58),
            rng.uniform(0.72, 0.8),
            rng.uniform(0.34, 0.42),
            rng.uniform(-0.12, 0.12),
            rng.choice([-1, 1]),
        ),
    )


def one_sailboat(canvas: Canvas, pose: Pose) -> None:
    """Paint hull, mast, sails and their reflection."""
    rng = canvas.rng
    cloth_colour = rng.choice([WHITE, WHITE, (236, 226, 200), *PAINTS])
    hull_colour = rng.choice([WHITE, (120, 66, 34), (24, 44, 96), (150, 26, 30), (40, 90, 90)])
    main = pose(smooth([(0.02, -1.55), (-0.3, -0.9), (-0.62, -0.2), (-0.3, -0.18), (0.02, -0.2)], steps=4))
    jib = pose(smooth([(0.08, -1.4), (0.44, -0.7), (0.72, -0.12), (0.4, -0.16), (0.12, -0.22), (0.14, -0.8)], steps=4))
    hull = pose([(-0.72, -0.1), (0.8, -0.14), (0.62, 0.06), (0.5, 0.13), (-0.55, 0.13), (-0.66, 0.04)])
    mirror = [
        [(x + 0.012 * math.sin(y * 120), 2 * pose.y + 0.24 * pose.scale - y) for x, y in shape]
        for shape in (main, jib, hull)
    ]
    canvas.fill(mix(cloth_colour, (60, 90, 120), 0.5), canvas.soften(canvas.area(*mirror), 0.006), 0.35)
    canvas.fill((70, 48, 30), canvas.strokes([pose([(0.04, -1.62), (0.06, -0.1)])], 0.03 * pose.scale))
    second = cloth_colour if rng.random() < 0.6 else rng.choice(PAINTS)
    for sail, tone in ((main, cloth_colour), (jib, second)):
        mask = canvas.area(sail)
        canvas.relief(mask, tone, depth=0.05 * pose.scale * 2.5, gloss=0.05)
        seams = [pose([(-0.7, y), (0.8, y - 0.08)]) for y in np.linspace(-1.3, -0.3, 6)]
        canvas.fill((120, 120, 130), ImageChops.multiply(canvas.strokes(seams, 0.003), mask), 0.4)
    body = canvas.area(hull)
    canvas.relief(body, hull_colour, depth=0.025 * pose.scale * 2.5, gloss=0.5)
    stripe = canvas.strokes([pose([(-0.7, -0.03), (0.75, -0.06)])], 0.025 * pose.scale)
    canvas.fill(
        mix(hull_colour, WHITE if sum(hull_colour) < 500 else (20, 50, 120), 0.8),
        ImageChops.multiply(stripe, body),
    )
    foam = [
        arc(
            *pose.at(rng.uniform(-0.8, 0.7), 0.13 + rng.uniform(-0.01, 0.03)),
            0.03 * pose.scale,
            0.016 * pose.scale,
            steps=8,
        )
        for _ in range(50)
    ]
    canvas.fill((250, 252, 255), canvas.soften(canvas.area(*foam), 0.002), 0.8)


def snowman(canvas: Canvas) -> None:
    """Paint a snowman with hat, scarf and carrot nose."""
    rng = canvas.rng
    winter(canvas)
    x, s = rng.uniform(0.42, 0.58), rng.uniform(0.85, 1.05)

    def skin(a: Array, _b: Array, _c: Array) -> Array:
        return uniform((246, 249, 254), a) + speckle(canvas, a, 0.018)

    foot = 0.9
    canvas.ground(x, foot - 0.01, 0.24 * s, 0.05)
    low, mid, top = (foot - 0.17 * s, 0.2 * s), (foot - 0.43 * s, 0.15 * s), (foot - 0.65 * s, 0.112 * s)
    arms = [[(x + d * 0.12 * s, mid[0]), (x + d * 0.3 * s, mid[0] - 0.1 * s)] for d in (-1, 1)]
    arms += [[(x + d * 0.24 * s, mid[0] - 0.067 * s), (x + d * 0.27 * s, mid[0] - 0.14 * s)] for d in (-1, 1)]
    canvas.relief(canvas.strokes(arms, 0.012), (84, 58, 40), depth=0.005)
    for y, r in (low, mid, top):
        canvas.solid(Pose(x, y, r), BALL, skin, gloss=0.05)
    dress(canvas, Pose(x, top[0], top[1]), mid[0], s)
    flakes = [
        arc(rng.random(), rng.random(), r, r, steps=8)
        for r in (rng.uniform(0.002, 0.007) for _ in range(rng.choice([0, 80, 120])))
    ]
    if flakes:
        canvas.fill((255, 255, 255), canvas.soften(canvas.area(*flakes), 0.002), 0.9)


def winter(canvas: Canvas) -> None:
    """Paint snow under a winter sky, with firs far away."""
    rng = canvas.rng
    sky(canvas, bottom=0.75)
    canvas.fill((60, 70, 110), None, rng.uniform(0, 0.5))
    firs = []
    for _ in range(9):
        x, h = rng.random(), rng.uniform(0.12, 0.26)
        firs += [
            [
                (x, 0.74 - h * a),
                (x + h * 0.3 * (1 - a * 0.6), 0.74 - h * (a - 0.36)),
                (x - h * 0.3 * (1 - a * 0.6), 0.74 - h * (a - 0.36)),
            ]
            for a in (0.4, 0.7, 1.0)
        ]
    canvas.fill((40, 66, 66), canvas.area(*firs), 0.85)
    canvas.blur(0.006)
    snow = canvas.noise(6, octaves=3, stretch=2)
    ground = canvas.area(
        [(0, 1.1), *smooth([(-0.1, 0.74), (0.3, 0.7), (0.7, 0.74), (1.1, 0.71)], closed=False), (1.1, 1.1)]
    )
    canvas.relief(
        ground,
        ramp(snow, [(196, 208, 232), (236, 242, 250), (252, 253, 255)]),
        depth=0.02,
        bumps=snow,
        rough=0.6,
        gloss=0,
    )


def dress(canvas: Canvas, head: Pose, chest: float, s: float) -> None:
    """Paint scarf, coals, nose and hat of a snowman.

    Args:
        canvas: where to paint.
        head: pose of the upper ball.
        chest: y of the middle ball.
        s: size of the snowman.
    """
    rng = canvas.rng
    wool = rng.choice(PAINTS[:-1])
    x, y, r = head.x, head.y, head.scale
    canvas.relief(
        canvas.strokes([arc(x, y + r * 0.62, r * 0.82, r * 0.36, 0.02, 0.48)], 0.045 * s),
        wool,
        depth=0.015,
        gloss=0,
    )
    canvas.relief(
        canvas.strokes([[(x + r * 0.4, y + r), (x + r * 0.55, y + r * 2.1)]], 0.05 * s),
        wool,
        depth=0.015,
        gloss=0,
    )
    coal = [(x - r * 0.36, y - r * 0.2, 0.016), (x + r * 0.36, y - r * 0.2, 0.016)]
    coal += [(x + r * t, y + r * (0.5 - 0.35 * t * t), 0.008) for t in (-0.4, -0.2, 0, 0.2, 0.4)]
    coal += [(x, chest + d * s, 0.014) for d in (-0.02, 0.05, 0.11)]
    canvas.relief(canvas.area(*(arc(a, b, c * s, c * s) for a, b, c in coal)), (26, 24, 28), depth=0.008, gloss=0.3)
    side = rng.choice([-1, 1])
    canvas.relief(
        canvas.area([(x, y - r * 0.1), (x + side * r * 1.05, y + r * 0.2), (x, y + r * 0.2)]),
        (240, 130, 30),
        depth=0.01,
    )
    hat = rng.choice([(30, 28, 34), (30, 28, 34), wool])
    canvas.relief(canvas.area(arc(x, y - r * 0.75, r * 1.15, r * 0.22)), hat, depth=0.01, gloss=0.1)
    canvas.solid(
        Pose(x, y, r),
        [(-1.75, 0.66), (-0.74, 0.7)],
        lambda a, b, _c: blend(uniform(hat, a), (190, 40, 44), (b > -0.98).astype(np.float32)),
        gloss=0.1,
    )
