"""Faulty methods between good ones: each costs at most its own row, the record says what it did, and nobody else's numbers change.

SALMU_FAULTS=500 tries that many random faults, SALMU_FAULTS=200-500 those from the 200th on; by default it is a handful.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import random
import shutil
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
    Fault,
    faulty,
    first_weight,
    leave_thread,
    metric_with,
    poison_cache,
)
from salmu_core import compare, load_model
from salmu_core.builtin.toy import Toy
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.plugins.loading import Plugins, add_plugin
from salmu_core.records.schema import Package, RunRecord, RunSpec
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings, run, run_resolved
from salmu_core.spec.resolve import resolve
from toy_methods import Ascent, Hooks, MeanCosine, WeightEdit, as_plugin, toy_plugins

#: Trials between two looks at what a good method makes of it.
TOGETHER = 4


class Draws(Ascent):
    """Trains, and draws from global generators, which no method should."""

    name = "draws"
    summary = "Draws globally."

    def unlearn(self, ctx: Any) -> None:
        super().unlearn(ctx)
        with torch.no_grad():
            first_weight(ctx).add_(0.01 * torch.randn(1) + random.random() + float(np.random.rand()))


def _plugins(*faults: Fault) -> Plugins:
    return toy_plugins(faulty(*faults), Draws)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Records of methods that nobody disturbed, and where everything is kept."""
    gc.collect()
    gc.freeze()  # every run collects garbage: what was imported need not be looked at each time
    folder = tmp_path_factory.mktemp("base")
    settings = Settings(cache=folder / "cache", cpu=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SALMU_CACHE", str(settings.cache_folder))
        found = {
            name: run(name, benchmark="toy", out=folder / name, settings=settings, plugins=_plugins())
            for name in ("faulty", "draws", "ascent")
        }
    yield settings, found
    gc.unfreeze()


@pytest.fixture(autouse=True)
def same_cache(base, monkeypatch):
    monkeypatch.setenv("SALMU_CACHE", str(base[0].cache_folder))


def _with(faults: list[Fault], base: Any, folder: Path) -> RunRecord:
    """The faulty method's record, which is on the disk as it was given back."""
    here = os.getcwd()
    record = run("faulty", benchmark="toy", out=folder, settings=base[0], plugins=_plugins(*faults))
    assert os.getcwd() == here
    assert read_record(folder) == record
    return record


def _others_come_out_as_ever(base: Any, folder: Path) -> None:
    settings, undisturbed = base
    after = run("draws", benchmark="toy", out=folder, settings=settings, plugins=_plugins())
    assert after.scores == undisturbed["draws"].scores
    assert after.provenance.model_fingerprint == undisturbed["draws"].provenance.model_fingerprint
    assert after.warnings == ()


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
    record = _with([HARMLESS[name]], base, tmp_path / "run")
    assert record.status == "ok"
    assert record.warnings == ()
    assert record.scores == base[1]["faulty"].scores
    assert "noise" not in capsys.readouterr().out


def test_after_all_that_changes_nothing_others_come_out_as_ever(base, tmp_path):
    assert _with([*HARMLESS.values()], base, tmp_path / "run").warnings == ()
    _others_come_out_as_ever(base, tmp_path / "after")


def test_random_faults_change_nothing_silently(base, tmp_path):
    """Each trial: some faults, together, at random; and a good method after every few. A trial is told by its number."""
    everything = {**{name: item[0] for name, item in FAULTS.items()}, **HARMLESS}
    first, _, end = os.environ.get("SALMU_FAULTS", "4").rpartition("-")
    trials = range(int(first or 0), int(end))
    for trial in trials:
        draw = random.Random(f"faults {trial}")
        chosen = draw.sample(sorted(everything), draw.randint(1, 4))
        record = _with([everything[name] for name in chosen], base, tmp_path / str(trial))
        same = record.status == "ok" and record.scores == base[1]["faulty"].scores
        spoken = record.status != "ok" or bool(record.warnings)
        assert spoken or same, f"{chosen} changed the scores, and the record does not say so"
        assert spoken or not set(chosen) & FAULTS.keys(), f"{chosen} left something behind, and the record does not say so"
        if trial % TOGETHER == TOGETHER - 1 or trial == trials[-1]:  # what one of them left would be there still
            _others_come_out_as_ever(base, tmp_path / f"after {trial}")
            shutil.rmtree(tmp_path)


@pytest.mark.parametrize("end", ["sys.exit", "another model"])
def test_a_vocabulary_that_a_failing_run_wrote_into_reaches_no_later_run(end, base, tmp_path):
    assert _with([FAULTS["vocabulary"][0], FAULTS[end][0]], base, tmp_path / "run").status == "failed"
    again = _with([FAULTS["vocabulary"][0]], base, tmp_path / "again")
    assert any(FAULTS["vocabulary"][2] in sentence for sentence in again.warnings)
    _others_come_out_as_ever(base, tmp_path / "after")


@pytest.mark.parametrize("last", ["last act", "last act of a cycle"])
@pytest.mark.parametrize("end", ["sys.exit", "other shape"])
def test_what_acts_when_a_failing_run_is_over_is_put_back(end, last, base, tmp_path):
    record = _with([FAULTS[last][0], FAULTS[end][0]], base, tmp_path / "run")
    assert record.status == "failed"
    assert "when its model was let go, changed the default number type" in _said(record)
    _others_come_out_as_ever(base, tmp_path / "after")


def test_a_comparison_goes_on_and_its_notes_name_the_culprit(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # what is written to a relative folder stays there, wherever a method goes
    plugins = toy_plugins(faulty(FAULTS["global hook"][0], FAULTS["folder"][0]))
    result = compare(
        ["ascent", "faulty", "weight-edit"],
        benchmark="toy",
        out="out",
        settings=base[0],
        plugins=plugins,
        audits="none",
    )
    assert [record.status for record in result.records] == ["ok"] * 5
    assert sum((folder / "record.json").is_file() for folder in (tmp_path / "out" / "runs").iterdir()) == 5
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


def test_beside_a_thread_that_a_method_left_nothing_is_measured(base, tmp_path):
    stop = threading.Event()
    plugins = _plugins(leave_thread(stop))
    whose = "The method faulty (toy-methods 1.0)"
    try:
        records = [
            run(name, benchmark="toy", out=tmp_path / name, settings=base[0], plugins=plugins)
            for name in ("faulty", "draws")
        ]
        beside = evaluate_model(Toy().load_model("compromised"), Toy(), [MeanCosine()])
    finally:
        stop.set()
    assert [record.status for record in records] == ["failed", "failed"]
    assert records[0].error.startswith(f"{whose} left a thread running (left).")
    assert f"was not called: {whose} left a thread running in this process (left)" in records[1].error
    assert "was not called" in beside.broken["MeanCosine"]
    assert not any(record.scores for record in records)
    for thread in threading.enumerate():
        if thread.name == "left":
            thread.join()
    _others_come_out_as_ever(base, tmp_path / "after")


def test_a_thread_that_ends_soon_or_only_waits_is_not_missed(base, tmp_path):
    timers: list[threading.Timer] = []

    def later(seconds: float, ctx: Any) -> None:
        timers.append(threading.Timer(seconds, torch.set_default_dtype, [torch.float64]))
        timers[-1].start()

    soon, late = (
        run(
            "faulty",
            benchmark="toy",
            out=tmp_path / name,
            settings=base[0],
            plugins=_plugins(functools.partial(later, seconds)),
        )
        for name, seconds in (("soon", 0.2), ("late", 1000))
    )
    timers[-1].cancel()
    assert "changed the default number type" in _said(soon)
    assert torch.get_default_dtype() is torch.float32
    assert late.status == "failed"
    assert "left a thread running" in _said(late)


def test_observers_of_a_package_change_neither_numbers_nor_records(base, tmp_path, capsys):
    def run_progress(event: Any) -> None:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(1)
        event.values.clear()
        print("noise")

    def run_finished(record: RunRecord) -> None:
        record.scores.clear()
        os._exit(3)

    plugins = _plugins()
    observer = Hooks(run_progress=run_progress, run_finished=run_finished)
    add_plugin(plugins, observer, Package(name="odd", version="1"), "odd")
    record = run("draws", benchmark="toy", out=tmp_path / "run", settings=base[0], plugins=plugins)
    assert record.scores == base[1]["draws"].scores
    assert record.provenance.model_fingerprint == base[1]["draws"].provenance.model_fingerprint
    assert record.warnings == ()
    told = "\n".join(map(str, plugins.problems))
    assert "it changed the default number type" in told
    assert "it called os._exit(3)" in told
    assert "noise" not in capsys.readouterr().out


def test_a_method_that_changes_the_process_when_it_is_made_or_asked_is_told_of(base, tmp_path):
    class Restless(WeightEdit):
        """Correct but for what it does outside of `unlearn`."""

        name = "faulty"  # what is drawn depends on it

        def __init__(self, *arguments: Any) -> None:
            torch.set_default_dtype(torch.float64)
            super().__init__(*arguments)

        def reads(self) -> Any:
            os.environ["ASKED"] = "1"  # which its own numbers do not rest on
            return super().reads()

    plugins = toy_plugins()
    add_plugin(plugins, as_plugin([Restless]), Package(name="odd", version="1"), "odd")
    assert torch.get_default_dtype() is torch.float32
    assert "its method faulty changed the default number type" in "\n".join(map(str, plugins.problems))
    record = run("faulty", benchmark="toy", out=tmp_path / "run", settings=base[0], plugins=plugins)
    assert torch.get_default_dtype() is torch.float32
    assert "ASKED" not in os.environ
    assert record.scores == base[1]["faulty"].scores
    assert "The method faulty (odd 1) changed the default number type" in record.warnings[0]
    assert "changed the environment variable ASKED" in record.warnings[1]


def test_what_a_method_is_handed_is_not_the_data_of_later_runs(base, tmp_path):
    def reorder(ctx: Any) -> None:
        split = ctx._store("forget").split
        with contextlib.suppress(AttributeError):
            split.texts.reverse()
        with contextlib.suppress(AttributeError):
            split.columns["identity_id"].reverse()
        with contextlib.suppress(TypeError):
            split.columns["value"] = split.columns["name"]

    toy, plugins = Toy(), _plugins(reorder)
    before = evaluate_model(toy.load_model("compromised"), toy, [MeanCosine()])
    resolved = resolve(RunSpec(method="faulty", benchmark="toy"), plugins, base[0].cache_folder, toy)
    run_resolved(resolved, tmp_path / "run", base[0], plugins)
    assert evaluate_model(toy.load_model("compromised"), toy, [MeanCosine()]).scores == before.scores


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
