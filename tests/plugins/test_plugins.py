"""A broken or duplicate plugin is reported with its distribution and cause, and takes nothing else down."""

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest

from salmu_core import hookimpl
from salmu_core.errors import UnknownName
from salmu_core.plugins.registry import add_plugin, load_plugins
from salmu_core.records.schema import Package
from toy_methods import Ascent, Hooks, Raises, as_plugin, toy_plugins


def _entry(name: str, module: str, dist: str, version: str = "1.2"):
    """An entry point as an installed distribution would have it."""
    point = importlib.metadata.EntryPoint(name, module, "salmu")
    return point._for(SimpleNamespace(name=dist, version=version, metadata={"Name": dist}))


def _module(name: str, **content):
    module = type(sys)(name)
    vars(module).update(content)
    sys.modules[name] = module
    return name


@pytest.fixture
def modules():
    before = set(sys.modules)
    yield _module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_plugin_that_cannot_be_imported_is_named_and_the_others_load(modules):
    good = modules("good_plugin", register_methods=hookimpl(lambda: [Ascent]))
    plugins = load_plugins([_entry("bad", "no_such_module_at_all", "broken-dist"), _entry("good", good, "good-dist")])
    assert "ascent" in plugins.methods
    [problem] = plugins.problems
    assert "broken-dist 1.2" in str(problem)
    assert "ModuleNotFoundError" in str(problem)


def test_asking_for_an_unknown_method_names_near_matches_and_broken_plugins(modules):
    good = modules("good_plugin", register_methods=hookimpl(lambda: [Ascent]))
    plugins = load_plugins([_entry("bad", "no_such_module_at_all", "broken-dist"), _entry("good", good, "good-dist")])
    with pytest.raises(UnknownName) as caught:
        plugins.get("method", "ascend")
    assert "Did you mean ascent?" in str(caught.value)
    assert "broken-dist" in str(caught.value)


def test_of_two_claims_to_a_name_the_first_distribution_wins_and_both_are_named(modules):
    one = modules("plugin_one", register_methods=hookimpl(lambda: [Ascent]))
    two = modules("plugin_two", register_methods=hookimpl(lambda: [Ascent, Raises]))
    plugins = load_plugins([_entry("two", two, "b-dist"), _entry("one", one, "a-dist")])
    assert plugins.methods["ascent"].package.name == "a-dist"
    assert plugins.methods["raises"].package.name == "b-dist"
    [problem] = plugins.problems
    assert "b-dist" in str(problem)
    assert "a-dist" in str(problem)


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        ([object], "not a subclass of UnlearningMethod"),
        ([type("NoName", (Ascent,), {"name": None})], "lacks name"),
    ],
)
def test_an_unusable_class_is_refused_with_the_reason(offered, words):
    plugins = toy_plugins()
    add_plugin(plugins, as_plugin(offered), Package(name="odd", version="3"), "odd")
    [problem] = plugins.problems
    assert "odd 3" in str(problem)
    assert words in str(problem)


def test_a_misspelt_hook_is_found_at_start():
    plugins = toy_plugins()
    misspelt = Hooks(register_method=lambda: [])
    add_plugin(plugins, misspelt, Package(name="typo", version="1"), "typo")
    assert "register_method" in str(plugins.problems[0])


def test_a_hook_that_raises_is_reported():
    def register_methods():
        raise RuntimeError("boom")

    plugins = toy_plugins()
    add_plugin(plugins, Hooks(register_methods=register_methods), Package(name="x", version="1"), "x")
    assert "boom" in str(plugins.problems[0])


def test_an_observer_that_raises_does_not_end_a_run():
    def run_finished(record):
        raise RuntimeError("boom")

    plugins = toy_plugins()
    plugins.watch(Hooks(run_finished=run_finished))
    plugins.tell("run_finished", record=None)
    plugins.tell("run_finished", record=None)
    assert len(plugins.problems) == 1


def test_the_selection_variable_narrows_what_is_loaded(modules, monkeypatch):
    one = modules("plugin_one", register_methods=hookimpl(lambda: [Ascent]))
    two = modules("plugin_two", register_methods=hookimpl(lambda: [Raises]))
    monkeypatch.setenv("SALMU_PLUGINS", "b-dist")
    plugins = load_plugins([_entry("one", one, "a-dist"), _entry("two", two, "b-dist")])
    assert set(plugins.methods) == {"raises"}
