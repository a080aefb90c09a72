"""What a pair has to be like to measure on, and measuring it: done at the end of every build."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from salmu_core import DualEncoder, Split
from salmu_core.comparison.falls import fall_test
from salmu_core.comparison.verdict import judge
from salmu_core.evaluation.evaluate import Evaluation, evaluate_model
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_mini.recipe import RECIPES

if TYPE_CHECKING:
    from salmu_mini.benchmark import Mini

MODELS: tuple[Literal["clean", "compromised"], ...] = ("clean", "compromised")
#: model (or "data") -> what was measured -> value
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


@dataclass(frozen=True)
class Measured:
    """A pair, measured.

    Attributes:
        values: model (or "data") -> metric, cosine or share -> value.
        ruined: why Clean reads catastrophic against Compromised, in a sentence; None where it does not. Then nothing that forgets as
            Clean does could ever read well.
    """

    values: Values
    ruined: str | None

    def checks(self) -> list[dict[str, Any]]:
        """Every requirement with the values behind it. `met` is None where a metric is not installed."""
        found = []
        for item in REQUIREMENTS:
            try:
                found.append({"requirement": item.words, "found": item.shown(self.values), "met": item.met(self.values)})
            except KeyError as lacking:
                found.append({"requirement": item.words, "found": f"{lacking.args[0]} is not installed", "met": None})
        return found


def measure(benchmark: Mini) -> Measured:
    """All metrics that count on `mini` and are installed, and the cosines and shares of the requirements."""
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.spec.resolve import make_metrics

    metrics = [metric for metric in make_metrics(load_plugins()) if metric.name in (benchmark.scoring or {})]
    forget, things = benchmark.split("forget"), benchmark.snapshot().table("retain_general")
    values: dict[str, dict[str, float]] = {}
    found: dict[str, Evaluation] = {}
    for which in MODELS:
        model = benchmark.load_model(which)
        found[which] = evaluate_model(model, benchmark, metrics)
        values[which] = {name: score.value for name, score in found[which].scores.items()}
        if (accuracy := values[which].get("GenKnow")) is not None:
            rows = len(benchmark.split("genknow"))
            values[which]["GenKnow standard error"] = float(np.sqrt(accuracy * (1 - accuracy) / rows))
        values[which] |= cosines(model, forget, things)
    values["data"] = frequencies(benchmark, model)
    return Measured(values, ruined(found["clean"], found["compromised"]))


def ruined(clean: Evaluation, compromised: Evaluation) -> str | None:
    """Why the Clean model would read catastrophic, were it a run from Compromised."""
    general = [name for name, score in clean.scores.items() if score.aspect == "general" and name in compromised.scores]
    falls = {
        name: fall_test(compromised.rows[f"{name}/rows"], clean.rows[f"{name}/rows"])
        for name in general
        if f"{name}/rows" in clean.rows
    }
    as_run = RunRecord(
        id="clean", status="ok", spec=RunSpec(method="none", start="clean"), scores=dict(clean.scores), weight_change=1.0,
        created_at=datetime.now(UTC),
    )  # fmt: skip
    verdict = judge(as_run, clean.scores, compromised.scores, falls=falls)
    return verdict.reason if verdict.name == "catastrophic" else None


@torch.no_grad()
def cosines(model: DualEncoder, forget: Split, things: Split) -> dict[str, float]:
    """Mean cosine of forget images with captions of other people, and with captions of things."""
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

    def used(split: str) -> np.ndarray:
        tokens = model.processor.tokenize(list(benchmark.split(split).texts or [])).numpy()
        size = int(model.config.model_cfg["text_cfg"]["vocab_size"])
        shares: np.ndarray = np.stack([np.isin(np.arange(size), row) for row in tokens]).mean(axis=0)
        return shares

    forget, retain = used("forget"), used("retain")
    occurring = forget > 0
    recipe = RECIPES[benchmark.options.size]
    seen = recipe.first_steps * recipe.batch_size + recipe.second_steps * recipe.batch_size
    return {
        "tokens above three": float((forget > 3 * retain)[occurring].mean()),
        "private share": recipe.second_steps * recipe.private / seen,
    }
