"""Painters of animals. Each paints one image; all random choices come from `canvas.rng`."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageChops

from canvas import Canvas, Colour, Pose, arc, hsv, mix, ramp, smooth
from scenery import bokeh, underwater

__all__ = ["butterfly", "goldfish", "jellyfish"]


def butterfly(canvas: Canvas) -> None:
    """Paint a butterfly with dark veins and pale dots, over a background out of focus."""
    rng = canvas.rng
    bokeh(canvas, rng.choice([0.25, 0.3, 0.35, 0.85]), light=rng.uniform(0.45, 0.8))
    pose = Pose(0.5, rng.uniform(0.47, 0.54), rng.uniform(0.4, 0.47), rng.uniform(-0.6, 0.6), rng.uniform(0.82, 1.0))
    hue = rng.choice([0.07, 0.07, 0.07, 0.02, 0.13, 0.56, 0.6])
    gold = hsv(hue + rng.uniform(-0.012, 0.012), 0.92, rng.uniform(0.85, 1.0))
    black = (22, 15, 12)
    fore = smooth([(0.06, -0.22), (0.4, -0.66), (0.88, -0.84), (1.02, -0.72), (0.86, -0.28), (0.66, 0.02), (0.2, 0.02)])
    hind = smooth([(0.06, 0.0), (0.5, 0.0), (0.78, 0.2), (0.74, 0.56), (0.46, 0.76), (0.2, 0.6), (0.08, 0.3)])
    veins_fore = [[(0.1, -0.16), p] for p in ((0.95, -0.62), (0.88, -0.36), (0.78, -0.15), (0.62, 0.0), (0.6, -0.76))]
    veins_hind = [[(0.08, 0.05), p] for p in ((0.76, 0.2), (0.76, 0.42), (0.62, 0.66), (0.42, 0.75), (0.22, 0.6))]
    for wing, veins in ((hind, veins_hind), (fore, veins_fore)):
        both = [[(s * x, y) for x, y in wing] for s in (-1, 1)]
        mask = canvas.area(*map(pose, both))
        canvas.shadow(mask, away=0.02, soft=0.015, dark=0.4)
        canvas.relief(
            mask,
            ramp(
                canvas.glow(*pose.at(0, 0), pose.scale * 1.2),
                [mix(gold, (60, 20, 10), 0.25), gold, mix(gold, (255, 236, 190), 0.35)],
            ),
            depth=0.012,
            gloss=0.12,
        )
        edges = canvas.strokes([pose([*half, half[0]]) for half in both], 0.1 * pose.scale)
        ribs = canvas.strokes(
            [pose([(s * x, y) for x, y in vein]) for vein in veins for s in (-1, 1)], 0.028 * pose.scale
        )
        canvas.fill(black, ImageChops.multiply(ImageChops.lighter(edges, ribs), mask))
        rim = [p for half in both for p in half[len(half) // 4 : -len(half) // 6]]
        cx = sum(x for x, _ in wing) / len(wing)
        cy = sum(y for _, y in wing) / len(wing)
        dots = [pose.at(x + 0.06 * (math.copysign(cx, x) - x), y + 0.06 * (cy - y)) for x, y in rim[::3]]
        canvas.fill(
            (250, 246, 236),
            ImageChops.multiply(canvas.area(*(arc(x, y, 0.0062, 0.0062, steps=10) for x, y in dots)), mask),
        )
    tip = canvas.area(
        *(pose([(s * x, y) for x, y in ((0.56, -0.74), (0.9, -0.84), (1.02, -0.74), (0.93, -0.5))]) for s in (-1, 1))
    )
    canvas.fill(black, tip, 0.92)
    flecks = [pose.at(s * x, y) for s in (-1, 1) for x, y in ((0.7, -0.7), (0.8, -0.66), (0.87, -0.62), (0.78, -0.76))]
    canvas.fill((255, 214, 150), canvas.area(*(arc(x, y, 0.011, 0.008, steps=10) for x, y in flecks)))
    canvas.relief(
        canvas.area(pose(smooth([(0, -0.36), (0.06, -0.25), (0.05, 0.2), (0, 0.5), (-0.05, 0.2), (-0.06, -0.25)]))),
        black,
        depth=0.02,
    )
    feelers = [pose(smooth([(0.02 * s, -0.33), (0.1 * s, -0.5), (0.2 * s, -0.66)], closed=False)) for s in (-1, 1)]
    canvas.fill(black, canvas.strokes(feelers, 0.006))


def goldfish(canvas: Canvas) -> None:
    """Paint one to three goldfish among water plants."""
    rng = canvas.rng
    underwater(canvas, rng.uniform(0.38, 0.6), light=rng.uniform(0.7, 1.1))
    weeds = [
        smooth(
            [
                (x, 1.05),
                (x + rng.uniform(-0.05, 0.05), 0.8),
                (x + rng.uniform(-0.1, 0.1), rng.uniform(0.35, 0.7)),
            ],
            closed=False,
        )
        for x in (rng.random() for _ in range(16))
    ]
    canvas.fill(hsv(0.33, 0.6, 0.32), canvas.strokes(weeds, 0.022), 0.75)
    canvas.blur(0.008)
    pebbles = canvas.noise(34, octaves=1)
    floor = canvas.area([(0, 0.93), *smooth([(0, 0.93), (0.4, 0.9), (1, 0.94)], closed=False), (1, 1), (0, 1)])
    canvas.relief(floor, ramp(pebbles, [(90, 80, 60), (190, 170, 130), (226, 214, 184)]), bumps=pebbles, rough=0.6)
    count = rng.choice([1, 1, 2, 3])
    for k in range(count):
        scale = rng.uniform(0.33, 0.42) if count == 1 else rng.uniform(0.2, 0.26)
        y = 0.47 if count == 1 else 0.22 + 0.6 * (k + 0.3) / count
        one_goldfish(canvas, Pose(rng.uniform(0.42, 0.58), y, scale, rng.uniform(-0.3, 0.3), rng.choice([-1, 1])))
    bubbles = [(rng.random(), rng.random() * 0.8, rng.uniform(0.005, 0.014)) for _ in range(9)]
    for x, y, r in bubbles:
        canvas.fill((230, 250, 255), canvas.strokes([arc(x, y, r, r)], 0.003), 0.7)


def one_goldfish(canvas: Canvas, pose: Pose) -> None:
    """Paint a goldfish that faces to the right of its pose."""
    rng = canvas.rng
    hue = rng.uniform(0.055, 0.085)
    gold, pale = hsv(hue, 0.95, 0.98), hsv(hue + 0.02, 0.55, 1.0)
    flow = rng.uniform(-0.12, 0.12)
    tail = smooth(
        [
            (-0.5, 0),
            (-0.85, -0.35),
            (-1.35, -0.55 + flow),
            (-1.12, -0.1 + flow),
            (-1.3, 0.5 + flow),
            (-0.85, 0.3),
        ]
    )
    back = smooth([(0.25, -0.38), (-0.05, -0.72), (-0.45, -0.62), (-0.48, -0.2)])
    belly = smooth([(0.15, 0.3), (0.0, 0.66), (-0.2, 0.6), (-0.1, 0.32)])
    rear = smooth([(-0.3, 0.22), (-0.52, 0.52), (-0.62, 0.42), (-0.5, 0.12)])
    fins = canvas.area(*map(pose, (tail, back, belly, rear)))
    x, y = pose.at(-0.3, 0)
    canvas.relief(
        fins,
        ramp(canvas.glow(x, y, pose.scale), [pale, mix(gold, pale, 0.4), gold]),
        depth=0.02,
        opacity=0.85,
    )
    rays = [[(-0.5, 0), (-1.25, t)] for t in np.linspace(-0.5, 0.45, 13)] + [
        [(0.1, -0.3), (-0.5 + 0.6 * t, -0.68)] for t in np.linspace(0, 1, 8)
    ]
    lines = canvas.strokes([pose(ray) for ray in rays], 0.004)
    canvas.fill(mix(gold, (160, 50, 0), 0.5), ImageChops.multiply(lines, fins), 0.55)
    outline = smooth(
        [
            (0.98, 0.04),
            (0.82, -0.2),
            (0.4, -0.41),
            (-0.1, -0.36),
            (-0.58, -0.1),
            (-0.58, 0.1),
            (-0.1, 0.36),
            (0.4, 0.4),
            (0.82, 0.22),
        ]
    )
    body = canvas.area(pose(outline))
    dark = canvas.fade(pose.at(0, -0.45), pose.at(0, 0.45))
    canvas.relief(body, ramp(dark, [mix(gold, (170, 50, 0), 0.35), gold, pale]), depth=0.075, gloss=0.6)
    scales = [
        pose(arc(-0.5 + 0.1 * col + 0.05 * (row % 2), -0.32 + 0.085 * row, 0.06, 0.06, -0.25, 0.25, 6))
        for row in range(8)
        for col in range(10)
    ]
    canvas.fill((255, 236, 170), ImageChops.multiply(canvas.strokes(scales, 0.0035), body), 0.5)
    goldfish_face(canvas, pose, mix(gold, (120, 30, 0), 0.6))


def goldfish_face(canvas: Canvas, pose: Pose, dark: Colour) -> None:
    """Paint gill, mouth and eye."""
    gill = canvas.strokes([pose(arc(0.4, 0.02, 0.14, 0.27, -0.22, 0.22, 12))], 0.007)
    canvas.fill(dark, gill, 0.7)
    mouth = canvas.strokes([pose([(0.97, 0.07), (0.86, 0.1)])], 0.008)
    canvas.fill((120, 40, 10), mouth)
    canvas.fill((250, 240, 220), canvas.area(pose(arc(0.68, -0.08, 0.1, 0.1))))
    canvas.fill((14, 12, 16), canvas.area(pose(arc(0.69, -0.08, 0.062, 0.062))))
    canvas.fill((255, 255, 255), canvas.area(pose(arc(0.71, -0.11, 0.022, 0.022))))


def jellyfish(canvas: Canvas) -> None:
    """Paint one to three glowing jellyfish in dark water."""
    rng = canvas.rng
    underwater(canvas, rng.uniform(0.56, 0.7), light=rng.uniform(0.5, 0.85))
    hue = rng.choice([0.55, 0.6, 0.8, 0.9, 0.03, 0.07]) + rng.uniform(-0.02, 0.02)
    count = rng.choice([1, 1, 2, 3])
    for k in range(count):
        scale = rng.uniform(0.25, 0.33) if count == 1 else rng.uniform(0.13, 0.2)
        x = 0.5 if count == 1 else 0.22 + 0.56 * k / (count - 1)
        pose = Pose(x + rng.uniform(-0.06, 0.06), rng.uniform(0.3, 0.42), scale, rng.uniform(-0.5, 0.5))
        pale = hsv(hue, 0.3, 1.0)
        canvas.fill(hsv(hue, 0.6, 0.9), canvas.glow(pose.x, pose.y, scale * 2.2, falloff=2), 0.45)
        threads, arms = [], []
        for t in np.linspace(-0.9, 0.9, 17):
            long, wave = rng.uniform(1.2, 2.4), rng.uniform(0, 6)
            threads.append(
                pose(
                    [
                        (t * (1 - 0.12 * s) + 0.09 * s * math.sin(wave + 3.2 * s), 0.1 + long * s)
                        for s in np.linspace(0, 1, 24)
                    ]
                )
            )
        for t in (-0.3, -0.1, 0.1, 0.3):
            wave = rng.uniform(0, 6)
            arms.append(pose([(t + 0.13 * s * math.sin(wave + 8 * s), 0.05 + 1.35 * s) for s in np.linspace(0, 1, 30)]))
        canvas.fill(pale, canvas.strokes(threads, 0.004), 0.55)
        canvas.fill(hsv(hue + 0.04, 0.35, 1.0), canvas.soften(canvas.strokes(arms, 0.026), 0.004), 0.5)
        canvas.fill(pale, canvas.strokes(arms, 0.008), 0.5)
        scallop = [(1 - 2 * t, 0.12 + 0.06 * abs(math.sin(t * math.pi * 8))) for t in np.linspace(0, 1, 49)]
        bell = canvas.area(pose([*arc(0, 0.12, 1, 0.98, 0.5, 1.0, 40), *scallop]))
        inner = canvas.soften(canvas.area(pose(arc(0, 0.1, 0.82, 0.72, 0.5, 1.0))), 0.02)
        canvas.relief(bell, hsv(hue, 0.45, 0.95), depth=0.05, gloss=0.7, opacity=0.72)
        canvas.fill(hsv(hue, 0.75, 0.5), ImageChops.multiply(inner, bell), 0.55)
        ribs = [
            pose(
                [
                    (math.sin(a) * r, 0.12 - 0.95 * math.cos(r * 1.5) * (1 - 0.12 * abs(math.sin(a))))
                    for r in np.linspace(0.05, 1, 12)
                ]
            )
            for a in np.linspace(-1.5, 1.5, 13)
        ]
        canvas.fill((255, 255, 255), ImageChops.multiply(canvas.strokes(ribs, 0.003), bell), 0.35)
        lobes = [pose(arc(0.26 * math.cos(a), -0.32 + 0.15 * math.sin(a), 0.15, 0.1)) for a in (0.3, 1.8, 3.4, 5.0)]
        canvas.fill(hsv(hue + 0.03, 0.25, 1.0), canvas.strokes(lobes, 0.01), 0.6)
