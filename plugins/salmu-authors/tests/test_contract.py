"""The contract's checks: each finds the fault that was planted for it and no other, and correct plugins pass all of them."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from typing import ClassVar

import pytest
import torch
from click.testing import CliRunner

import faulty_plugins as faulty
from faulty_commands import COMMANDS
from plugin_faults import FAULTS, METRIC_FAULTS, METRIC_LITTER, metric_with
from plugin_faults import faulty as faulty_method
from salmu_authors.testing import (
    check_benchmark,
    check_command,
    check_method,
    check_metric,
    checks_of,
    report_benchmark,
    report_command,
    report_metric,
)
from salmu_authors.testing.benchmark_checks import BenchmarkTrial
from salmu_authors.testing.contract import Check, Checks, NotApplicable, run_all
from salmu_authors.testing.method_checks import METHOD_CHECKS
from salmu_authors.testing.method_trial import MethodTrial
from salmu_core import Between, CommandInfo, Field, OneOf
from salmu_core.builtin.toy import Toy
from salmu_core.cli.main import cli
from salmu_core.losses import contrastive_loss, pair_cosine
from toy_methods import WeightEdit

#: Checks that run a method once more: for a fault that another check is to find they are left out, to be quick.
_MORE_RUNS = {"frozen-tower", "deterministic", "no-global-randomness", "resumes", "record", "no-warnings", "two-processes"}


def _failed(report):
    return {result.id: result.message for result in report.of("failed")}


@pytest.mark.parametrize("check", faulty.METHODS)
def test_a_fault_of_a_method_is_found_by_its_check_and_by_no_other(check):
    cls = faulty.METHODS[check]
    checks = [item for item in METHOD_CHECKS.listed if item.id not in _MORE_RUNS or item.id == check]
    failed = _failed(run_all("method", cls.name, checks, MethodTrial(cls, {}), slow=True))
    # A family that does not exist cannot even be registered.
    assert set(failed) - ({"class"} if check == "family" else set()) == {check}, failed
    assert len(failed[check]) > 30  # says what to change


#: Faults of which nothing but the record of a whole run tells.
_IN_THE_RECORD = {"forward", "processor", "vocabulary", "opens the cache", "last act", "last act of a cycle"}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_that_cost_a_method_its_row_are_found_before(name, monkeypatch, tmp_path):
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path))
    left_out = _MORE_RUNS - ({"no-warnings"} if name in _IN_THE_RECORD else set())
    checks = [item for item in METHOD_CHECKS.listed if item.id not in left_out]
    trial = MethodTrial(faulty_method(FAULTS[name][0]), {})
    # Most are found by these two: the others need not look then.
    likely = [item for item in checks if item.id in {"runs", "process-settings"}] if name not in _IN_THE_RECORD else []
    failed = _failed(run_all("method", "faulty", likely, trial, slow=False))
    failed = failed or _failed(run_all("method", "faulty", checks, trial, slow=False))
    assert failed
    assert not _IN_THE_RECORD & {name} or FAULTS[name][2] in failed["no-warnings"]
    if name.startswith("last act"):  # models of the other checks go here, unwatched
        del trial
        gc.collect()
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", [*METRIC_FAULTS, *METRIC_LITTER])
def test_faults_that_cost_a_metric_its_score_are_found_before(name):
    misdeed, words = (METRIC_FAULTS | METRIC_LITTER)[name]
    failed = _failed(report_metric(metric_with(name, misdeed, then=name in METRIC_LITTER)))
    assert set(failed) - {"interval"}
    assert name not in METRIC_LITTER or words in failed["process-settings"]


@pytest.mark.parametrize("check", faulty.METRICS)
def test_a_fault_of_a_metric_is_found_by_its_check_and_by_no_other(check):
    failed = _failed(report_metric(faulty.METRICS[check]))
    assert set(failed) - _BY_THE_WAY.get(check, set()) == {check}, failed


#: What else a metric's fault breaks, since an evaluation records nothing that does not fit.
_BY_THE_WAY = {
    "bounds": {"record"},
    "needs": {"computes", "empty-data"},
    "mean-of-rows": {"record", "interval"},
    "clusters": {"record"},
    "deterministic": {"order"},
    "inputs-unchanged": {"record"},
}


@pytest.mark.parametrize("check", faulty.BENCHMARKS)
def test_a_fault_of_a_benchmark_is_found_by_its_check_and_by_no_other(check):
    failed = _failed(report_benchmark(faulty.BENCHMARKS[check]()))
    assert set(failed) == {check}, failed


@pytest.mark.parametrize("check", COMMANDS)
def test_a_fault_of_a_command_is_found_by_its_check_and_by_no_other(check):
    failed = _failed(report_command(COMMANDS[check]))
    assert set(failed) == {check}, failed


def test_a_correct_command_passes():
    check_command(CommandInfo("serve", "Show a results folder in the browser.", "salmu_upkeep.cli.serve:serve_command"))


@pytest.mark.parametrize("cls", [faulty.Correct, faulty.Edit, WeightEdit], ids=lambda cls: cls.name)
def test_correct_methods_pass(cls):
    check_method(cls)


def test_what_options_decide_to_read_is_tried_with_the_options_that_read_it():
    class Weighted(faulty.Correct):
        """Sees retain pairs only where they have a weight, which the default is not."""

        search: ClassVar = {"retain_weight": OneOf((0.0, 1.0))}

        class Options(faulty.Correct.Options):
            """One more."""

            retain_weight: float = Field(0.0, ge=0)

        def reads(self):
            return ("forget", "retain") if self.options.retain_weight else ("forget",)

        def loss(self, model, batch):
            terms = {"forget": pair_cosine(*model(batch.forget)[:2]).mean()}
            return terms | ({"retain": contrastive_loss(*model(batch.retain))} if self.options.retain_weight else {})

    class Unsearched(Weighted):
        """No options that `search` knows read what `data` names."""

        search: ClassVar = {"lr": Between(1e-5, 1e-3)}

    class Empty(Weighted):
        """Says that it reads retain pairs with a weight, and does not."""

        def loss(self, model, batch):
            return pair_cosine(*model(batch.forget)[:2]).mean()

        def unlearn(self, ctx):
            ctx.fit(self.loss, self.options, params=self.trainable(ctx.model), splits=("forget",))

    class More(faulty.Edit):
        """Reads more than `data` names."""

        def reads(self):
            return ("forget", "retain")

    checks = [item for item in METHOD_CHECKS.listed if item.id in ("data", "unused-data")]
    found = {
        cls: _failed(run_all("method", cls.name, checks, MethodTrial(cls, {}), slow=False))
        for cls in (Weighted, Unsearched, Empty, More)
    }
    assert found[Weighted] == {}
    assert "no options of `search`" in found[Unsearched]["unused-data"]
    assert "{'retain_weight': 1.0}" in found[Empty]["unused-data"]
    assert "`data` names all that may be read" in found[More]["data"]


def test_correct_metrics_and_benchmarks_pass():
    check_metric(faulty.Mean)
    check_benchmark(Toy())


@pytest.mark.parametrize("kind", ["method", "metric", "benchmark"])
def test_there_are_many_checks_with_unique_ids_and_a_sentence_each(kind):
    checks = checks_of(kind)
    assert len(checks) >= 25
    assert len({check.id for check in checks}) == len(checks)
    for check in checks:
        assert check.sentence.endswith(".")
        assert check.sentence[0].isupper() or check.sentence[0] == "`"


def test_a_check_id_cannot_be_given_twice():
    checks = Checks()
    checks.add("one", "One.")(lambda trial: None)
    with pytest.raises(ValueError, match="two checks called 'one'"):
        checks.add("one", "Another.")


def test_what_cannot_be_looked_at_is_skipped_and_bugs_in_a_check_fail_it():
    def skip(trial):
        raise NotApplicable("nothing there")

    def crash(trial):
        raise KeyError("gone")

    report = run_all("method", "x", [Check("skip", "S.", skip), Check("crash", "C.", crash)], None, slow=True)
    assert [result.status for result in report.results] == ["skipped", "failed"]
    assert "KeyError" in report.results[1].message
    with pytest.raises(AssertionError, match="1 of 2 checks failed"):
        report.raise_failures()


def test_a_benchmark_that_is_not_built_fails_one_check_and_says_what_to_do():
    class Unbuilt(Toy):
        """Never ready."""

        def ready(self) -> bool:
            return False

    report = report_benchmark(Unbuilt())
    assert list(_failed(report)) == ["built"]
    assert "salmu build toy" in _failed(report)["built"]
    assert BenchmarkTrial(Unbuilt()).benchmark.ready() is False


def test_the_command_prints_a_table_and_its_exit_code_says_whether_all_is_well(monkeypatch):
    monkeypatch.setenv("SALMU_PLUGINS", "salmu-authors")
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(cli, ["check", "toy"], catch_exceptions=False, standalone_mode=False)
    assert done.return_value == 0
    assert "forget-retain-disjoint" in done.stdout
    assert "0 failed" in done.stdout
    assert re.search(r"Slowest: ([\w-]+ \d+\.\d s(, )?){3}\.$", " ".join(done.stdout.split()))
    assert max(map(len, done.stdout.splitlines())) <= 80
    monkeypatch.setattr(Toy, "budget", faulty.Poor.budget)
    done = CliRunner().invoke(
        cli, ["check", "toy", "--json", "--only", "bud"], catch_exceptions=False, standalone_mode=False
    )
    assert done.return_value == 1
    [found] = json.loads(done.stdout)["checks"]
    assert (found["id"], found["status"]) == ("budget", "failed")


def test_an_unknown_name_is_refused_with_near_ones(monkeypatch):
    monkeypatch.setenv("SALMU_PLUGINS", "salmu-authors")
    from salmu_core.errors import UnknownName

    with pytest.raises(UnknownName, match="Did you mean toy"):
        CliRunner().invoke(cli, ["check", "toyy"], catch_exceptions=False, standalone_mode=False)


def test_pytest_offers_the_fixtures_and_imports_nothing_heavy_for_them(tmp_path):
    (tmp_path / "test_elsewhere.py").write_text(
        "import sys\n"
        "def test_light():\n"
        "    heavy = {'torch', 'open_clip', 'salmu_core.plugins.loading', 'salmu_authors.testing'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_fixtures_are_offered_run_methods_and_embed_views(toy_benchmark, tiny_dual_encoder, toy_run, toy_views):
    assert toy_benchmark.name == "toy"
    assert tiny_dual_encoder.fingerprint() == toy_benchmark.load_model("compromised").fingerprint()
    ctx = toy_run(faulty.Correct(), budget=0.5)
    assert ctx.samples["forget"] == ctx.rows("forget") * 2
    assert faulty.Mean().compute(**toy_views(faulty.Mean())).value == pytest.approx(
        faulty.Mean().compute(**toy_views(faulty.Mean())).value
    )
