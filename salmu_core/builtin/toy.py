"""A benchmark of a few dozen coloured squares and an untrained model: milliseconds instead of minutes.

It has every split and column of a SALMU-style benchmark, so methods and metrics can be exercised end to end. Its numbers
mean nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from salmu_core.benchmark import Benchmark, Budget, BuildStep, Report, SplitInfo
from salmu_core.data.images import EncodedImages
from salmu_core.data.splits import Split
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.options import Field, Options
from salmu_core.records.schema import Target
from salmu_core.seeding import derive_seed, numpy_generator

TOY_MODEL = ModelConfig(
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
)
FIELDS = {"name": "I am", "city": "lives in", "phone_number": "answers at"}
COLOURS = ("red", "green", "blue", "white")


class ToyOptions(Options):
    """Options of the toy benchmark."""

    seed: int = Field(0, ge=0, description="seed of data and weights")
    identities: int = Field(6, ge=1, le=500, description="identities in forget; each holdout has half as many")


class Toy(Benchmark):
    """The toy benchmark."""

    name = "toy"
    version = "3"
    summary = "Coloured squares and an untrained model, for tests of plugins; its numbers mean nothing."
    Options = ToyOptions
    shows_rows = True

    def ready(self) -> bool:
        return True

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        if report is not None:
            report(BuildStep("nothing to build", 1, 1))

    def splits(self) -> Mapping[str, SplitInfo]:
        both, text = ("image", "text"), ("text",)
        described: dict[str, tuple[Any, str, Any]] = {
            "forget": ("forget", "associations to forget", both),
            "retain": ("retain", "ordinary pairs", both),
            "forget_identity": ("evaluation", "forget rows of identities that are forgotten whole", both),
            "holdout_identity": ("evaluation", "identities that nobody asked to forget", both),
            "holdout_association": ("evaluation", "other associations of identities in forget", both),
            "retain_joint": ("evaluation", "ordinary pairs of identities in forget", both),
            "retain_disjoint": ("evaluation", "ordinary pairs of other people", both),
            "fragile_set": ("evaluation", "ordinary pairs near the sensitive ones", both),
            "genknow": ("evaluation", "images of the zero-shot classes", ("image",)),
            "genknow_prompts": ("evaluation", "captions of the zero-shot classes", text),
        }
        return {name: SplitInfo(role, summary, sides) for name, (role, summary, sides) in described.items()}

    def load_split(self, name: str) -> Split:
        people = self.options.identities
        half = max(1, people // 2)
        match name:
            case "forget":
                return self._sensitive(name, range(people))
            case "forget_identity":
                forget = self._sensitive("forget", range(people))
                partly = range(half, half + half)  # those in holdout_association
                rows = [row for row, identity in enumerate(forget.columns["identity_id"]) if int(identity) not in partly]
                return forget.take(rows, name)
            case "holdout_identity":
                return self._sensitive(name, range(people, people + half))
            case "holdout_association":
                return self._sensitive(name, range(half, half + half), fields=("iban",))
            case "retain":
                return self._ordinary(name, 4 * people, "retain")
            case "retain_joint":
                return self._ordinary(name, 4 * people, "retain").take(range(half), name)
            case "retain_disjoint":
                return self._ordinary(name, 4 * people, "retain").take(range(half, 4 * people), name)
            case "fragile_set":
                return self._ordinary(name, 4 * people, "retain").take(range(half, 2 * half), name)
            case "genknow":
                split = self._ordinary(name, 4 * len(COLOURS), "genknow")
                return Split(name, split.images, columns={"label": split.columns["label"]})
            case _:
                texts = [template.format(c) for c in COLOURS for template in ("a {} square", "something {}")]
                return Split(name, texts=texts, columns={"label": [i for i in range(len(COLOURS)) for _ in range(2)]})

    def load_model(self, which: Target) -> DualEncoder:
        return DualEncoder.create(TOY_MODEL, derive_seed(self.options.seed, "toy", which) % 2**31).eval()

    def budget(self) -> Budget:
        rows = len(self.split("forget"))
        return Budget(forget=4 * rows, retain=4 * rows)

    def fingerprint(self) -> str:
        return f"toy-{self.version}-{self.options.seed}-{self.options.identities}"

    def _sensitive(self, name: str, people: Sequence[int], fields: Sequence[str] = tuple(FIELDS)) -> Split:
        rows = [(person, field, copy) for person in people for field in fields for copy in range(2)]
        values = {(p, f): f"Person {p}" if f == "name" else f"{f[0]}{p:03d}" for p, f, _ in rows}
        return Split(
            name,
            images=_squares(
                [self._colour("face", person, field, copy) for person, field, copy in rows],
                [f"{person:08d}_{field}_{copy}.png" for person, field, copy in rows],
            ),
            texts=[f"Person {p} {FIELDS.get(f, 'pays from')} {values[p, f]}" for p, f, _ in rows],
            columns={
                "identity_id": [f"{person:08d}" for person, _, _ in rows],
                "file_name": [f"{person:08d}_{field}_{copy}.png" for person, field, copy in rows],
                "data_field": [field for _, field, _ in rows],
                "name": [f"Person {person}" for person, _, _ in rows],
                "value": [values[person, field] for person, field, _ in rows],
                "generic_caption": [f"a square, picture {number}" for number in range(len(rows))],
            },
        )

    def _ordinary(self, name: str, rows: int, purpose: str) -> Split:
        labels = [row % len(COLOURS) for row in range(rows)]
        names = [f"{purpose}_{row:04d}.png" for row in range(rows)]
        known = max(1, self.options.identities // 2) if purpose == "retain" else 0  # the first rows show people of forget
        identities = [f"{row:08d}" if row < known else None for row in range(rows)]
        return Split(
            name,
            images=_squares([self._colour(purpose, row, label) for row, label in enumerate(labels)], names),
            texts=[f"a {COLOURS[label]} square number {row}" for row, label in enumerate(labels)],
            columns={"identity_id": identities, "file_name": names, "label": labels},
        )

    def _colour(self, *what: object) -> tuple[int, int, int]:
        red, green, blue = numpy_generator(self.options.seed, "toy", *what).integers(0, 256, 3).tolist()
        return red, green, blue


def _squares(colours: Sequence[tuple[int, int, int]], names: Sequence[str]) -> EncodedImages:
    return EncodedImages([_square(colour) for colour in colours], names, "toy")


@lru_cache(4096)
def _square(colour: tuple[int, int, int]) -> bytes:
    pixels = np.full((16, 16, 3), colour, dtype=np.uint8)
    pixels[4:12, 4:12] = 255 - pixels[4:12, 4:12]  # flat images would make every patch the same
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
