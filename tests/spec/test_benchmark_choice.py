"""A finished model is looked at on the benchmark of the run that made it, unless somebody names another."""

from __future__ import annotations

import json

import pytest

from salmu_core.builtin.toy import Toy
from salmu_core.errors import BadData, BadRecord
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.schema import Package
from salmu_core.runner.evaluate import evaluate
from salmu_core.runner.run import Settings, run
from salmu_core.spec.benchmark_choice import benchmark_for
from toy_methods import Hooks, toy_plugins

PLUGINS = toy_plugins()
OPTIONS = {"seed": 3, "identities": 4}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(cache=tmp_path_factory.mktemp("cache"), cpu=True)


@pytest.fixture
def made(tmp_path, settings):
    """A run on an instance that is not the standard one."""
    given = {"benchmark": "toy", "benchmark_options": OPTIONS, "settings": settings, "plugins": PLUGINS}
    return tmp_path / "run", run("weight-edit", out=tmp_path / "run", **given)


def test_a_run_is_measured_again_on_its_own_instance(made, settings):
    folder, record = made
    for place in (folder, folder / "record.json", folder / "model.safetensors"):
        found = evaluate(place, settings=settings, plugins=PLUGINS)
        assert found.spec.benchmark_options == OPTIONS
        assert {name: score.value for name, score in found.scores.items()} == {
            name: score.value for name, score in record.scores.items()
        }
    other = evaluate(
        folder, benchmark="toy", settings=settings, plugins=PLUGINS
    )  # named: its defaults, whatever the record says
    assert other.spec.benchmark_options["seed"] == 0
    changed = benchmark_for(folder, None, {"seed": 1}, PLUGINS)
    assert (changed.benchmark, changed.options) == ("toy", {"seed": 1, "identities": 4})


def test_a_damaged_record_is_an_error_unless_the_benchmark_is_named(made, settings):
    folder, _ = made
    path = folder / "record.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 0'))
    with pytest.raises(BadRecord, match="changed after it was written") as caught:
        evaluate(folder, settings=settings, plugins=PLUGINS)
    assert "--benchmark" in caught.value.hint
    choice = benchmark_for(folder, "toy", OPTIONS, PLUGINS)
    assert (choice.benchmark, choice.options, choice.record) == ("toy", OPTIONS, None)
    with pytest.raises(BadRecord, match="damaged"):
        choice.check_place(Toy(Toy.Options(**OPTIONS)))


def test_what_the_record_states_must_be_what_lies_there(made, settings):
    folder, _ = made
    choice = benchmark_for(folder, None, {}, PLUGINS)
    toy = Toy(Toy.Options(**OPTIONS))
    choice.check_data(toy)
    choice.check_place(toy)
    with pytest.raises(BadData, match="changed since"):
        choice.check_data(Toy())
    with pytest.raises(BadData, match="other data"):
        benchmark_for(folder, "toy", {}, PLUGINS).check_place(Toy())
    with pytest.raises(BadRecord, match="not those that its record"):
        choice.check_weights(toy.load_model("compromised"))


def test_a_reference_row_stands_for_its_model_and_a_failed_run_for_none(tmp_path, settings):
    given = {"benchmark": "toy", "benchmark_options": OPTIONS, "settings": settings, "plugins": PLUGINS}
    run("none", out=tmp_path / "clean", start="clean", **given)
    run("raises", out=tmp_path / "failed", **given)
    assert benchmark_for(tmp_path / "clean", None, {}, PLUGINS).model(tmp_path / "clean") == "clean"
    with pytest.raises(BadRecord, match="left no weights: its status is failed"):
        evaluate(tmp_path / "failed", settings=settings, plugins=PLUGINS)
    assert json.loads((tmp_path / "failed/record.json").read_text())["status"] == "failed"


def test_nothing_of_private_rows_is_kept_in_the_users_cache(tmp_path, monkeypatch):
    class Private(Toy):
        name = "private-toy"
        private = True

    monkeypatch.setenv("SALMU_CACHE", str(tmp_path))
    plugins = toy_plugins()
    hooks = Hooks(register_benchmarks=lambda: [Private])
    add_plugin(plugins, hooks, Package(name="private", version="0"), "private")
    kept = {}
    for name in ("toy", "private-toy"):
        evaluate("compromised", benchmark=name, settings=Settings(cpu=True), plugins=plugins)
        kept[name] = sum(1 for place in tmp_path.rglob("*.safetensors"))
    assert kept["private-toy"] == kept["toy"] > 0
