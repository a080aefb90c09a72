"""A class that says something of itself which the contract does not know is one clear problem, and ends nothing."""

import re

import pytest

from salmu_core import Audit, Settings, SplitInfo, View, builtin, compare
from salmu_core.benchmark import Counted
from salmu_core.builtin.toy import Toy
from salmu_core.errors import BadOptions
from salmu_core.plugins.declared import allowed_values, declared_types
from salmu_core.plugins.loading import Plugins, add_plugin, new_manager
from salmu_core.records.schema import Package
from toy_methods import METHODS, Ascent, Hooks, MeanCosine, toy_plugins


class Half(Audit):
    """Half."""

    name = "half"
    summary = "Half."

    def attack(self, ctx):
        raise AssertionError


BASES = {"methods": Ascent, "metrics": MeanCosine, "benchmarks": Toy, "audits": Half}


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("metrics", {"aspect": "forget"}, "has aspect = 'forget': allowed are forgetting, holdout, general, retained"),
        ("metrics", {"target": "lower"}, "has target = 'lower': allowed are clean, compromised"),
        ("metrics", {"primary": "false"}, "has primary = 'false': it has to be bool"),
        ("metrics", {"bounds": (0.0,)}, r"has bounds = \(0.0,\): it has to be tuple\[float, float\]"),
        ("metrics", {"bounds": (1.0, 0.0)}, "the lower one comes first"),
        ("metrics", {"chance": None}, "has chance = None: it has to be float"),
        ("metrics", {"needs": lambda self: {"image": View("forget", "picture")}}, "has side = 'picture'.\nAllowed are image, text"),
        ("methods", {"family": "magic"}, "has family = 'magic': allowed are baseline, gradient ascent, .*, control"),
        ("methods", {"data": ("forget", "holdout")}, "allowed are forget, retain"),
        ("methods", {"oracle": "no"}, "it has to be bool"),
        ("methods", {"search": {"lr": (1, 2)}}, r"has search = .*Mapping\[str, Between | OneOf\]"),
        ("benchmarks", {"version": 2}, "lacks version"),
        ("benchmarks", {"scoring": {"RetFail": "clean"}}, "has scoring = "),
        ("audits", {"references": ("original",)}, "allowed are clean, compromised"),
        ("audits", {"quick": "yes"}, "has quick = 'yes': it has to be Mapping"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_one_problem_that_names_what_is_allowed(kind, changes, words):
    wrong = type("Wrong", (BASES[kind],), {"__doc__": "Wrong.", "name": "wrong", **changes})
    plugins = Plugins(new_manager())
    add_plugin(plugins, Hooks(**{f"register_{kind}": lambda: [wrong]}), Package(name="odd", version="1"), "odd")
    [problem] = plugins.problems
    assert re.search(words, str(problem)), str(problem)
    assert "odd 1" in str(problem)
    assert "wrong" not in getattr(plugins, kind)


def test_a_wrong_metric_ends_no_comparison(tmp_path):
    plugins = toy_plugins()
    wrong = type("Wrong", (MeanCosine,), {"__doc__": "Wrong.", "name": "wrong", "aspect": "forget"})
    add_plugin(plugins, Hooks(register_metrics=lambda: [wrong]), Package(name="odd", version="1"), "odd")
    settings = Settings(cpu=True, cache=tmp_path / "cache")
    found = compare(["weight-edit"], benchmark="toy", out=tmp_path / "out", settings=settings, plugins=plugins).comparison
    assert [metric.name for metric in found.metrics] == ["MeanCosine"]
    assert "allowed are forgetting" in str(plugins.problems[0])


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (lambda: View("forget", "picture"), "image, text"),
        (lambda: SplitInfo("test", "A split."), "forget, retain, evaluation"),
        (lambda: SplitInfo("forget", "A split.", ("pixels",)), "image, text"),
        (lambda: Counted("clean", "forget"), "forgetting, holdout, general, retained"),
        (lambda: Counted("lower", "general"), "clean, compromised"),
    ],
)
def test_words_that_are_not_allowed_are_refused_where_they_are_written(make, allowed):
    with pytest.raises(BadOptions) as error:
        make()
    assert error.value.hint == f"Allowed are {allowed}."


def test_cores_own_parts_keep_the_types_that_the_contract_states():
    plugins = Plugins(new_manager())
    add_plugin(plugins, builtin, Package(name="salmu", version="0"), "core")
    assert plugins.problems == []
    assert allowed_values(declared_types(METHODS[0].__mro__[1])["data"]) == ("forget", "retain")
