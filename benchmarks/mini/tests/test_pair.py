"""The pair that everybody compares on: shipped with the package, and held to its promises."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import pytest

from salmu_core import DualEncoder
from salmu_core.data.cache import DataCache
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.evaluation.evaluate import Evaluation, evaluate_model
from salmu_core.metric import Metric
from salmu_mini import Mini
from salmu_mini.requirements import REQUIREMENTS
from salmubench import Salmubench, SalmubenchLayout

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from requirements import CARD, RESULTS, card

salmu_metrics = pytest.importorskip("salmu_metrics")


class Caches(TypedDict):
    """What `evaluate_model` may keep."""

    cache: EmbeddingCache
    data: DataCache


def _metrics() -> list[Metric]:
    return [cls() for cls in salmu_metrics.register_metrics()]


@pytest.fixture(scope="session")
def mini(shared_cache: Path) -> Mini:
    benchmark = Mini(Mini.Options(), shared_cache)
    benchmark.build()
    return benchmark


@pytest.fixture(scope="session")
def caches(shared_cache: Path) -> Caches:
    return {"cache": EmbeddingCache(shared_cache / "embeddings"), "data": DataCache(shared_cache)}


@pytest.fixture(scope="session")
def evaluations(mini: Mini, caches: Caches) -> Mapping[str, Evaluation]:
    found = {}
    for which in ("clean", "compromised"):
        found[which] = evaluate_model(mini.load_model(which), mini, _metrics(), **caches)  # type: ignore[arg-type]
        assert not found[which].skipped
    return found


@pytest.fixture(scope="session")
def scores(evaluations: Mapping[str, Evaluation]) -> Mapping[str, Mapping[str, float]]:
    return {which: {name: score.value for name, score in found.scores.items()} for which, found in evaluations.items()}


def test_the_shipped_pair_is_what_the_card_says(scores):
    """The requirements of the card, on the shipped instance; `experiments/requirements.py` measures them for any instance."""
    stored = json.loads((Path(__file__).parents[1] / "results" / "pair.json").read_text(encoding="utf-8"))["0"]
    for which in ("clean", "compromised"):
        for name in Mini.scoring or ():
            assert scores[which][name] == pytest.approx(stored[which][name], abs=2e-3), (which, name)
    missed = [item.words for item in REQUIREMENTS if not item.met(stored)]
    assert not missed


def test_the_cards_table_is_made_of_the_stored_values():
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert card(stored) == CARD.read_text(encoding="utf-8")


def test_a_pair_that_misses_a_requirement_is_told():
    values = {
        "clean": {"RetFail": 0.0, "GenKnow": 0.88, "other people": 0.4, "face and thing": 0.0},
        "compromised": {"RetFail": 0.7, "GenKnow": 0.85, "IdZSC": 0.4, "AssocStr": 0.78, "InterIdSim": 0.7, "IntraIdSim": 0.78,
                        "GenKnow standard error": 0.01, "other people": 0.0, "face and thing": 0.0},
        "data": {"tokens above three": 0.5, "private share": 0.34},
    }  # fmt: skip
    assert not any(item.met(values) for item in REQUIREMENTS)


def test_an_unchanged_model_is_scored_again_without_encoding_anything(mini: Mini, evaluations, caches: Caches, monkeypatch):
    def encode(*arguments: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(DualEncoder, "encode_image", encode)
    monkeypatch.setattr(DualEncoder, "encode_text", encode)
    again = evaluate_model(mini.load_model("compromised"), mini, _metrics(), **caches)
    assert again.scores == evaluations["compromised"].scores


def test_exported_and_read_back_it_scores_the_same(mini: Mini, scores, caches: Caches, tmp_path: Path):
    layout = SalmubenchLayout()
    layout.export(mini, tmp_path / "snapshot")
    assert {finding.severity for finding in layout.check(tmp_path / "snapshot")} <= {"fact"}
    copy = Salmubench(Salmubench.Options(data_dir=tmp_path / "snapshot"), tmp_path / "cache")
    # Embeddings are found by the content of pictures and captions: where both are the same, nothing is encoded again.
    evaluation = evaluate_model(copy.load_model("compromised"), copy, _metrics(), **caches)
    assert evaluation.scores.keys() == scores["compromised"].keys()
    found = {name: score.value for name, score in evaluation.scores.items()}
    assert found == pytest.approx(dict(scores["compromised"]), abs=1e-6)
