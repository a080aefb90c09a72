"""A broken or duplicate plugin is reported with its distribution and cause, and takes nothing else down."""

import importlib.metadata
import re
import sys
from types import SimpleNamespace

import pytest
import torch

from records import record as make_record
from salmu_core import hookimpl
from salmu_core.errors import AmbiguousName, UnknownName
from salmu_core.plugins.loading import add_plugin, load_plugins
from salmu_core.records.schema import Package, RunSpec
from salmu_core.records.store import write_record
from salmu_core.spec.resolve import resolve
from toy_methods import Ascent, Hooks, MeanCosine, Raises, as_plugin, toy_plugins


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


def test_a_name_that_two_packages_claim_is_nobodys_until_somebody_says_whose(modules):
    one = modules("plugin_one", register_methods=hookimpl(lambda: [Ascent]))
    two = modules("plugin_two", register_methods=hookimpl(lambda: [Ascent, Raises]))
    plugins = load_plugins([_entry("two", two, "b-dist"), _entry("one", one, "a-dist")])
    with pytest.raises(AmbiguousName, match="Say which: a-dist:ascent or b-dist:ascent"):
        plugins.get("method", "ascent")
    assert plugins.get("method", "a-dist:ascent").package.name == "a-dist"
    assert plugins.get("method", "b-dist:ascent").package.name == "b-dist"
    assert plugins.get("method", "b-dist:raises") is plugins.methods["raises"]
    assert sorted(plugins.methods) == ["a-dist:ascent", "b-dist:ascent", "raises"]
    [problem] = plugins.problems
    assert "b-dist 1.2 (two): its method 'ascent' is also registered by a-dist 1.2" in str(problem)
    three = modules("plugin_three", register_methods=hookimpl(lambda: [Ascent]))
    more = load_plugins([_entry("x", name, dist) for name, dist in ((one, "a-dist"), (two, "b-dist"), (three, "c-dist"))])
    assert more.get("method", "c-dist:ascent").package.name == "c-dist"


def test_the_package_is_part_of_a_runs_identity_and_older_records_are_still_found(tmp_path):
    plugins = toy_plugins()
    rival = type("Rival", (Ascent,), {"__doc__": "Another."})
    add_plugin(plugins, as_plugin([rival]), Package(name="rival", version="1.0"), "rival")
    runs = [resolve(RunSpec(method=f"{dist}:ascent", benchmark="toy"), plugins) for dist in ("toy-methods", "rival")]
    alone = resolve(RunSpec(method="toy-methods:ascent", benchmark="toy"), toy_plugins())
    assert alone.spec.method == "ascent"  # as if it had been said without the package
    assert alone.id == resolve(RunSpec(method="ascent", benchmark="toy"), toy_plugins()).id
    assert runs[0].id != runs[1].id
    assert ":" not in runs[0].folder_name
    old = make_record("ascent", {}).model_copy(update={"id": alone.former_id})
    former = tmp_path / alone.folder_name.replace(alone.id[:8], alone.former_id[:8])
    assert alone.folder_in(tmp_path) == tmp_path / alone.folder_name
    of = {
        "method_package": Package(name="toy-methods", version="0.9"),
        "benchmark_package": Package(name="salmu", version="0"),
    }
    write_record(former, old.model_copy(update={"provenance": old.provenance.model_copy(update=of)}))
    assert alone.folder_in(tmp_path) == former
    of["method_package"] = Package(name="rival", version="1.0")
    write_record(former, old.model_copy(update={"provenance": old.provenance.model_copy(update=of)}))
    assert alone.folder_in(tmp_path) == tmp_path / alone.folder_name


def test_names_of_core_stay_cores():
    plugins = toy_plugins()
    usurper = type("Usurper", (Ascent,), {"name": "none"})
    add_plugin(plugins, as_plugin([usurper]), Package(name="bad", version="1"), "bad")
    assert plugins.get("method", "none").package.name == "salmu"
    assert plugins.get("method", "bad:none").cls is usurper
    assert "say bad:none" in str(plugins.problems[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("import sys; sys.exit(4)", r"its import called sys.exit\(4\)"),
        ("import os; os._exit(4)", r"its import called os._exit\(4\)"),
        ("raise KeyboardInterrupt", "its import raised KeyboardInterrupt"),
        ("import torch; torch.set_default_dtype(torch.float64)", "its import changed the default number type"),
        ("import salmu_core.losses as l; l.pair_cosine = None", "its import replaced code of others"),
        ("import os; os.chdir('/')", "its import changed the working directory"),
    ],
)
def test_whatever_an_import_does_the_others_load_and_it_is_named(tmp_path, monkeypatch, modules, capsys, line, words):
    (tmp_path / "odd_plugin.py").write_text(f"print('noise')\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    good = modules("good_plugin", register_methods=hookimpl(lambda: [Ascent]))
    plugins = load_plugins([_entry("odd", "odd_plugin", "a-dist"), _entry("good", good, "good-dist")])
    assert "ascent" in plugins.methods
    [problem] = plugins.problems
    assert re.search(rf"a-dist 1.2 \(odd\): .*{words}", str(problem))
    assert capsys.readouterr().out == ""  # --json is read by programs
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("name", ["../../escaped", "a:b", "<img src=x>", ".hidden", "a|b", "-x", "a\nb", ""])
def test_a_name_that_cannot_be_part_of_a_files_name_is_refused(name):
    plugins = toy_plugins()
    add_plugin(plugins, as_plugin([type("Odd", (Ascent,), {"name": name})]), Package(name="odd", version="3"), "odd")
    [problem] = plugins.problems
    assert "cannot be part of a file's name" in str(problem)


def test_a_class_that_cannot_be_made_or_asked_is_refused_at_start():
    class Demanding(Ascent):
        """Wants more."""

        name = "demanding"

        def __init__(self, options=None):
            sys.exit("no")

    class Confused(MeanCosine):
        """Does not know what it needs."""

        name = "Confused"

        def needs(self):
            raise KeyError("x")

    plugins = toy_plugins()
    add_plugin(plugins, as_plugin([Demanding], [Confused]), Package(name="odd", version="3"), "odd")
    assert [("demanding cannot be made" in str(p), "Confused cannot be made" in str(p)) for p in plugins.problems] == [
        (True, False),
        (False, True),
    ]


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
    plugins.watch(Hooks(run_finished=lambda record: sys.exit(9)))
    plugins.tell("run_finished", record=None)
    assert "SystemExit: 9" in str(plugins.problems[1])


def test_the_selection_variable_narrows_what_is_loaded(modules, monkeypatch):
    one = modules("plugin_one", register_methods=hookimpl(lambda: [Ascent]))
    two = modules("plugin_two", register_methods=hookimpl(lambda: [Raises]))
    monkeypatch.setenv("SALMU_PLUGINS", "b-dist")
    plugins = load_plugins([_entry("one", one, "a-dist"), _entry("two", two, "b-dist")])
    assert set(plugins.methods) == {"raises"}
