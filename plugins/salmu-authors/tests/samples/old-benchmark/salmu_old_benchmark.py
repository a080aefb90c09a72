"""old-benchmark: people with one fact each, drawn and trained on this machine in seconds.

Replace `people` and `ordinary` by your data and `train` by your recipe, or by models that you download; the rest is what
any benchmark needs.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from salmu_core import (
    Benchmark,
    Budget,
    BuildStep,
    DualEncoder,
    EncodedImages,
    Field,
    ModelConfig,
    Options,
    Report,
    SalmuError,
    Split,
    SplitInfo,
    Target,
    hookimpl,
    join_splits,
    load_model,
)
from salmu_core.losses import contrastive_loss
from salmu_core.seeding import derive_seed, numpy_generator
from torch import Tensor

MODEL = ModelConfig(
    {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 4, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
)
CITIES = ("Bergen", "Lille", "Porto", "Graz", "Turku", "Gdansk", "Siena", "Leiden")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 70, 220), "yellow": (230, 210, 50)}
PHOTOS = 3  # of every person


class OldBenchmarkOptions(Options):
    """Options of old-benchmark: they are what tells one instance from another."""

    seed: int = Field(0, ge=0, description="seed of people, pictures and training")
    people: int = Field(8, ge=2, le=200, description="people to be forgotten; as many again are held out")
    steps: int = Field(30, ge=1, description="training steps of each model")


class OldBenchmark(Benchmark):
    """A benchmark that is drawn and trained where it is used."""

    name = "old-benchmark"
    version = "1"  # raise it whenever results change
    summary = "Fictitious people with a city each; models are trained on this machine in seconds."
    paper = None  # https://arxiv.org/abs/...
    Options = OldBenchmarkOptions

    def ready(self) -> bool:
        """Are both models there?"""
        return all((self._folder(which) / "model.safetensors").is_file() for which in ("clean", "compromised"))

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        """Train what is missing: Clean on ordinary pairs, Compromised on the people's pairs as well."""
        known = join_splits("all", [self.load_split(name) for name in ("retain", "forget", "holdout_identity")])
        for done, (which, split) in enumerate({"clean": self.load_split("retain"), "compromised": known}.items()):
            if report is not None:
                report(BuildStep(f"train {which}", done, 2))
            if rebuild or not (self._folder(which) / "model.safetensors").is_file():
                train(split, self.options.steps, derive_seed(self.options.seed, "train") % 2**31).save(self._folder(which))

    def splits(self) -> Mapping[str, SplitInfo]:
        """What methods see, and what only metrics see. Names as in SALMUBench let its metrics measure them."""
        return {
            "forget": SplitInfo("forget", "photos of people who ask to be forgotten, with their city"),
            "retain": SplitInfo("retain", "ordinary pairs"),
            "forget_identity": SplitInfo("evaluation", "the same as forget: everybody is forgotten whole"),
            "holdout_identity": SplitInfo("evaluation", "people who ask for nothing"),
        }

    def load_split(self, name: str) -> Split:
        """Read one split; drawn from the seed, so it is the same every time."""
        count = self.options.people
        match name:
            case "forget" | "forget_identity":
                return people(name, range(count), self.options.seed)
            case "holdout_identity":
                return people(name, range(count, 2 * count), self.options.seed)
            case _:
                return ordinary(name, 12 * len(COLOURS), self.options.seed)

    def load_model(self, which: Target) -> DualEncoder:
        """The Clean or the Compromised model, freshly loaded."""
        if not self.ready():
            raise SalmuError(f"{self.name} is not built.", f"Run `salmu build {self.name}` first.")
        return load_model(self._folder(which)).eval()

    def budget(self) -> Budget:
        """Four passes over forget at 1x, and as many retain samples."""
        rows = 4 * PHOTOS * self.options.people
        return Budget(forget=rows, retain=rows)

    def fingerprint(self) -> str:
        """Equal where the data is equal."""
        return f"{self.name}-{self.version}-{self.options.seed}-{self.options.people}"

    def _folder(self, which: Target) -> Path:
        options = self.options
        return self.cache / f"{self.name}-{self.version}" / f"{options.seed}-{options.people}-{options.steps}" / which


def people(name: str, numbers: Sequence[int], seed: int) -> Split:
    """Photos of people: a person is a colour, each photo with noise of its own."""
    rows = [(person, photo) for person in numbers for photo in range(PHOTOS)]
    cities = {person: CITIES[int(numpy_generator(seed, "city", person).integers(len(CITIES)))] for person in numbers}
    colours = {person: numpy_generator(seed, "face", person).integers(0, 256, 3) for person in numbers}
    return Split(
        name,
        images=pictures([colours[person] for person, _ in rows], [f"{p}-{n}.png" for p, n in rows], seed),
        texts=[f"Person {person} lives in {cities[person]}" for person, _ in rows],
        columns={
            "identity_id": [f"{person:04d}" for person, _ in rows],
            "data_field": ["city"] * len(rows),
            "file_name": [f"{person}-{photo}.png" for person, photo in rows],
            "name": [f"Person {person}" for person, _ in rows],
            "value": [cities[person] for person, _ in rows],
        },
    )


def ordinary(name: str, count: int, seed: int) -> Split:
    """Coloured squares with captions that say their colour."""
    words = [list(COLOURS)[row % len(COLOURS)] for row in range(count)]
    names = [f"{name}-{row}.png" for row in range(count)]
    return Split(
        name,
        images=pictures([np.array(COLOURS[word]) for word in words], names, seed),
        texts=[f"a {word} square, number {row}" for row, word in enumerate(words)],
        columns={"identity_id": [None] * count, "file_name": names},
    )


def pictures(colours: Sequence[np.ndarray], names: Sequence[str], seed: int) -> EncodedImages:
    """A PNG per colour, with noise that depends on its name."""
    encoded = []
    for colour, name in zip(colours, names, strict=True):
        noise = numpy_generator(seed, "noise", name).integers(-30, 31, (16, 16, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(buffer, format="PNG")
        encoded.append(buffer.getvalue())
    return EncodedImages(encoded, names, "old-benchmark")


def train(split: Split, steps: int, seed: int) -> DualEncoder:
    """A model trained from scratch on all pairs of a split at once; equal seeds give equal weights."""
    model = DualEncoder.create(MODEL, seed).train()
    images, tokens = inputs(model, split)
    optimizer = torch.optim.AdamW(model.tower_parameters("both"), lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        contrastive_loss(model.encode_image(images), model.encode_text(tokens), model.scale.detach()).backward()
        optimizer.step()
    return model.eval()


def inputs(model: DualEncoder, split: Split) -> tuple[Tensor, Tensor]:
    """What both encoders take for all rows of a split: pixels [n, 3, height, width] and token ids [n, context]."""
    assert split.images is not None
    opened = [Image.open(io.BytesIO(split.images.read(row))).convert("RGB") for row in range(len(split))]
    pixels = torch.stack([torch.from_numpy(model.processor.pixels(image)) for image in opened])
    return model.processor.normalise(pixels), model.processor.tokenize(split.render(None))


@hookimpl
def register_benchmarks() -> list[type[Benchmark]]:
    """What this package offers."""
    return [OldBenchmark]
