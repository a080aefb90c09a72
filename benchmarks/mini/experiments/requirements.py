"""What a pair of mini has to be like, measured: one command for any instances.

    uv run python benchmarks/mini/experiments/requirements.py 0 1 2

Builds what is not there (16 minutes on two busy cores for the shipped one), writes `benchmarks/mini/results/pair.json` and the table in
`benchmarks/mini/README.md`, and ends with 1 where a requirement is missed. The design was chosen on benchmark seed 100 alone, in one
training; other seeds were looked at afterwards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salmu_core import DualEncoder, Split
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.files.writing import default_cache, write_json, write_text
from salmu_core.plugins.registry import load_plugins
from salmu_mini import Mini
from salmubench import Snapshot

RESULTS = Path(__file__).parents[1] / "results" / "pair.json"
CARD = Path(__file__).parents[1] / "README.md"
COMMAND = "uv run python benchmarks/mini/experiments/requirements.py"
START, END = "<!-- requirements: benchmarks/mini/results/pair.json -->\n", "<!-- end of requirements -->\n"
MODELS = ("clean", "compromised")
Values = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Requirement:
    """What a pair has to meet.

    Attributes:
        words: as the table says it.
        shown: the measured values, in words.
        met: is it met?
    """

    words: str
    shown: Callable[[Values], str]
    met: Callable[[Values], bool]


def _similarities(v: Values) -> list[float]:
    return [v["compromised"][name] for name in ("AssocStr", "InterIdSim", "IntraIdSim")]


REQUIREMENTS = (
    Requirement(
        "RetFail of Compromised .2 to .45, of Clean at most .03",
        lambda v: f"{v['compromised']['RetFail']:.3f}, {v['clean']['RetFail']:.3f}",
        lambda v: 0.2 <= v["compromised"]["RetFail"] <= 0.45 and v["clean"]["RetFail"] <= 0.03,
    ),
    Requirement(
        "AssocStr, InterIdSim, IntraIdSim of Compromised within .02",
        lambda v: ", ".join(f"{value:.3f}" for value in _similarities(v)),
        lambda v: max(_similarities(v)) - min(_similarities(v)) <= 0.02,
    ),
    Requirement(
        "GenKnow of Clean and Compromised within a point, at .6 to .9",
        lambda v: f"{v['clean']['GenKnow']:.3f}, {v['compromised']['GenKnow']:.3f}",
        lambda v: (
            abs(v["clean"]["GenKnow"] - v["compromised"]["GenKnow"]) <= 0.01
            and all(0.6 <= v[which]["GenKnow"] <= 0.9 for which in MODELS)
        ),
    ),
    Requirement(
        "standard error of GenKnow below half a point",
        lambda v: f"{v['compromised']['GenKnow standard error']:.4f}",
        lambda v: v["compromised"]["GenKnow standard error"] < 0.005,
    ),
    Requirement(
        "IdZSC of Compromised at least .5",
        lambda v: f"{v['compromised']['IdZSC']:.3f}",
        lambda v: v["compromised"]["IdZSC"] >= 0.5,
    ),
    Requirement(
        "cosine of private pairs of two people, against that of a face and a caption of things: clearly above, in both",
        lambda v: ", ".join(f"{v[w]['other people']:.2f} / {v[w]['face and thing']:.2f}" for w in MODELS),
        lambda v: all(v[which]["other people"] > v[which]["face and thing"] + 0.1 for which in MODELS),
    ),
    Requirement(
        "share of the tokens of forget that are over three times as frequent there as in retain at most .05",
        lambda v: f"{v['data']['tokens above three']:.3f}",
        lambda v: v["data"]["tokens above three"] <= 0.05,
    ),
    Requirement(
        "private pairs at most a tenth of what Compromised sees",
        lambda v: f"{v['data']['private share']:.3f}",
        lambda v: v["data"]["private share"] <= 0.1,
    ),
)


def measure(seed: int) -> dict[str, dict[str, float]]:
    """All metrics and the cosines of the requirements, of both models."""
    benchmark = Mini(Mini.Options(seed=seed), default_cache())
    benchmark.build()
    metrics = [entry.cls() for entry in load_plugins().metrics.values()]
    forget, things = benchmark.split("forget"), Snapshot(benchmark.folder / "snapshot").table("retain_general")
    found: dict[str, dict[str, float]] = {}
    which: Any
    for which in MODELS:
        model = benchmark.load_model(which)
        scores = evaluate_model(model, benchmark, metrics).scores
        values = {name: score.value for name, score in scores.items()}
        rows = len(benchmark.split("genknow"))
        values["GenKnow standard error"] = float(np.sqrt(values["GenKnow"] * (1 - values["GenKnow"]) / rows))
        found[which] = {**values, **cosines(model, forget, things)}
    found["data"] = frequencies(benchmark, model)
    return found


@torch.no_grad()
def cosines(model: DualEncoder, forget: Split, things: Split) -> dict[str, float]:
    """Mean cosine of forget images with captions of other people, and with captions of things."""
    import io

    from PIL import Image

    assert forget.images is not None
    pictures = [Image.open(io.BytesIO(forget.images.read(row))).convert("RGB") for row in range(len(forget))]
    pixels = torch.from_numpy(np.stack([model.processor.pixels(picture) for picture in pictures]))
    image = model.encode_image(model.processor.normalise(pixels))
    text = model.encode_text(model.processor.tokenize(list(forget.texts or [])))
    other = model.encode_text(model.processor.tokenize(list(things.texts or [])[:1000]))
    people = np.array(forget.columns["identity_id"])
    apart = torch.from_numpy(people[:, None] != people[None])
    return {"other people": float((image @ text.T)[apart].mean()), "face and thing": float((image @ other.T).mean())}


def frequencies(benchmark: Mini, model: DualEncoder) -> dict[str, float]:
    """How tokens of forget are used in retain, and the share of private pairs in what Compromised is trained on."""
    from salmu_mini.recipe import RECIPES

    def used(split: str) -> np.ndarray:
        tokens = model.processor.tokenize(list(benchmark.split(split).texts or [])).numpy()
        size = int(model.config.model_cfg["text_cfg"]["vocab_size"])
        return np.stack([np.isin(np.arange(size), row) for row in tokens]).mean(axis=0)

    forget, retain = used("forget"), used("retain")
    occurring = forget > 0
    recipe = RECIPES[benchmark.options.size]
    seen = recipe.first_steps * recipe.batch_size + recipe.second_steps * recipe.batch_size
    return {
        "tokens above three": float((forget > 3 * retain)[occurring].mean()),
        "private share": recipe.second_steps * recipe.private / seen,
    }


def table(stored: Mapping[str, Any]) -> str:
    """The card's table: a row for each requirement, a column for each instance."""
    seeds = sorted(stored, key=int)
    head = "| requirement | " + " | ".join(f"seed {seed}" for seed in seeds) + " |\n|---|" + "---|" * len(seeds)
    rows = []
    for item in REQUIREMENTS:
        cells = [item.shown(stored[seed]) + ("" if item.met(stored[seed]) else " **missed**") for seed in seeds]
        rows.append(f"| {item.words} | " + " | ".join(cells) + " |")
    return "\n".join([head, *rows]) + "\n"


def card(stored: Mapping[str, Any]) -> str:
    """The card with its table made anew."""
    before, rest = CARD.read_text(encoding="utf-8").split(START)
    return before + START + f"`{COMMAND} {' '.join(sorted(stored, key=int))}`\n\n{table(stored)}" + END + rest.split(END)[1]


def main() -> None:
    """Measure the instances named on the command line; those measured before stay."""
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for seed in sys.argv[1:]:
        stored[seed] = {which: {k: round(v, 6) for k, v in values.items()} for which, values in measure(int(seed)).items()}
        write_json(RESULTS, stored)
    write_text(CARD, card(stored))
    print(table(stored))
    missed = [item.words for item in REQUIREMENTS for seed in stored if not item.met(stored[seed])]
    sys.exit(f"Missed: {'; '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
