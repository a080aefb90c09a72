"""Faulty methods between good ones: each costs at most its own row, the record says what it did, and nobody else's numbers change.

SALMU_FAULTS=500 tries that many random faults; by default it is a handful.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from plugin_faults import (
    FAULTS,
    HARMLESS,
    METRIC_FAULTS,
    METRIC_LITTER,
    Fault,
    Scored,
    faulty,
    first_weight,
    leave_thread,
    metric_with,
    poison_cache,
    renamed,
)
from salmu_core import compare, load_model
from salmu_core.builtin.toy import Toy
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.plugins.loading import Plugins, add_plugin
from salmu_core.records.schema import Package, RunRecord
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings, run
from toy_methods import MeanCosine, WeightEdit, as_plugin, toy_plugins


class Draws(WeightEdit):
    """Draws from global generators, which no method should, after everybody else."""

    name = "draws"
    summary = "Draws globally."

    def unlearn(self, ctx: Any) -> None:
        with torch.no_grad():
            first_weight(ctx).add_(0.01 * torch.randn(1) + random.random() + float(np.random.rand()))


def _plugins(*faults: Fault) -> Plugins:
    return toy_plugins(faulty(*faults), Draws)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Records of methods that nobody disturbed, and where everything is kept."""
    folder = tmp_path_factory.mktemp("base")
    settings = Settings(cache=folder / "cache", cpu=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SALMU_CACHE", str(settings.cache_folder))
        found = {
            name: run(name, benchmark="toy", out=folder / name, settings=settings, plugins=_plugins())
            for name in ("faulty", "draws", "ascent")
        }
    return settings, found


@pytest.fixture(autouse=True)
def same_cache(base, monkeypatch):
    monkeypatch.setenv("SALMU_CACHE", str(base[0].cache_folder))


def _with(faults: list[Fault], base: Any, folder: Path) -> RunRecord:
    """The faulty method's record, after which others come out as ever."""
    settings, undisturbed = base
    plugins = _plugins(*faults)
    here = os.getcwd()
    record = run("faulty", benchmark="toy", out=folder / "faulty", settings=settings, plugins=plugins)
    assert os.getcwd() == here
    assert read_record(folder / "faulty") == record
    for name in ("draws", "ascent"):
        after = run(name, benchmark="toy", out=folder / name, settings=settings, plugins=plugins)
        assert after.scores == undisturbed[name].scores
        assert after.provenance.model_fingerprint == undisturbed[name].provenance.model_fingerprint
        assert after.warnings == ()
    return record


def _said(record: RunRecord) -> str:
    return "\n".join([record.error or "", *record.warnings, *record.broken.values()])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_at_most_its_own_row_and_its_record_says_what_it_was(name, base, tmp_path):
    fault, status, words = FAULTS[name]
    settings, undisturbed = base
    record = run("faulty", benchmark="toy", out=tmp_path / "run", settings=settings, plugins=_plugins(fault))
    assert record.status == status
    assert words in _said(record)
    assert "faulty (toy-methods 1.0)" in _said(record)
    if status == "ok":
        # What is scored is what is saved: weights, as anybody loads them.
        assert load_model(tmp_path / "run").fingerprint() == record.provenance.model_fingerprint
        if name != "logit scale":
            assert record.scores == undisturbed["faulty"].scores
    else:
        assert not record.scores
        assert record.model_file is None


@pytest.mark.parametrize("name", HARMLESS)
def test_what_changes_nothing_is_not_spoken_of(name, base, tmp_path, capsys):
    record = _with([HARMLESS[name]], base, tmp_path)
    assert record.status == "ok"
    assert record.warnings == ()
    assert record.scores == base[1]["faulty"].scores
    assert "noise" not in capsys.readouterr().out


def test_random_faults_change_nothing_silently(base, tmp_path):
    """Each trial: some faults, together, at random; then two good methods."""
    everything = {**{name: item[0] for name, item in FAULTS.items()}, **HARMLESS}
    for trial in range(int(os.environ.get("SALMU_FAULTS", "4"))):
        draw = random.Random(f"faults {trial}")
        chosen = draw.sample(sorted(everything), draw.randint(1, 4))
        record = _with([everything[name] for name in chosen], base, tmp_path / str(trial))
        same = record.status == "ok" and record.scores == base[1]["faulty"].scores
        spoken = record.status != "ok" or bool(record.warnings)
        assert spoken or same, f"{chosen} changed the scores, and the record does not say so"
        assert spoken or not set(chosen) & FAULTS.keys(), f"{chosen} left something behind, and the record does not say so"


def test_a_comparison_goes_on_and_its_notes_name_the_culprit(base, tmp_path):
    plugins = toy_plugins(faulty(FAULTS["global hook"][0], FAULTS["folder"][0]))
    result = compare(
        ["ascent", "faulty", "weight-edit"],
        benchmark="toy",
        out=tmp_path / "out",
        settings=base[0],
        plugins=plugins,
        audits="none",
    )
    assert [record.status for record in result.records] == ["ok"] * 5
    notes = [note for note in result.comparison.notes if "The method faulty" in note]
    assert len(notes) == 2
    assert "working directory" in " ".join(notes)
    assert notes[0].endswith("(faulty seed 0)")
    assert result.records[2].scores == base[1]["ascent"].scores


def test_code_of_other_plugins_is_watched(base, tmp_path):
    other = types.ModuleType("other_plugin")
    other.Other = type("Other", (WeightEdit,), {"name": "other", "strength": 1, "__module__": "other_plugin"})
    sys.modules["other_plugin"] = other

    try:
        plugins = toy_plugins(faulty(lambda ctx: setattr(other.Other, "strength", 2)), other.Other)
        record = run("faulty", benchmark="toy", out=tmp_path / "run", settings=base[0], plugins=plugins)
        assert other.Other.strength == 1
    finally:
        del sys.modules["other_plugin"]
    [warning] = record.warnings
    assert "other_plugin.Other.strength" in warning


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


def test_what_a_method_puts_into_the_cache_is_deleted_and_told(base, tmp_path, monkeypatch):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    monkeypatch.setenv("SALMU_CACHE", str(settings.cache_folder))
    run("ascent", benchmark="toy", out=tmp_path / "first", settings=settings, plugins=_plugins())
    record = run("faulty", benchmark="toy", out=tmp_path / "faulty", settings=settings, plugins=_plugins(poison_cache))
    assert "are deleted" in _said(record)
    kept = [load_file(file) for file in (settings.cache_folder / "embeddings").rglob("*.safetensors")]
    assert all(bool(tensor.any()) for tensors in kept for tensor in tensors.values())
    again = run("ascent", benchmark="toy", out=tmp_path / "again", settings=settings, plugins=_plugins())
    assert again.scores == base[1]["ascent"].scores


def test_a_thread_that_a_method_leaves_is_named_in_its_record_and_in_those_of_later_runs(base, tmp_path):
    stop = threading.Event()
    plugins = _plugins(leave_thread(stop))
    try:
        records = [
            run(name, benchmark="toy", out=tmp_path / name, settings=base[0], plugins=plugins)
            for name in ("faulty", "ascent")
        ]
    finally:
        stop.set()
    whose = "The method faulty (toy-methods 1.0)"
    beside = f"{whose} had left a thread running (left), which may have changed numbers of this run."
    left = f"{whose} left a thread running (left), which may change what this process does later."
    assert [record.warnings for record in records] == [(left, beside), (beside,)]


def test_what_a_metric_leaves_changed_is_put_back_and_said(evaluated):
    for (_, words), warning in zip(METRIC_LITTER.values(), evaluated.warnings, strict=True):
        assert warning.startswith("The metric Does-")
        assert "(odd 1)" in warning
        assert words in warning
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32


def test_a_run_that_no_metric_could_measure_is_not_ok(base, tmp_path):
    plugins = toy_plugins()
    plugins.metrics.clear()
    add_plugin(
        plugins,
        as_plugin(metrics=[metric_with("exits", METRIC_FAULTS["exits"][0])]),
        Package(name="odd", version="1"),
        "odd",
    )
    record = run("weight-edit", benchmark="toy", out=tmp_path / "run", settings=base[0], plugins=plugins)
    assert record.status == read_record(tmp_path / "run").status == "failed"
    assert "No metric could be measured. Does-exits: called sys.exit(5)" in record.error
    assert record.broken == {"Does-exits": "called sys.exit(5)"}


def test_one_metric_of_several_that_fails_is_missing_in_its_record_alone(base, tmp_path):
    plugins = toy_plugins()
    add_plugin(
        plugins, as_plugin(metrics=[metric_with("nan", METRIC_FAULTS["nan"][0])]), Package(name="odd", version="1"), "odd"
    )
    result = compare(["weight-edit"], benchmark="toy", out=tmp_path, settings=base[0], plugins=plugins, audits="none")
    assert [record.status for record in result.records] == ["ok"] * 3
    assert all("Does-nan" in record.broken and "MeanCosine" in record.scores for record in result.records)
    [note] = [note for note in result.comparison.notes if "Does-nan" in note]
    assert (
        note
        == "The metric Does-nan failed: it gave nan, which is not a number to compare. (clean, compromised, weight-edit seed 0)"
    )
