"""Procedural portraits. A face is drawn from an identity's fixed traits and a photo's free circumstances, so photos of one
person differ in pose, light, background and clothes and still show the same person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from salmu_core.seeding import numpy_generator

Colour = tuple[int, int, int]
SKINS: tuple[Colour, ...] = (
    (255, 224, 196), (241, 194, 155), (224, 172, 125), (198, 134, 86), (150, 96, 58), (104, 64, 40), (255, 205, 180)
)  # fmt: skip
HAIRS: dict[str, Colour] = {
    "black": (30, 25, 25), "brown": (95, 58, 30), "blond": (222, 184, 92), "red": (168, 62, 24), "grey": (160, 160, 165),
    "white": (235, 232, 225), "auburn": (120, 40, 35),
}  # fmt: skip
EYES: tuple[Colour, ...] = ((70, 110, 170), (60, 120, 70), (90, 60, 30), (40, 30, 25), (120, 130, 140))
SHIRTS: dict[str, Colour] = {
    "red": (196, 46, 50), "blue": (48, 84, 180), "green": (52, 134, 76), "yellow": (232, 196, 64), "white": (238, 238, 238),
    "black": (36, 36, 40), "purple": (122, 66, 150), "orange": (228, 122, 40),
}  # fmt: skip
BACKGROUNDS: tuple[Colour, ...] = (
    (176, 204, 228), (222, 212, 196), (188, 212, 178), (232, 196, 196), (202, 190, 222), (150, 156, 166), (240, 232, 206),
    (120, 168, 176), (96, 96, 110), (214, 170, 122),
)  # fmt: skip
SCALE = 3  # drawn larger, then reduced: smooth edges


@dataclass(frozen=True)
class Traits:
    """What makes a person recognisable; fixed per identity. Lengths are shares of the picture's side."""

    skin: Colour
    hair_name: str
    hair: Colour
    hair_style: int  # 0 bald, 1 short, 2 parted, 3 long, 4 bun, 5 curls
    eye: Colour
    eye_gap: float
    eye_size: float
    face_width: float
    face_height: float
    brow: float
    nose: float
    mouth: float
    glasses: int  # 0 none, 1 round, 2 square
    beard: int  # 0 none, 1 stubble, 2 full, 3 moustache
    hat: int  # 0 none, 1 cap, 2 beanie
    accent: Colour
    mole: tuple[float, float] | None
    earring: bool


@dataclass(frozen=True)
class Circumstances:
    """What differs from photo to photo."""

    background: Colour
    second: Colour
    pattern: int
    shirt_name: str
    smile: float
    light: float
    tint: Colour
    shift: tuple[float, float]
    zoom: float
    turn: float  # degrees
    clutter: tuple[tuple[float, float, float, Colour], ...]
    noise_seed: int


def draw_traits(seed: int, identity: str) -> Traits:
    """The traits of an identity."""
    g = numpy_generator(seed, "traits", identity)
    hair_name = str(g.choice(list(HAIRS)))
    return Traits(
        skin=_vary(SKINS[g.integers(len(SKINS))], g, 8),
        hair_name=hair_name,
        hair=_vary(HAIRS[hair_name], g, 10),
        hair_style=int(g.integers(6)),
        eye=EYES[g.integers(len(EYES))],
        eye_gap=float(g.uniform(0.085, 0.14)),
        eye_size=float(g.uniform(0.022, 0.045)),
        face_width=float(g.uniform(0.2, 0.29)),
        face_height=float(g.uniform(0.27, 0.34)),
        brow=float(g.uniform(0.008, 0.03)),
        nose=float(g.uniform(0.03, 0.075)),
        mouth=float(g.uniform(0.06, 0.12)),
        glasses=int(g.choice([0, 0, 0, 1, 2])),
        beard=int(g.choice([0, 0, 0, 1, 2, 3])),
        hat=int(g.choice([0, 0, 0, 0, 1, 2])),
        accent=tuple(int(v) for v in g.integers(30, 226, 3)),  # type: ignore[arg-type]
        mole=(float(g.uniform(-0.13, 0.13)), float(g.uniform(0.02, 0.16))) if g.random() < 0.3 else None,
        earring=bool(g.random() < 0.25),
    )


