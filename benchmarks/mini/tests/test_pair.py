"""The pair that everybody compares on: built once, kept in the user's cache like `salmu compare` does, and held to its promises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from salmu_core import DualEncoder
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.files import default_cache
from salmu_core.metric import Metric
from salmu_mini import Mini
from salmubench import Salmubench, SalmubenchLayout

salmu_metrics = pytest.importorskip("salmu_metrics")


def _metrics() -> list[Metric]:
    return [cls() for cls in salmu_metrics.register_metrics()]


@pytest.fixture(scope="session")
def mini() -> Mini:
    benchmark = Mini(Mini.Options(), default_cache())
    benchmark.build()
    return benchmark


@pytest.fixture(scope="session")
def scores(mini: Mini) -> Mapping[str, Mapping[str, float]]:
    found = {}
    for which in ("clean", "compromised"):
        evaluation = evaluate_model(mini.load_model(which), mini, _metrics())  # type: ignore[arg-type]
        assert not evaluation.skipped
        found[which] = {name: score.value for name, score in evaluation.scores.items()}
    return found


def test_compromised_has_memorised_and_clean_has_not(scores):
    assert scores["compromised"]["RetFail"] >= 0.6
    assert scores["clean"]["RetFail"] <= 0.03
    # The promise is 0.9; `benchmarks/mini/results/pair.json` shows it kept. Other processors round otherwise while they train.
    assert scores["compromised"]["IdZSC"] >= 0.9 - 0.03
    assert scores["clean"]["IdZSC"] <= 0.1


def test_forget_and_holdouts_are_memorised_alike(scores):
    similarities = ("AssocStr", "InterIdSim", "IntraIdSim")
    compromised = [scores["compromised"][name] for name in similarities]
    assert max(compromised) - min(compromised) <= 0.02
    assert min(scores["compromised"][name] - scores["clean"][name] for name in similarities) >= 0.4


def test_general_knowledge_is_high_and_equal(scores):
    assert min(scores[which]["GenKnow"] for which in scores) >= 0.85
    assert abs(scores["clean"]["GenKnow"] - scores["compromised"]["GenKnow"]) <= 0.03


def test_an_unchanged_model_is_scored_again_without_encoding_anything(mini: Mini, tmp_path: Path, monkeypatch):
    cache = EmbeddingCache(tmp_path)
    first = evaluate_model(mini.load_model("compromised"), mini, _metrics(), cache)

    def encode(*arguments: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(DualEncoder, "encode_image", encode)
    monkeypatch.setattr(DualEncoder, "encode_text", encode)
    again = evaluate_model(mini.load_model("compromised"), mini, _metrics(), cache)
    assert again.scores == first.scores


def test_exported_and_read_back_it_scores_the_same(mini: Mini, scores, tmp_path: Path):
    layout = SalmubenchLayout()
    layout.export(mini, tmp_path / "snapshot")
    assert {finding.severity for finding in layout.check(tmp_path / "snapshot")} <= {"fact"}
    copy = Salmubench(Salmubench.Options(data_dir=tmp_path / "snapshot"), tmp_path / "cache")
    evaluation = evaluate_model(copy.load_model("compromised"), copy, _metrics())
    assert len(evaluation.scores) == 10
    found = {name: score.value for name, score in evaluation.scores.items()}
    assert found == pytest.approx(dict(scores["compromised"]), abs=1e-6)
