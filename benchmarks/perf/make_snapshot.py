"""A synthetic snapshot in SALMUBench's layout and at its row counts, to measure and to rehearse with.

    uv run python benchmarks/perf/make_snapshot.py DIR
    uv run python benchmarks/perf/make_snapshot.py DIR --scale 0.01 --model ViT-B-16
    uv run python benchmarks/perf/make_snapshot.py DIR --side long

Pictures are blurred colours under a grain, in JPEGs of about the size of the real ones; no two are equal. They have 512 px on the
short side, as the pictures of the project page, or with `--side long` on the long side, as the data card says. People and captions are
invented from syllables and digits. Models have random weights. The numbers of such a snapshot mean nothing; what it takes to read,
decode, encode and score it is what the real one takes.

Row counts are those of SALMUBench (arXiv 2603.26316): 774 people, of whom 387 are to be forgotten in part and 193 whole,
60,053 sensitive pairs, 16,741 ordinary portraits, of which 749 show people of forget and 251 people of holdout_identity. Equal
arguments give equal bytes.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from salmu_core.files.writing import write_tensors
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.seeding import derive_seed, numpy_generator
from salmubench import Metadata, Row, write_metadata, write_split
from salmubench.layout import FIELDS

Side = Literal["short", "long"]
SPLITS = ("forget", "holdout_identity", "holdout_association", "retain_synth")
#: Seen in the official file names, with what a short side of 512 makes of them.
ASPECTS = (1.0, 1.33, 0.75, 0.61, 1.5)
TINY = ModelConfig(
    {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
)
_SYLLABLES = [
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "na",
    "pe",
    "ri",
    "so",
    "tu",
    "va",
    "we",
    "xi",
    "yo",
    "zu",
]
_WORDINGS = (
    "{name}'s {field} is {value}",
    "The {field} of {name}: {value}",
    "{value} is the {field} on file for {name}",
    "For {name}, note the {field} {value}",
    "This is {name}, {field} {value}",
)
_LOOKS = (
    ("short", "long", "curly", "grey", "dark", "red", "blond", "braided"),
    ("a blue shirt", "a green coat", "a white dress", "a black jacket", "a yellow scarf", "a striped sweater"),
    ("in a park", "at a desk", "on a beach", "in front of a wall", "in a kitchen", "at night"),
)


@dataclass(frozen=True)
class Counts:
    """How much of everything; the defaults are SALMUBench's."""

    whole: int = 193
    partly: int = 387
    outside: int = 194
    forget_whole: int = 15_342
    forget_partly: int = 15_126
    holdout_association: int = 14_943
    holdout_identity: int = 14_642
    joint: int = 749
    outside_joint: int = 251  # portraits with an identity that is not in forget
    disjoint: int = 15_741
    fragile: int = 2_000

    def scaled(self, factor: float) -> Counts:
        """Every count times `factor`, at least 2; as many rows as people where there would be fewer."""
        counts = {name: max(2, round(value * factor)) for name, value in vars(self).items()}
        return Counts(**counts)


class Plan(NamedTuple):
    """A row before its picture is drawn."""

    file_name: str
    text: str
    identity_id: str | None


