"""One entry for comparisons: a study from the command line, a study in Python and keywords in Python are the same runs."""

from dataclasses import asdict, fields

import pytest

from salmu_core.errors import BadOptions, SalmuError, UnknownName
from salmu_core.runner.compare import MethodChoice, compare
from salmu_core.runner.planned import plan_comparison, settings_of, study_of
from salmu_core.runner.run import Settings
from salmu_core.spec.execution import Execution
from salmu_core.spec.resolve import standard_benchmark
from salmu_core.spec.study import STUDY_FILE, Study, StudyExecution, StudyMethod, read_study
from toy_methods import toy_plugins

EXECUTION = {"cpu": True, "micro_batch": 3, "checkpoint_seconds": 5.0, "keep_pixels": False, "log_with": "x"}


def test_how_runs_are_carried_out_is_one_value_from_the_file_to_the_loop():
    names = {item.name for item in fields(Execution)}
    assert set(StudyExecution.model_fields) - names == {"precision", "protocol", "workers"}
    assert issubclass(Settings, Execution)
    execution = StudyExecution(**EXECUTION).execution
    assert asdict(execution) == {**asdict(Execution()), **EXECUTION}
    settings = settings_of(Study(benchmark="toy", execution=EXECUTION, metrics={"M": {"k": 1}}), overwrite=True)
    assert settings == Settings(**EXECUTION, overwrite=True, metric_options={"M": {"k": 1}})
    for name in names:
        assert StudyExecution.model_fields[name].default == getattr(Execution(), name), name


def test_keywords_and_a_study_plan_the_same_runs(tmp_path):
    plugins, settings = toy_plugins(), Settings(cache=tmp_path / "cache", cpu=True)
    more = {"seeds": (0, 1), "budgets": (1.0, 2.0), "benchmark_options": {"identities": 9}, "preset": "none"}
    methods = ["weight-edit", StudyMethod("ascent", {"lr": 1e-4}, (2.0,))]
    options = {"ascent": {"lr": 1e-2, "batch_size": 6}}
    named = study_of(methods, settings, plugins, benchmark="toy", out=tmp_path, options=options, **more)
    written = Study(
        benchmark="toy",
        out=str(tmp_path),
        methods=("weight-edit", {"name": "ascent", "options": {"lr": 1e-4, "batch_size": 6}, "budgets": [2.0]}),
        execution={"cpu": True, "workers": None},
        **more,
    )
    assert named == written
    planned = plan_comparison(named, settings=settings, plugins=plugins)
    assert [item.resolved.spec.method for item in planned[:2]] == ["none", "none"]
    assert len(planned) == 2 + 4 + 2
    assert {item.folder.parent for item in planned} == {tmp_path / "runs"}


def test_python_leaves_the_study_that_repeats_it(tmp_path):
    plugins, settings = toy_plugins(), Settings(cache=tmp_path / "cache", cpu=True)
    out = tmp_path / "out"
    made = compare(["weight-edit"], benchmark="toy", out=out, settings=settings, plugins=plugins, audits="none")
    study = read_study(out / STUDY_FILE)
    assert [method.name for method in study.methods] == ["weight-edit"]
    assert all(item.done for item in plan_comparison(study, settings=settings, plugins=plugins))
    again = compare(study, settings=settings, plugins=plugins)
    assert [record.id for record in again.records] == [record.id for record in made.records]


def test_mistakes_are_named_before_anything_is_run(tmp_path):
    plugins, settings = toy_plugins(), Settings(cache=tmp_path / "cache")
    with pytest.raises(BadOptions, match="no key 'seds', did you mean seeds"):
        study_of(None, settings, plugins, benchmark="toy", seds=(1,))
    with pytest.raises(UnknownName, match="ascend"):
        study_of(["ascent"], settings, plugins, benchmark="toy", options={"ascend": {}})
    with pytest.raises(SalmuError, match="not in this comparison"):
        study_of(["ascent"], settings, plugins, benchmark="toy", options={"weight-edit": {}})
    with pytest.raises(TypeError, match="benchmark cannot be given beside it"):
        compare(Study(benchmark="toy"), benchmark="toy", plugins=plugins)
    assert MethodChoice is StudyMethod


def test_the_standard_benchmark_is_the_one_that_declares_it_or_has_to_be_named(monkeypatch):
    plugins = toy_plugins()
    with pytest.raises(BadOptions, match=r"no installed package has a standard one.*\nName one: toy"):
        standard_benchmark(plugins)
    monkeypatch.setattr(plugins.benchmarks["toy"].cls, "standard", True)
    assert standard_benchmark(plugins) == "toy"
