"""Faulty metrics among good ones: each fails alone or is told of, and nobody else's value changes."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
import torch

from plugin_faults import METRIC_FAULTS, METRIC_LITTER, Scored, leave_thread, metric_with, renamed
from salmu_core.builtin.toy import Toy
from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.files.writing import write_tensors
from toy_methods import MeanCosine


@pytest.fixture(scope="module")
def evaluated():
    """All faulty metrics, with a good one before, among and after them."""
    faults = [metric_with(name, misdeed) for name, (misdeed, _) in METRIC_FAULTS.items()]
    litter = [metric_with(name, misdeed, then=True) for name, (misdeed, _) in METRIC_LITTER.items()]
    odd = [type("Asks", (Scored,), {"name": "Asks", "needs": lambda self: 1 / 0})]
    odd.append(type("AsksNothing", (Scored,), {"name": "AsksNothing", "needs": lambda self: {"image": "forget"}}))
    last = type("Last", (MeanCosine,), {"name": "Last"})
    metrics = [MeanCosine(), *(cls() for cls in (*faults, *litter, *odd)), last()]
    for metric in metrics:
        metric.origin = "odd 1"
    return evaluate_model(Toy().load_model("compromised"), Toy(), metrics)


@pytest.mark.parametrize("name", METRIC_FAULTS)
def test_a_metric_that_fails_is_named_with_the_reason(name, evaluated):
    _, words = METRIC_FAULTS[name]
    assert words in evaluated.broken[f"Does-{name.replace(' ', '-')}"]


def test_a_metric_that_fails_changes_nobody_elses_number(evaluated):
    alone = evaluate_model(Toy().load_model("compromised"), Toy(), [MeanCosine()])
    assert evaluated.scores["MeanCosine"] == alone.scores["MeanCosine"]
    assert evaluated.scores["Last"].value == alone.scores["MeanCosine"].value
    assert set(evaluated.scores) == {"MeanCosine", "Last", *(f"Does-{name.replace(' ', '-')}" for name in METRIC_LITTER)}
    assert "ZeroDivisionError" in evaluated.broken["Asks"]
    assert "is not a View" in evaluated.broken["AsksNothing"]
    assert not any("Does" in name for name in evaluated.rows)


@pytest.mark.parametrize("where", ["itself", "its class"])
def test_a_metric_does_not_take_the_name_of_another(where):
    cls = renamed("MeanCosine", where)
    metrics = [MeanCosine(), cls()]
    found = evaluate_model(Toy().load_model("compromised"), Toy(), metrics)
    assert "calls itself MeanCosine now" in found.broken[f"Renames-{where}"]
    assert found.scores["MeanCosine"].value != 0.5
    assert cls.name == cls().name == metrics[1].name == f"Renames-{where}"


def test_what_a_metric_leaves_changed_is_put_back_and_said(evaluated):
    for (_, words), warning in zip(METRIC_LITTER.values(), evaluated.warnings, strict=True):
        assert warning.startswith("The metric Does-")
        assert "(odd 1)" in warning
        assert words in warning
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32


def test_metrics_after_one_that_left_a_thread_are_not_measured():
    stop = threading.Event()
    leaves = metric_with("thread", leave_thread(stop), then=True)
    try:
        found = evaluate_model(Toy().load_model("compromised"), Toy(), [leaves(), MeanCosine()])
    finally:
        stop.set()
    assert found.broken["Does-thread"] == "left a thread running (left)"
    assert "was not called: The metric Does-thread left a thread running" in found.broken["MeanCosine"]


def test_a_metric_that_changes_the_process_when_it_is_asked_changes_nobodys_number():
    class Asks(Scored):
        """Misbehaves before it computes."""

        name = "Asks"

        def needs(self) -> Any:
            torch.set_default_dtype(torch.float64)
            return super().needs()

    found = evaluate_model(Toy().load_model("compromised"), Toy(), [Asks(), MeanCosine()])
    alone = evaluate_model(Toy().load_model("compromised"), Toy(), [MeanCosine()])
    assert found.scores["MeanCosine"] == alone.scores["MeanCosine"]
    assert found.warnings == (
        "The metric Asks changed the default number type from torch.float32 to torch.float64. It was put back.",
    )


def test_what_a_metric_does_to_the_cache_is_undone_and_told(tmp_path):
    home = tmp_path / "cache"
    toy, cache = Toy(cache=home), EmbeddingCache(home / "embeddings")
    first = evaluate_model(toy.load_model("compromised"), toy, [MeanCosine()], cache)
    places = sorted((home / "embeddings").iterdir())
    (home / "clean").mkdir()
    write_tensors(tmp_path / "other", {"vectors": torch.zeros(1)})

    def spoil(*views: Any) -> None:
        os.listdir(home / "clean")
        os.replace(tmp_path / "other", places[0])
        places[1].unlink()

    metric = metric_with("cache", spoil, then=True)
    found = evaluate_model(toy.load_model("compromised"), toy, [metric(), MeanCosine()], cache)
    assert not any(place.exists() for place in places)
    assert found.scores["MeanCosine"] == first.scores["MeanCosine"]
    who, (wrote, removed) = "The metric Does-cache", [f"embeddings/{place.name}" for place in places]
    assert found.warnings == (
        f"{who} opened files of the benchmark by itself: clean. Its value may rest on more than the embeddings that it was handed.",
        f"{who} wrote {wrote} by itself; files of the cache among them are deleted.",
        f"{who} removed {removed} by itself; files of the cache among them are made again.",
    )
    again = evaluate_model(toy.load_model("compromised"), toy, [MeanCosine()], cache)
    assert again.scores == first.scores
