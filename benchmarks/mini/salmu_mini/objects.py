"""General knowledge: coloured shapes. What a model learns of them is tested on freshly drawn images."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from salmu_core.seeding import numpy_generator

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (214, 38, 42), "green": (40, 152, 64), "blue": (38, 72, 208), "yellow": (244, 212, 40),
    "purple": (136, 44, 168), "orange": (246, 134, 24), "white": (248, 248, 248), "black": (18, 18, 22),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
_GREYS = ((132, 138, 146), (158, 152, 142), (120, 130, 124), (150, 150, 160), (140, 126, 130))
SCALE = 3


def classes() -> list[tuple[str, str]]:
    """The zero-shot classes as (colour, shape); the position is the label."""
    return [(colour, shape) for colour in COLOURS for shape in SHAPES]


def draw_object(seed: int, colour: str, shape: str, side: int, *which: object) -> Image.Image:
    """One RGB image of `side` x `side` pixels: a bold shape on a muted ground, in varying size, place, turn and light."""
    g = numpy_generator(seed, "object", colour, shape, *which)
    big = side * SCALE
    ground = _GREYS[g.integers(len(_GREYS))]
    image = Image.new("RGB", (big, big), _vary(ground, g, 14))
    draw = ImageDraw.Draw(image)
    for _ in range(int(g.integers(0, 3))):
        x, y, r = g.random() * big, g.random() * big, g.uniform(0.06, 0.16) * big
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_vary(ground, g, 22))
    radius = g.uniform(0.3, 0.42) * big
    cx, cy = big * (0.5 + g.uniform(-0.07, 0.07)), big * (0.5 + g.uniform(-0.07, 0.07))
    fill = _vary(COLOURS[colour], g, 14)
    _shape(draw, shape, cx, cy, float(radius), math.radians(g.uniform(-14, 14)), fill, image.getpixel((1, 1)))
    pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
    lit = pixels * g.uniform(0.9, 1.1) + g.normal(0, 3.0, pixels.shape)
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _shape(
    draw: ImageDraw.ImageDraw, shape: str, cx: float, cy: float, r: float, turn: float, fill: Colour, ground: object
) -> None:
    if shape in ("circle", "ring"):
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)
        if shape == "ring":
            inner = r * 0.55
            draw.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=ground)  # type: ignore[arg-type]
        return
    draw.polygon([(cx + x * r, cy + y * r) for x, y in _outline(shape, turn)], fill=fill)


def _outline(shape: str, turn: float) -> list[tuple[float, float]]:
    if shape == "cross":
        t = 0.3
        points = [(-t, -1), (t, -1), (t, -t), (1, -t), (1, t), (t, t), (t, 1), (-t, 1), (-t, t), (-1, t), (-1, -t), (-t, -t)]
    elif shape == "star":
        angles = [-math.pi / 2 + i * math.pi / 5 for i in range(10)]
        points = [
            (math.cos(a) * (1.1 if i % 2 == 0 else 0.42), math.sin(a) * (1.1 if i % 2 == 0 else 0.42))
            for i, a in enumerate(angles)
        ]
    elif shape == "triangle":
        points = [(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]
    else:
        points = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    cosine, sine = math.cos(turn), math.sin(turn)
    return [(x * cosine - y * sine, x * sine + y * cosine) for x, y in points]


def _vary(colour: Colour, generator: np.random.Generator, amount: int) -> Colour:
    shifts = generator.integers(-amount, amount + 1, 3).tolist()
    return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(colour, shifts, strict=True))  # type: ignore[return-value]
