"""Several runs at once: the same weights as one after another, in order, resumable, and only where it helps."""

import psutil
import pytest

from salmu_core import compare
from salmu_core.plugins.registry import load_plugins
from salmu_core.runner import workers as workers_module
from salmu_core.runner.run import Settings
from salmu_core.runner.workers import LARGEST, choose_workers
from toy_methods import Hooks

pytest.importorskip("salmu_gradient_ascent")
pytest.importorskip("salmu_retain_finetuning")
METHODS = ["gradient-ascent", "retain-finetuning", "direct-similarity-minimisation"]


def test_runs_side_by_side_end_at_the_weights_of_runs_one_after_another(tmp_path):
    told = []
    plugins = load_plugins()
    plugins.watch(Hooks(run_finished=lambda record: told.append(record.spec.method)))
    options = {name: {"batch_size": 12, "epochs": 1} for name in METHODS}
    arguments = {"benchmark": "toy", "options": options, "plugins": plugins, "audits": "none"}
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    compare(
        METHODS[:1], **{**arguments, "options": {METHODS[0]: options[METHODS[0]]}}, out=tmp_path / "two", settings=settings
    )
    told.clear()
    two = compare(METHODS, **arguments, out=tmp_path / "two", settings=settings, workers=2)
    assert sorted(told) == sorted(METHODS[1:])  # what was done before is not done again
    one = compare(METHODS, **arguments, out=tmp_path / "one", settings=settings)
    assert [record.spec.method for record in two.records] == [record.spec.method for record in one.records]
    for first, second in zip(one.records, two.records, strict=True):
        assert first.id == second.id
        assert first.provenance.model_fingerprint == second.provenance.model_fingerprint


def test_workers_are_chosen_for_small_models_on_processors_only(monkeypatch):
    settings = Settings(cpu=True)
    monkeypatch.setattr(workers_module.os, "cpu_count", lambda: 4)
    memory = psutil.virtual_memory()._replace(available=64_000_000_000)
    monkeypatch.setattr(workers_module.psutil, "virtual_memory", lambda: memory)
    assert choose_workers(9, 1000, settings) == 4
    assert choose_workers(3, 1000, settings) == 3
    assert choose_workers(9, LARGEST + 1, settings) == 1
    monkeypatch.setattr(workers_module, "process_count", lambda: 2)
    assert choose_workers(9, 1000, settings) == 1
    monkeypatch.setattr(workers_module, "process_count", lambda: 1)
    low = memory._replace(available=5_000_000_000)
    monkeypatch.setattr(workers_module.psutil, "virtual_memory", lambda: low)
    assert choose_workers(9, 1000, settings) == 2
    monkeypatch.setattr(workers_module.torch.accelerator, "is_available", lambda: True)
    assert choose_workers(9, 1000, Settings()) == 1
