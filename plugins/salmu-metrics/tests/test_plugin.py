"""The plugin as a whole: what it registers, whether each metric keeps the contract, and whether the README covers it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import salmu_metrics
from salmu_authors.testing import check_metric
from salmu_core import Metric, NotMeasurable
from salmu_core.builtin.toy import Toy
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.plugins.loading import Plugins, add_plugin, new_manager
from salmu_core.records.schema import Package

FOLDER = Path(__file__).resolve().parents[1]
#: name -> target, aspect, primary, bounds, splits: the table of SALMUBench, and PrivPref, which is not scored.
EXPECTED = {
    "RetFail": ("clean", "forgetting", True, (0, 1), {"forget", "retain_disjoint"}),
    "AssocStr": ("clean", "forgetting", False, (-1, 1), {"forget"}),
    "ACS": ("clean", "forgetting", False, (0, 1), {"forget"}),
    "IdZSC": ("clean", "forgetting", False, (0, 1), {"forget_identity"}),
    "CoreAssoc": ("clean", "forgetting", False, (-1, 1), {"forget"}),
    "PrivPref": ("clean", "forgetting", False, (0, 1), {"forget", "holdout_identity", "holdout_association"}),
    "GenKnow": ("compromised", "general", True, (0, 1), {"genknow", "genknow_prompts"}),
    "InterIdSim": ("compromised", "holdout", True, (-1, 1), {"holdout_identity"}),
    "IntraIdSim": ("compromised", "holdout", False, (-1, 1), {"holdout_association"}),
    "VisIdInt": ("compromised", "retained", True, (-1, 1), {"retain_joint"}),
    "FragSim": ("compromised", "retained", False, (-1, 1), {"fragile_set"}),
}
METRICS = list(salmu_metrics.register_metrics())


def registered() -> Plugins:
    plugins = Plugins(new_manager())
    add_plugin(plugins, salmu_metrics, Package(name="salmu-metrics", version="0"), "metrics")
    return plugins


def test_the_hook_registers_the_metrics_in_the_papers_order_and_only_the_ten_are_scored() -> None:
    plugins = registered()
    assert plugins.problems == []
    assert list(plugins.metrics) == list(EXPECTED)
    assert [name for name, entry in plugins.metrics.items() if not entry.cls.scored] == ["PrivPref"]


def test_the_entry_point_names_the_package() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["salmu"] == {"metrics": "salmu_metrics"}


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_a_metric_declares_what_salmubench_says(cls: type[Metric]) -> None:
    target, aspect, primary, bounds, splits = EXPECTED[cls.name]
    assert (cls.target, cls.aspect, cls.primary, cls.bounds) == (target, aspect, primary, bounds)
    assert {view.split for view in cls().needs().values()} == splits
    assert cls.summary.endswith(".")


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_a_metric_keeps_the_contract(cls: type[Metric]) -> None:
    check_metric(cls)


def test_an_evaluation_scores_all_ten_and_clusters_rows_by_identity() -> None:
    benchmark = Toy()
    metrics = [cls() for cls in METRICS]
    first = evaluate_model(benchmark.load_model("compromised"), benchmark, metrics)
    second = evaluate_model(benchmark.load_model("compromised"), benchmark, metrics)
    assert first.skipped == {}
    assert {name: score.value for name, score in first.scores.items()} == {
        name: score.value for name, score in second.scores.items()
    }
    for name, score in first.scores.items():
        assert score.value == float(first.rows[f"{name}/rows"].mean())
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high
    assert first.scores["RetFail"].clusters == 6  # identities in the toy's forget split
    assert first.scores["RetFail"].n == len(benchmark.split("forget"))
    assert first.scores["GenKnow"].clusters == 4  # classes
    assert first.scores["VisIdInt"].clusters == first.scores["VisIdInt"].n  # no identities there
    assert np.array_equal(first.rows["RetFail/rank"], np.round(1 / first.rows["RetFail/rows"]))


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_empty_splits_are_not_measurable(cls: type[Metric], nothing) -> None:
    metric = cls()
    with pytest.raises(NotMeasurable):
        metric.compute(**{argument: nothing() for argument in metric.needs()})


@pytest.mark.parametrize("cls", METRICS, ids=lambda cls: cls.name)
def test_the_readme_has_a_page_for_each_metric(cls: type[Metric]) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    pages = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", readme, flags=re.MULTILINE | re.DOTALL))
    assert list(pages) == list(EXPECTED)
    page = pages[cls.name]
    for heading in ("Definition", "Split, target, range, chance", "Options", "How to read it", "Departures"):
        assert f"- **{heading}" in page, heading
    assert cls.target.capitalize() in page
    for view in cls().needs().values():
        assert f"`{view.split}`" in page
    for name, field in cls.Options.model_fields.items():
        assert f"`{name}` = {field.default}" in page
