"""The table of `experiments/stranger_targets.py`, on made-up scores, and that its page holds what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from salmu_core.records.schema import ScoreRecord

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
pytest.importorskip("salmu_stranger_targets")

from stranger_targets import DOCS, END, RESULTS, START, as_markdown, measured

ASPECTS = {
    "RetFail": ("clean", "forgetting"),
    "InterIdSim": ("compromised", "holdout"),
    "GenKnow": ("compromised", "general"),
    "VisIdInt": ("compromised", "retained"),
}


def scores(*values: float) -> dict[str, ScoreRecord]:
    return {
        name: ScoreRecord(value=value, target=target, aspect=aspect)  # type: ignore[arg-type]
        for (name, (target, aspect)), value in zip(ASPECTS.items(), values, strict=True)
    }


def test_every_metric_is_told_in_its_own_unit() -> None:
    run = measured("full", 0, scores(0.2, 0.6, 0.8, 0.45), scores(0.1, 0.3, 0.9, 0.6), scores(0.5, 0.7, 0.84, 0.5))
    assert run["metrics"] == {"RetFail": 0.25, "InterIdSim": -0.25, "GenKnow": -0.04, "VisIdInt": -0.1}
    assert run["forgotten"] == 0.75
    assert run["kept"] == pytest.approx(0.75 * 0.9)
    assert run["overall"] == pytest.approx(0.75 * 0.75 * 0.9 * 0.8 / 0.84, abs=1e-4)


def test_development_instances_are_not_averaged_with_others() -> None:
    run = {"title": "full", "overall": 0.5, "forgotten": 1.0, "kept": 0.5, "general": 1.0, "metrics": {"RetFail": 0.1}}
    other = {**run, "overall": 0.7}
    table = as_markdown({"command": "C", "version": "2", "budget": 5.0, "runs": [{**run, "instance": 3}, *({**other, "instance": i} for i in (0, 1))]})  # fmt: skip
    rows = [line for line in table.splitlines() if line.startswith("| full")]
    assert [row.split(" | ")[1:3] for row in rows] == [["3", "0.50"], ["0, 1", "0.70"]]


def test_the_page_holds_what_is_stored() -> None:
    stored = RESULTS / "stranger_targets.json"
    if not stored.is_file():
        pytest.skip("nothing is stored yet")
    between = DOCS.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    assert between == as_markdown(json.loads(stored.read_text(encoding="utf-8")))
