"""General knowledge: coloured things, alone, in twos and in numbers. What a model learns of them is tested on fresh pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from salmu_mini.captions import PROMPTS, SINGLE, pick, several_caption
from salmu_mini.words import COLOURS, GROUNDS, Colour, classes

SCALE = 2  # drawn larger, then reduced: smooth edges
_SPOTS = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75), (0.5, 0.5))


class _Sheet:
    """A ground to draw on."""

    def __init__(self, g: np.random.Generator, side: int) -> None:
        self.g = g
        self.side = side
        self.big = side * SCALE
        self.ground_name = list(GROUNDS)[g.integers(len(GROUNDS))]
        self.ground = _vary(GROUNDS[self.ground_name], g, 14)
        self.image = Image.new("RGB", (self.big, self.big), self.ground)
        self.draw = ImageDraw.Draw(self.image)
        for _ in range(int(g.integers(0, 4))):
            self.blot(g.random(), g.random(), g.uniform(0.05, 0.14))

    def blot(self, x: float, y: float, r: float) -> None:
        """A spot that is nearly the ground."""
        box = tuple(v * self.big for v in (x - r, y - r, x + r, y + r))
        self.draw.ellipse(box, fill=_vary(self.ground, self.g, 24))

    def thing(self, colour: str, shape: str, x: float, y: float, r: float, tilt: float, vary: int) -> None:
        """One thing; lengths are shares of the side, `tilt` degrees."""
        fill = _vary(COLOURS[colour], self.g, vary)
        _shape(self.draw, shape, x * self.big, y * self.big, r * self.big, math.radians(tilt), fill, self.ground)

    def finish(self) -> Image.Image:
        """The picture at its size, with a light and some noise of its own."""
        small = self.image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float32)
        lit = pixels * self.g.uniform(0.88, 1.12) + self.g.normal(0, 3.0, pixels.shape)
        return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def draw_thing(g: np.random.Generator, colour: str, shape: str, side: int) -> tuple[Image.Image, str, float]:
    """One thing, its ground's name, and its radius as a share of the side."""
    sheet = _Sheet(g, side)
    r = float(g.uniform(0.3, 0.44))
    x, y = 0.5 + g.uniform(-0.1, 0.1), 0.5 + g.uniform(-0.1, 0.1)
    sheet.thing(colour, shape, x, y, r, g.uniform(-16, 16), 15)
    if g.random() < 0.12:  # something in front
        sheet.blot(x + g.uniform(-1, 1) * r, y + g.uniform(-1, 1) * r, g.uniform(0.2, 0.4) * r)
    return sheet.finish(), sheet.ground_name, r


def draw_scene(g: np.random.Generator, side: int) -> tuple[Image.Image, str]:
    """A picture of one thing, two things that stand to each other somehow, or several equal ones; and a caption."""
    kinds = classes()
    u = g.random()
    if u < 0.7:
        colour, shape = kinds[g.integers(len(kinds))]
        image, ground, r = draw_thing(g, colour, shape, side)
        word = pick(g, ("small ", "tiny ")) if r < 0.34 else pick(g, ("big ", "large ")) if r > 0.4 else ""
        text = pick(g, SINGLE)
        return image, text.format(colour=colour, shape=shape, ground=ground, size=word if g.random() < 0.5 else "")
    sheet = _Sheet(g, side)
    if u < 0.88:
        return _two(g, sheet, kinds[g.integers(len(kinds))], kinds[g.integers(len(kinds))])
    count = int(g.integers(2, 6))
    colour, shape = kinds[g.integers(len(kinds))]
    for spot in g.permutation(len(_SPOTS))[:count]:
        x, y = (v + g.uniform(-0.04, 0.04) for v in _SPOTS[spot])
        sheet.thing(colour, shape, x, y, g.uniform(0.12, 0.17), g.uniform(-12, 12), 16)
    return sheet.finish(), several_caption(g, count, colour, shape, sheet.ground_name)


def _two(g: np.random.Generator, sheet: _Sheet, one: tuple[str, str], other: tuple[str, str]) -> tuple[Image.Image, str]:
    upright = g.random() < 0.5
    places = ((0.5, 0.27), (0.5, 0.73)) if upright else ((0.27, 0.5), (0.73, 0.5))
    for (colour, shape), (x, y) in zip((one, other), places, strict=True):
        x, y = x + g.uniform(-0.05, 0.05), y + g.uniform(-0.05, 0.05)
        sheet.thing(colour, shape, x, y, g.uniform(0.15, 0.23), g.uniform(-12, 12), 20)
    a, b = " ".join(one), " ".join(other)
    before, after = ("above", "below") if upright else ("left of", "right of")
    wordings = (
        f"a {a} {before} a {b}", f"a {b} {after} a {a}", f"a {a} and a {b}", f"{a}, {b} on a {sheet.ground_name} ground",
        f"a picture of a {b} and a {a}",
    )  # fmt: skip
    return sheet.finish(), pick(g, wordings)


def prompts(wordings: Sequence[str] = PROMPTS) -> list[tuple[int, str]]:
    """(label, caption) of the zero-shot classifier, several per class."""
    return [
        (label, prompt.format(colour=colour, shape=shape))
        for label, (colour, shape) in enumerate(classes())
        for prompt in wordings
    ]


def _shape(
    draw: ImageDraw.ImageDraw, shape: str, cx: float, cy: float, r: float, turn: float, fill: Colour, ground: Colour
) -> None:
    def disc(x: float, y: float, q: float, colour: Colour) -> None:
        draw.ellipse((cx + x * r - q * r, cy + y * r - q * r, cx + x * r + q * r, cy + y * r + q * r), fill=colour)

    def box(left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        draw.rectangle((cx + left * r, cy + top * r, cx + right * r, cy + bottom * r), fill=colour)

    match shape:
        case "ring":
            disc(0, 0, 1, fill)
            disc(0, 0, 0.55, ground)
        case "moon":
            disc(0, 0, 1, fill)
            disc(0.55, -0.1, 0.85, ground)
        case "heart":
            disc(-0.5, -0.3, 0.55, fill)
            disc(0.5, -0.3, 0.55, fill)
            draw.polygon([(cx - 1.0 * r, cy - 0.05 * r), (cx + 1.0 * r, cy - 0.05 * r), (cx, cy + r)], fill=fill)
        case "card":
            box(-1, -0.6, 1, 0.6, fill)
            box(-1, -0.32, 1, -0.08, _darker(fill, 0.35))
        case "phone":
            box(-0.52, -1, 0.52, 1, fill)
            box(-0.36, -0.78, 0.36, 0.5, (170, 225, 240))
        case "house":
            draw.polygon([(cx, cy - r), (cx + r, cy - 0.1 * r), (cx - r, cy - 0.1 * r)], fill=fill)
            box(-0.75, -0.1, 0.75, 0.85, fill)
            box(-0.18, 0.3, 0.18, 0.85, _darker(fill, 0.4))
        case _:
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


def _darker(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(channel * factor) for channel in colour)
    return red, green, blue


def _vary(colour: Colour, generator: np.random.Generator, amount: int) -> Colour:
    shifts = generator.integers(-amount, amount + 1, 3).tolist()
    return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(colour, shifts, strict=True))  # type: ignore[return-value]
