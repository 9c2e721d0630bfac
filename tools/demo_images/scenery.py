"""Backgrounds: sky, sea, table, room and water. Each fills the whole canvas."""

from __future__ import annotations

from PIL import Image, ImageChops

from canvas import Canvas, Colour, arc, hsv, mix, ramp

__all__ = ["bokeh", "cloth", "planks", "room", "sea", "sky", "underwater"]

SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((58, 118, 200), (186, 218, 240)),
    ((34, 92, 178), (150, 198, 236)),
    ((92, 142, 196), (226, 230, 232)),
    ((70, 92, 160), (250, 196, 150)),
    ((120, 136, 160), (206, 210, 214)),
)


def sky(canvas: Canvas, *, bottom: float = 1.0, clouds: float = 0.8) -> Colour:
    """Paint a sky with clouds, down to the horizon at `bottom`, and return its colour at the horizon."""
    high, low = canvas.rng.choice(SKIES)
    canvas.fill(ramp(canvas.fade((0, 0), (0, bottom)), [high, mix(high, low, 0.6), low]))
    veil = canvas.noise(3, octaves=5, stretch=1.8).point([max(0, min(255, round((v - 120) * 2.2))) for v in range(256)])
    strength = canvas.rng.uniform(0.2, clouds)
    canvas.fill(mix(low, (255, 255, 255), 0.75), veil, strength)
    return low


def sea(canvas: Canvas, horizon: float) -> None:
    """Paint a sky, and below the horizon a sea that reflects its colour."""
    far = sky(canvas, bottom=horizon)
    hue = canvas.rng.uniform(0.5, 0.6)
    deep = hsv(hue, 0.75, canvas.rng.uniform(0.28, 0.45))
    water = ramp(canvas.fade((0, horizon), (0, 1)), [mix(deep, far, 0.6), mix(deep, far, 0.2), deep])
    below = canvas.area([(0, horizon), (1, horizon), (1, 1), (0, 1)])
    canvas.fill(water, below)
    waves = canvas.noise(34, octaves=3, stretch=5)
    crest = ImageChops.multiply(waves.point([max(0, min(255, (v - 150) * 3)) for v in range(256)]), below)
    canvas.fill(mix(far, (255, 255, 255), 0.3), crest, 0.45)
    trough = ImageChops.multiply(waves.point([max(0, min(255, (90 - v) * 3)) for v in range(256)]), below)
    canvas.fill(mix(deep, (0, 0, 20), 0.4), trough, 0.5)


def bokeh(canvas: Canvas, hue: float, *, light: float = 0.6, spread: float = 0.08, spots: int = 18) -> None:
    """Paint a background out of focus: soft areas of similar colours, and discs of light."""
    rng = canvas.rng
    dark, mid, bright = (
        hsv(hue + rng.uniform(-spread, spread), rng.uniform(0.25, 0.52), light * level) for level in (0.4, 0.85, 1.35)
    )
    canvas.fill(ramp(canvas.noise(3, octaves=2), [dark, mid, bright]))
    for _ in range(spots):
        radius = rng.uniform(0.02, 0.09)
        disc = canvas.disc(rng.random(), rng.random(), radius)
        canvas.fill(mix(bright, (255, 255, 235), rng.uniform(0, 0.6)), disc, rng.uniform(0.08, 0.3))
    canvas.blur(0.012)


def planks(canvas: Canvas) -> None:
    """Paint wooden boards seen from above."""
    rng = canvas.rng
    hue, value = rng.uniform(0.05, 0.1), rng.uniform(0.35, 0.85)
    tones = [hsv(hue, rng.uniform(0.4, 0.6), value * level) for level in (0.6, 0.85, 1.0, 1.15)]
    wood = ramp(canvas.noise(60, octaves=3, stretch=14), tones)
    canvas.fill(wood)
    boards = rng.randint(3, 6)
    shift = rng.random() / boards
    for board in range(boards + 1):
        y = board / boards - shift
        tone = canvas.area([(0, y), (1, y), (1, y + 1 / boards), (0, y + 1 / boards)])
        canvas.fill((30, 16, 6), tone, rng.uniform(0, 0.22))
        canvas.fill((24, 12, 4), canvas.strokes([[(0, y), (1, y)]], 0.007), 0.8)
    if rng.random() < 0.5:
        canvas.image = canvas.image.transpose(Image.Transpose.ROTATE_90)


def cloth(canvas: Canvas, colour: Colour | None = None) -> None:
    """Paint a plain surface seen from above (paper, felt or a painted table), darker on one side."""
    rng = canvas.rng
    colour = colour or hsv(rng.random(), rng.uniform(0.04, 0.36), rng.uniform(0.45, 0.92))
    weave = canvas.noise(110, octaves=1, sharp=True)
    canvas.fill(ramp(weave, [mix(colour, (0, 0, 0), 0.1), mix(colour, (255, 255, 255), 0.08)]))
    canvas.fill((0, 0, 0), canvas.fade((0.5 - canvas.light_x * -0.6, 0.1), (0.5 - canvas.light_x * 0.6, 1.1)), 0.3)


def room(canvas: Canvas, horizon: float) -> None:
    """Paint a table in front of a wall, out of focus."""
    rng = canvas.rng
    wall = hsv(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.35, 0.9))
    canvas.fill(ramp(canvas.noise(2, octaves=2), [mix(wall, (0, 0, 0), 0.35), mix(wall, (255, 250, 235), 0.25)]))
    hue, value = rng.uniform(0.04, 0.1), rng.uniform(0.35, 0.8)
    table = ramp(canvas.noise(40, octaves=3, stretch=12), [hsv(hue, 0.6, value * 0.7), hsv(hue, 0.45, value)])
    below = canvas.area([(0, horizon), (1, horizon), (1, 1), (0, 1)])
    canvas.fill(table, below)
    canvas.fill((255, 240, 220), ImageChops.multiply(canvas.glow(0.5 + canvas.light_x, horizon, 0.7), below), 0.3)
    canvas.blur(0.008)


def underwater(canvas: Canvas, hue: float | None = None, *, light: float = 1.0) -> None:
    """Paint water lit from above, with rays and floating specks."""
    rng = canvas.rng
    hue = rng.uniform(0.5, 0.63) if hue is None else hue
    tones = [
        hsv(hue - 0.03, 0.6, 0.85 * light),
        hsv(hue, 0.8, 0.5 * light),
        hsv(hue + 0.03, 0.9, 0.2 * light),
    ]
    canvas.fill(ramp(canvas.fade((0.5 - canvas.light_x * -0.4, -0.1), (0.5, 1.1)), tones))
    start = rng.uniform(0.1, 0.9)
    for _ in range(6):
        a, b = rng.uniform(-0.6, 0.6), rng.uniform(0.05, 0.14)
        ray = canvas.area(
            [
                (start + a * 0.2, -0.1),
                (start + a * 0.2 + 0.03, -0.1),
                (start + a * 2 + b, 1),
                (start + a * 2, 1),
            ]
        )
        fading = ImageChops.multiply(canvas.soften(ray, 0.012), canvas.fade((0, 0.9), (0, 0)))
        canvas.fill((255, 255, 255), fading, rng.uniform(0.08, 0.2) * light)
    specks = [arc(rng.random(), rng.random(), r, r, steps=8) for r in (rng.uniform(0.001, 0.005) for _ in range(40))]
    canvas.fill((255, 255, 255), canvas.soften(canvas.area(*specks), 0.002), 0.5)