def draw_circumstances(seed: int, *photo: object) -> Circumstances:
    """The circumstances of one photo."""
    g = numpy_generator(seed, "photo", *photo)
    clutter = tuple(
        (float(g.random()), float(g.random()), float(g.uniform(0.06, 0.2)), _vary(BACKGROUNDS[g.integers(10)], g, 30))
        for _ in range(int(g.integers(2, 6)))
    )
    return Circumstances(
        background=_vary(BACKGROUNDS[g.integers(10)], g, 25),
        second=_vary(BACKGROUNDS[g.integers(10)], g, 25),
        pattern=int(g.integers(5)),
        shirt_name=str(g.choice(list(SHIRTS))),
        smile=float(g.uniform(-0.3, 1.0)),
        light=float(g.uniform(0.9, 1.08)),
        tint=tuple(int(v) for v in g.integers(-6, 7, 3)),  # type: ignore[arg-type]
        shift=(float(g.uniform(-0.05, 0.05)), float(g.uniform(-0.04, 0.04))),
        zoom=float(g.uniform(0.92, 1.1)),
        turn=float(g.uniform(-7, 7)),
        clutter=clutter,
        noise_seed=int(g.integers(2**31)),
    )


def draw_portrait(traits: Traits, photo: Circumstances, side: int) -> Image.Image:
    """One RGB portrait of `side` x `side` pixels."""
    big = side * SCALE
    backdrop = _backdrop(photo, big)
    layer = Image.new("RGBA", (big, big), (0, 0, 0, 0))
    _draw_person(ImageDraw.Draw(layer), traits, photo, big)
    layer = layer.rotate(photo.turn, resample=Image.Resampling.BILINEAR, center=(big / 2, big * 0.7))
    backdrop.paste(layer, (0, 0), layer)
    pixels = np.asarray(backdrop.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
    noise = np.random.default_rng(photo.noise_seed).normal(0, 3.0, pixels.shape)
    lit = pixels * photo.light + np.asarray(photo.tint, dtype=np.float32) + noise
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _backdrop(photo: Circumstances, big: int) -> Image.Image:
    image = Image.new("RGB", (big, big), photo.background)
    draw = ImageDraw.Draw(image)
    if photo.pattern == 1:
        draw.rectangle((0, big // 2, big, big), fill=photo.second)
    elif photo.pattern == 2:
        for left in range(0, big, max(1, big // 5)):
            draw.rectangle((left, 0, left + big // 10, big), fill=photo.second)
    elif photo.pattern == 3:
        draw.polygon(((0, 0), (big, 0), (0, big)), fill=photo.second)
    elif photo.pattern == 4:
        draw.rectangle((int(big * 0.58), int(big * 0.06), int(big * 0.94), int(big * 0.46)), fill=photo.second)
    for x, y, size, colour in photo.clutter:
        cx, cy, r = x * big, y * big, size * big / 2
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(big / 90))


def _draw_person(draw: ImageDraw.ImageDraw, t: Traits, photo: Circumstances, big: int) -> None:
    k = big * photo.zoom
    cx, cy = big * (0.5 + photo.shift[0]), big * (0.44 + photo.shift[1])
    w, h = t.face_width * k, t.face_height * k

    def oval(x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        draw.ellipse((cx + x * k - rx * k, cy + y * k - ry * k, cx + x * k + rx * k, cy + y * k + ry * k), fill=fill)

    shirt = SHIRTS[photo.shirt_name]
    top = cy + h * 0.98
    if t.hair_style == 3:  # long hair falls behind the shoulders
        draw.rounded_rectangle((cx - w * 1.25, cy - h * 0.9, cx + w * 1.25, cy + h * 1.35), radius=w * 0.7, fill=t.hair)
    draw.rounded_rectangle(
        (cx - w * 0.42, cy + h * 0.5, cx + w * 0.42, top + h * 0.4), radius=w * 0.2, fill=_shade(t.skin, 0.86)
    )
    draw.rounded_rectangle((cx - 0.36 * k, top + h * 0.12, cx + 0.36 * k, cy + 1.2 * k), radius=0.16 * k, fill=shirt)
    draw.polygon(
        ((cx - w * 0.5, top + h * 0.12), (cx + w * 0.5, top + h * 0.12), (cx, top + h * 0.55)), fill=_shade(shirt, 0.8)
    )
    if t.hair_style == 5:
        for angle in np.linspace(np.pi, 2 * np.pi, 9):
            oval(float(np.cos(angle)) * w / k, float(np.sin(angle)) * h / k * 0.85, 0.1, 0.1, t.hair)
    if t.hair_style == 4:
        oval(0, -h / k * 1.08, 0.09, 0.08, t.hair)
    for side in (-1, 1):
        oval(side * w / k, 0.02, 0.035, 0.055, _shade(t.skin, 0.92))
    if t.earring:
        oval(w / k + 0.005, 0.085, 0.018, 0.018, (250, 210, 60))
    draw.ellipse((cx - w, cy - h, cx + w, cy + h), fill=t.skin)
    if t.beard == 2:
        draw.chord((cx - w * 0.98, cy - h * 0.7, cx + w * 0.98, cy + h * 1.04), 15, 165, fill=t.hair)
    elif t.beard == 1:
        draw.chord((cx - w * 0.95, cy - h * 0.75, cx + w * 0.95, cy + h), 25, 155, fill=_mix(t.skin, t.hair, 0.35))
    if t.hair_style in (1, 2, 3, 4, 5) and t.hat == 0:
        draw.chord((cx - w * 1.06, cy - h * 1.1, cx + w * 1.06, cy + h * 0.62), 188, 352, fill=t.hair)
        if t.hair_style == 2:
            draw.polygon(
                ((cx - w, cy - h * 0.35), (cx - w * 0.2, cy - h * 0.95), (cx + w * 0.75, cy - h * 0.75)), fill=t.hair
            )
    for side in (-1, 1):
        x = side * t.eye_gap
        oval(x, -0.03, t.eye_size * 1.35, t.eye_size, (250, 250, 250))
        oval(x, -0.03, t.eye_size * 0.72, t.eye_size * 0.8, t.eye)
        oval(x, -0.03, t.eye_size * 0.3, t.eye_size * 0.36, (10, 10, 10))
        left, up = cx + (x - 0.05) * k, cy - (0.055 + t.eye_size) * k
        draw.rounded_rectangle((left, up, left + 0.1 * k, up + t.brow * k), radius=t.brow * k / 2, fill=_shade(t.hair, 0.75))
        if t.glasses:
            box = (cx + (x - 0.07) * k, cy - 0.095 * k, cx + (x + 0.07) * k, cy + 0.035 * k)
            width = max(1, int(0.014 * k))
            if t.glasses == 1:
                draw.ellipse(box, outline=_shade(t.accent, 0.6), width=width)
            else:
                draw.rectangle(box, outline=_shade(t.accent, 0.6), width=width)
    draw.polygon(
        (
            (cx, cy - 0.01 * k),
            (cx - t.nose * 0.45 * k, cy + t.nose * 1.3 * k),
            (cx + t.nose * 0.45 * k, cy + t.nose * 1.3 * k),
        ),
        fill=_shade(t.skin, 0.84),
    )
    mouth = cy + 0.165 * k
    lift = photo.smile * 0.045 * k
    if t.beard == 3:
        draw.chord((cx - 0.1 * k, mouth - 0.07 * k, cx + 0.1 * k, mouth + 0.02 * k), 180, 360, fill=t.hair)
    box = (cx - t.mouth * k, mouth - abs(lift) - 1, cx + t.mouth * k, mouth + abs(lift) + 2)
    draw.chord(box, 0, 180, fill=(176, 62, 66)) if lift >= 0 else draw.chord(box, 180, 360, fill=(150, 58, 60))
    if t.mole:
        oval(t.mole[0], t.mole[1], 0.016, 0.016, (72, 44, 34))
    if t.hat == 1:
        draw.chord((cx - w * 1.1, cy - h * 1.25, cx + w * 1.1, cy + h * 0.35), 180, 360, fill=t.accent)
        draw.rectangle((cx - w * 0.2, cy - h * 0.5, cx + w * 1.5, cy - h * 0.38), fill=_shade(t.accent, 0.7))
    elif t.hat == 2:
        draw.chord((cx - w * 1.08, cy - h * 1.3, cx + w * 1.08, cy + h * 0.3), 180, 360, fill=t.accent)
        draw.rectangle((cx - w * 1.08, cy - h * 0.62, cx + w * 1.08, cy - h * 0.42), fill=_shade(t.accent, 1.2))


def trait_vector(t: Traits) -> np.ndarray:
    """Traits as numbers between 0 and 1, float64 [15]: near vectors are people who look alike."""
    colours = [channel / 255 for channel in (*t.skin, *t.hair, *t.eye)]
    return np.array(
        [*colours, t.hair_style / 5, t.face_width / 0.29, t.face_height / 0.34, t.glasses / 2, t.beard / 3, t.hat / 2]
    )


def hair_words(traits: Traits) -> str:
    """The hair in a caption's words."""
    if traits.hat:
        return "with a hat"
    return "without hair" if traits.hair_style == 0 else f"with {traits.hair_name} hair"


def mood_word(photo: Circumstances) -> str:
    """The expression in a caption's word."""
    return "smiling" if photo.smile > 0.35 else "calm"


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(int(min(255, channel * factor)) for channel in colour)  # type: ignore[return-value]


def _mix(one: Colour, two: Colour, share: float) -> Colour:
    return tuple(int(a * (1 - share) + b * share) for a, b in zip(one, two, strict=True))  # type: ignore[return-value]


def _vary(colour: Colour, generator: np.random.Generator, amount: int) -> Colour:
    shifts = generator.integers(-amount, amount + 1, 3).tolist()
    return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(colour, shifts, strict=True))  # type: ignore[return-value]