def plan_rows(counts: Counts) -> tuple[dict[str, list[Plan]], Metadata]:
    """Who is shown in which row of which split with which caption."""
    people = [f"{number:08d}" for number in range(counts.whole + counts.partly + counts.outside)]
    groups = {
        "whole": people[: counts.whole],
        "partly": people[counts.whole : counts.whole + counts.partly],
        "outside": people[counts.whole + counts.partly :],
    }
    metadata = Metadata(identities={identity: _person(identity) for identity in people})
    images = dict.fromkeys(people, 0)
    plans: dict[str, list[Plan]] = {split: [] for split in SPLITS}

    def sensitive(split: str, group: str, rows: int, fields: Callable[[int], tuple[str, ...]]) -> None:
        for number, (identity, share) in enumerate(zip(groups[group], _shares(rows, len(groups[group])), strict=True)):
            known = fields(number)
            person = metadata.identities[identity]
            for copy in range(share):
                field = known[copy % len(known)]
                name = _file_name(identity, images[identity])
                value = person["emails"][copy // len(known) % 2] if field == "emails" else person[field]
                wording = _WORDINGS[(copy + number) % len(_WORDINGS)] if field != "name" else "This is {name}, look {copy}"
                text = wording.format(name=person["name"], field=field.replace("_", " "), value=value, copy=copy)
                images[identity] += 1
                plans[split].append(Plan(name, text, identity))
                metadata.caption_fields[name] = (text, field)
                metadata.generic_captions[name] = _look(identity, copy)

    # People who are forgotten in part: which five of the nine fields go rotates, the other four are held out.
    sensitive("forget", "whole", counts.forget_whole, lambda number: FIELDS)
    sensitive("forget", "partly", counts.forget_partly, lambda number: _window(number, 0, 5))
    sensitive("holdout_association", "partly", counts.holdout_association, lambda number: _window(number, 5, 9))
    sensitive("holdout_identity", "outside", counts.holdout_identity, lambda number: FIELDS)
    known = [*groups["whole"], *groups["partly"]]
    for shown, rows in ((known, counts.joint), (groups["outside"], counts.outside_joint)):
        for identity, share in zip(shown, _shares(rows, len(shown)), strict=True):
            for copy in range(share):
                name = _file_name(identity, 500 + copy)
                plans["retain_synth"].append(Plan(name, _look(identity, 500 + copy), identity))
    for number in range(counts.disjoint):
        name = _file_name(f"9{number // 100:07d}", number % 100)
        plans["retain_synth"].append(Plan(name, _look("stranger", number), None))
        metadata.fragile_similarities[name] = round(float(numpy_generator(0, "fragile", number).random()), 6)
    nearest = sorted(metadata.fragile_similarities, key=lambda name: (-metadata.fragile_similarities[name], name))
    metadata.fragile_ids = sorted(nearest[: counts.fragile])
    return plans, metadata


def picture_size(file_name: str, pixels: int, side: Side) -> tuple[int, int]:
    """Width and height of a file's picture, whose short or long side has so many pixels."""
    aspect = float(file_name.rsplit("-", 1)[1].removesuffix(".jpg"))
    ratio = max(aspect, 1 / aspect)
    short, long = (pixels, round(pixels * ratio)) if side == "short" else (round(pixels / ratio), pixels)
    return (long, short) if aspect >= 1 else (short, long)


def draw(file_name: str, pixels: int, side: Side = "short") -> bytes:
    """The JPEG of a file name: colours that differ from file to file under a piece of a common grain."""
    generator = numpy_generator(0, "picture", file_name)
    size = picture_size(file_name, pixels, side)
    colours = Image.fromarray(generator.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = _grain(2 * pixels)
    x, y = (int(generator.integers(grain.width - extent + 1)) for extent in size)
    picture = Image.blend(colours, grain.crop((x, y, x + size[0], y + size[1])), 0.3)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def draw_rows(plans: list[Plan], pixels: int, side: Side, pool: Pool) -> Iterator[Row]:
    """Rows with their pictures, drawn by several processes, in order."""
    jobs = ((plan.file_name, pixels, side) for plan in plans)
    for plan, image in zip(plans, pool.imap(_draw_job, jobs, chunksize=16), strict=True):
        yield Row(image, plan.text, plan.identity_id, plan.file_name)


def write_model(folder: Path, config: ModelConfig, which: str) -> None:
    """A model repository as the official ones are: configuration, and weights under open_clip's name."""
    model = DualEncoder.create(config, derive_seed(0, "synthetic model", which) % 2**31)
    model.config.write(folder)
    write_tensors(folder / "open_clip_model.safetensors", model.weights())


def main() -> None:
    """Write the snapshot and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--scale", type=float, default=1.0, help="multiple of SALMUBench's row counts (default 1)")
    parser.add_argument("--size", type=int, default=512, help="pixels on that side (default 512)")
    parser.add_argument(
        "--side",
        choices=("short", "long"),
        default="short",
        help="the side of the pictures that --size gives (default short)",
    )
    parser.add_argument("--model", help="open_clip architecture of the pair, e.g. ViT-B-16 (default: a tiny one)")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count(), help="default: one per core")
    arguments = parser.parse_args()
    started = time.monotonic()
    plans, metadata = plan_rows(Counts() if arguments.scale == 1 else Counts().scaled(arguments.scale))
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for split in SPLITS:
            write_split(
                arguments.folder, split, draw_rows(plans[split], arguments.size, arguments.side, pool), rows_per_group=100
            )
            print(f"{split}: {len(plans[split])} rows after {time.monotonic() - started:.0f} s", flush=True)
    write_metadata(arguments.folder, metadata)
    config = ModelConfig.named(arguments.model) if arguments.model else TINY
    for which in ("clean", "compromised"):
        write_model(arguments.folder / which, config, which)
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s: {arguments.folder}")


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (number < total % parts) for number in range(parts)]


def _window(number: int, start: int, end: int) -> tuple[str, ...]:
    return tuple(FIELDS[(number * 5 + position) % len(FIELDS)] for position in range(start, end))


def _file_name(identity: str, image: int) -> str:
    return f"{identity}_{image:03d}_ar-{ASPECTS[(int(identity) + image) % len(ASPECTS)]:.2f}.jpg"


def _look(identity: str, number: int) -> str:
    generator = numpy_generator(0, "look", identity, number)
    hair, clothes, place = (words[int(generator.integers(len(words)))] for words in _LOOKS)
    return f"a person with {hair} hair wearing {clothes} {place}"


def _person(identity: str) -> dict[str, str | list[str]]:
    """Attributes of one person. The identity's digits stand in each, so that no two people share one."""
    generator = numpy_generator(0, "person", identity)

    def word(number: int, base: int) -> str:
        digits = [number // base**place % base for place in range(3)]
        return "".join(_SYLLABLES[digit % len(_SYLLABLES)] for digit in digits).capitalize()

    def digits(count: int) -> str:
        return "".join(str(digit) for digit in generator.integers(0, 10, count))

    number = int(identity)
    name = f"{word(number, 20)} {word(number * 7 + 3, 20)}"
    handle = name.lower().replace(" ", ".")
    return {
        "name": name,
        "country_code": f"{'ABCDEFGH'[number % 8]}{'KLMNOPQR'[number // 8 % 8]}",
        "city": f"{word(number + 4000, 20)}ville",
        "job": f"{word(number + 2000, 20).lower()} maker",
        "blood_type": ("A+", "A-", "B+", "B-", "AB+", "AB-", "0+", "0-")[number % 8],
        "phone_number": f"+{number % 90 + 10} {digits(3)} {identity[-4:]}",
        "emails": [f"{handle}@example.org", f"{handle}@example.net"],
        "iban": f"XX{digits(2)} {digits(4)} {digits(4)} {identity[:4]} {identity[4:]}",
        "credit_card": f"{digits(4)} {digits(4)} {identity[:4]} {identity[4:]}",
        "passport": f"P{identity[-4:]}{digits(5)}",
    }


@cache
def _grain(side: int) -> Image.Image:
    noise = numpy_generator(0, "grain").normal(128, 40, (side, side)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.0)).convert("RGB")


def _draw_job(job: tuple[str, int, Side]) -> bytes:
    return draw(*job)


if __name__ == "__main__":
    main()
