"""Painters of objects and the moon. Each paints one image; all random choices come from `canvas.rng`."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from canvas import Array, Canvas, Point, Pose, arc, hsv, mix, ramp, random_rotation, smooth
from scenery import bokeh, sky
from shapes import BALL, PAINTS, WHITE, blend, speckle, uniform

__all__ = ["hot_air_balloon", "kite", "light_bulb", "moon", "umbrella"]


def hot_air_balloon(canvas: Canvas) -> None:
    """Paint one to four hot air balloons over hills."""
    rng = canvas.rng
    sky(canvas)
    for k in range(3):
        base = 0.86 + 0.05 * k
        ridge = smooth([(x / 6, base + rng.uniform(-0.04, 0.04)) for x in range(-1, 8)], closed=False)
        tone = mix(hsv(rng.uniform(0.25, 0.4), 0.45, 0.4), (150, 180, 205), 0.6 - 0.25 * k)
        canvas.fill(tone, canvas.area([(-0.2, 1), *ridge, (1.2, 1)]))
    canvas.blur(0.002)
    count = rng.choice([1, 1, 2, 4])
    for k in range(count):
        scale = rng.uniform(0.27, 0.34) if k == count - 1 else rng.uniform(0.07, 0.13)
        spots = [(0.16, 0.25), (0.84, 0.2), (0.85, 0.66)]
        x, y = (rng.uniform(0.42, 0.58), rng.uniform(0.38, 0.44)) if k == count - 1 else spots[k]
        one_balloon(canvas, Pose(x, y, scale, rng.uniform(-0.06, 0.06)))


def one_balloon(canvas: Canvas, pose: Pose) -> None:
    """Paint a balloon of two to four colours, and its basket."""
    rng = canvas.rng
    colours = rng.sample(PAINTS, rng.choice([2, 3, 3, 4]))
    gores, style = rng.choice([12, 16, 18]), rng.choice(["gores", "rings", "zigzag"])

    def silk(x: Array, y: Array, z: Array) -> Array:
        around: Array = np.arctan2(x, z) / math.tau * gores
        place: Array
        if style == "gores":
            place = around
        elif style == "rings":
            place = y * 3.2
        else:
            place = y * 3.2 + np.abs(around / 2 - np.round(around / 2)) * 1.2
        pick = np.floor(place).astype(int) % len(colours)
        base = np.array(colours, dtype=np.float32)[pick] / 255
        puff = np.abs(around - np.floor(around) - 0.5)
        return base * (1.05 - 0.5 * puff**2)[..., None]

    top = [(-math.cos(t), math.sin(t)) for t in np.linspace(0, math.pi / 2 + 0.3, 30)]
    profile = [*top, (0.62, 0.72), (0.92, 0.46), (1.1, 0.26), (1.16, 0.2), (1.17, 0)]
    ropes = canvas.strokes([pose([(0.2 * s, 1.12), (0.14 * s, 1.5)]) for s in (-1, -0.4, 0.4, 1)], 0.012 * pose.scale)
    canvas.fill((60, 50, 44), ropes)
    canvas.solid(pose, profile, silk, turn=None, gloss=0.2)
    weave = canvas.noise(60, octaves=1)
    basket = canvas.area(pose([(-0.17, 1.46), (0.17, 1.46), (0.14, 1.74), (-0.14, 1.74)]))
    canvas.relief(basket, ramp(weave, [(84, 50, 22), (160, 108, 58)]), depth=0.01, gloss=0.05)


def kite(canvas: Canvas) -> None:
    """Paint a diamond kite with its tail, in the sky."""
    rng = canvas.rng
    sky(canvas)
    pose = Pose(rng.uniform(0.42, 0.6), rng.uniform(0.34, 0.44), rng.uniform(0.24, 0.32), rng.uniform(-0.6, 0.6))
    colours = rng.sample(PAINTS, 3)
    sway = rng.random() * 6
    tail = [pose.at(0.25 * math.sin(4 * s + sway) * s, 1.1 + 1.4 * s) for s in np.linspace(0, 1, 16)]
    canvas.fill(
        (60, 60, 70),
        canvas.strokes([smooth(tail, closed=False), [pose.at(0, 0), (rng.uniform(0, 1), 1.1)]], 0.003),
    )
    for k, (x, y) in enumerate(tail[2::3]):
        bow = Pose(x, y, 0.035, rng.uniform(-0.6, 0.6))
        canvas.relief(
            canvas.area(bow([(0, 0), (1, -0.5), (1, 0.5)]), bow([(0, 0), (-1, -0.5), (-1, 0.5)])),
            colours[k % 3],
            depth=0.006,
        )
    corners = [(0, -0.9), (0.72, -0.15), (0, 1.1), (-0.72, -0.15)]
    for k in range(4):
        mask = canvas.area(pose([(0, -0.15), corners[k], corners[(k + 1) % 4]]))
        canvas.relief(mask, mix(colours[k % 2], (30, 20, 50), 0.15 * (k in (1, 2))), depth=0.012, gloss=0.1)
    canvas.fill(
        (60, 44, 30),
        canvas.strokes([pose([(0, -0.9), (0, 1.1)]), pose([(-0.72, -0.15), (0.72, -0.15)])], 0.006),
    )


def light_bulb(canvas: Canvas) -> None:
    """Paint a light bulb, on or off."""
    rng = canvas.rng
    bokeh(canvas, rng.random(), light=rng.uniform(0.15, 0.5), spots=24)
    lit, flip = rng.random() < 0.65, rng.random() < 0.5
    pose = Pose(
        rng.uniform(0.44, 0.56),
        0.48 if flip else 0.46,
        rng.uniform(0.27, 0.32),
        (math.pi if flip else 0) + rng.uniform(-0.3, 0.3),
    )
    if flip:
        canvas.fill((24, 22, 24), canvas.strokes([[pose.at(0, 1.2), (pose.at(0, 1.2)[0], -0.1)]], 0.018))
    outline = smooth(
        [
            (0, -1),
            (0.6, -0.78),
            (0.78, -0.25),
            (0.55, 0.25),
            (0.34, 0.6),
            (0.32, 0.78),
            (-0.32, 0.78),
            (-0.34, 0.6),
            (-0.55, 0.25),
            (-0.78, -0.25),
            (-0.6, -0.78),
        ]
    )
    if lit:
        canvas.fill((255, 190, 90), canvas.glow(*pose.at(0, -0.2), 0.6, falloff=1.8), 0.8)
    glass = canvas.area(pose(outline))
    canvas.relief(
        glass,
        (255, 214, 130) if lit else (206, 220, 228),
        depth=0.06,
        gloss=0.9,
        opacity=0.75 if lit else 0.4,
    )
    wire = [pose([(-0.1, 0.6), (-0.2, -0.1)]), pose([(0.1, 0.6), (0.2, -0.1)])]
    canvas.fill((90, 84, 80), canvas.strokes(wire, 0.005))
    coil = canvas.strokes(
        [pose([(-0.2 + 0.4 * s, -0.1 + 0.06 * math.sin(s * 40)) for s in np.linspace(0, 1, 60)])], 0.007
    )
    if lit:
        canvas.fill((255, 240, 200), canvas.glow(*pose.at(0, -0.1), 0.17, falloff=1.3), 0.95)
    canvas.fill((255, 252, 236) if lit else (70, 60, 56), coil)
    canvas.solid(
        pose,
        [(0.72, 0.32), (0.76, 0.36), (1.1, 0.34), (1.2, 0.2), (1.28, 0.12), (1.29, 0)],
        lambda x, y, _z: uniform((176, 172, 164), x) * (0.7 + 0.3 * np.sin(y * 75 + x * 2))[..., None],
        gloss=0.9,
    )


def moon(canvas: Canvas) -> None:
    """Paint the moon at night, full or partly dark, with clouds or hills."""
    rng = canvas.rng
    canvas.fill(ramp(canvas.fade(), [(6, 8, 24), (16, 24, 58), (40, 50, 92)]))
    stars = [
        arc(rng.random(), rng.random(), r, r, steps=6) for r in (abs(rng.gauss(0, 0.0022)) + 0.0008 for _ in range(130))
    ]
    canvas.fill((240, 240, 255), canvas.area(*stars), 0.9)
    pose = Pose(rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.5), rng.uniform(0.16, 0.33))
    canvas.fill((190, 200, 230), canvas.glow(pose.x, pose.y, pose.scale * 2.2, falloff=2.5), 0.5)
    canvas.light = np.array(
        [rng.choice([-1, 1]) * rng.uniform(0.0, 1.2), -0.2, rng.choice([0.9, 0.4, 0.1])], dtype=np.float32
    )
    canvas.light = canvas.light / np.linalg.norm(canvas.light)
    bowls = [([rng.gauss(0, 1) for _ in range(3)], rng.uniform(0.03, 0.2)) for _ in range(45)]

    def skin(x: Array, y: Array, z: Array) -> Array:
        dark, rim = np.zeros_like(x), np.zeros_like(x)
        for centre, radius in bowls:
            a, b, c = np.array(centre, dtype=np.float32) / math.hypot(*centre)
            far = np.sqrt(np.clip(2 - 2 * (a * x + b * y + c * z), 0, None))
            dark = np.maximum(dark, np.clip((radius - far) * 10, 0, 0.55))
            rim = np.maximum(rim, np.clip(1 - np.abs(far - radius) / 0.02, 0, 1) * 0.4)
        seas = np.sin(3 * x + 2) * np.sin(4 * y - 1) * np.sin(3 * z)
        base = uniform((232, 228, 214), x) * (0.9 + 0.12 * seas)[..., None]
        return blend(blend(base, (126, 122, 118), dark), (250, 248, 240), rim) + speckle(canvas, x, 0.02)

    canvas.solid(pose, BALL, skin, turn=random_rotation(rng), gloss=0)
    if rng.random() < 0.5:
        veil = canvas.noise(3, octaves=5, stretch=3).point([max(0, round((v - 140) * 1.6)) for v in range(256)])
        canvas.fill((70, 80, 116), veil, 0.7)
    if rng.random() < 0.5:
        ridge = smooth([(x / 8, 0.86 + rng.uniform(-0.05, 0.05)) for x in range(-1, 10)], closed=False)
        canvas.fill((6, 8, 14), canvas.area([(-0.2, 1), *ridge, (1.2, 1)]))


def umbrella(canvas: Canvas) -> None:
    """Paint an open umbrella, in the rain or under the sky."""
    rng = canvas.rng
    wet = rng.random() < 0.5
    if wet:
        bokeh(canvas, rng.uniform(0.55, 0.65), light=rng.uniform(0.35, 0.65), spots=26)
    else:
        sky(canvas)
    pose = Pose(rng.uniform(0.45, 0.55), rng.uniform(0.46, 0.54), rng.uniform(0.38, 0.44), rng.uniform(-0.4, 0.4))
    shaft = [(0, -0.62), (0, 0.78), *arc(0.11, 0.8, 0.11, 0.14, 0.5, 0.0, 12)]
    canvas.relief(canvas.strokes([pose(shaft)], 0.02), rng.choice([(70, 50, 34), (40, 40, 44)]), depth=0.008, gloss=0.6)
    first, other = rng.sample(PAINTS, 2)
    second = rng.choice([first, first, WHITE, other])
    ribs = 6
    tips = [math.sin(t) for t in np.linspace(-math.pi / 2, math.pi / 2, ribs + 1)]
    under = [
        pose([(a, 0.02 + 0.02), *smooth([(a, 0.04), ((a + b) / 2, -0.1), (b, 0.04)], closed=False), (0, -0.35)])
        for a, b in pairwise(tips)
    ]
    canvas.fill(mix(first, (0, 0, 0), 0.65), canvas.area(pose(arc(0, -0.02, 0.97, 0.14)), *under))
    for k, (a, b) in enumerate(pairwise(tips)):

        def rib(tip: float) -> list[Point]:
            return [(tip * math.sin(t), 0.05 - 0.72 * math.cos(t)) for t in np.linspace(0, math.pi / 2, 14)]

        hem = smooth([(b, 0.05), ((a + b) / 2, -0.05), (a, 0.05)], closed=False)
        mask = canvas.area(pose([*rib(b), *hem, *reversed(rib(a))]))
        tone = (first, second)[k % 2]
        facing = 0.5 + 0.5 * (a + b) / 2 * canvas.light_x * 1.4
        canvas.relief(mask, mix(tone, (10, 8, 30), 0.42 - 0.42 * float(facing)), depth=0.035, gloss=0.2)
        canvas.fill(mix(tone, (0, 0, 0), 0.4), canvas.strokes([pose(rib(b))], 0.004), 0.8)
    canvas.fill((50, 50, 54), canvas.strokes([pose([(0, -0.66), (0, -0.8)])], 0.014))
    if wet:
        drops = [
            [(x, y), (x - 0.012, y + rng.uniform(0.03, 0.07))]
            for x, y in ((rng.random(), rng.random()) for _ in range(110))
        ]
        canvas.fill((226, 236, 250), canvas.strokes(drops, 0.003), 0.45)
