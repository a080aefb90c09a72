"""What a plan says of every method's steps is what its run does, and what a budget cannot hold is refused before it begins."""

import copy
from functools import cache

import pytest
import torch

from salmu_authors.testing.context import toy_context
from salmu_core import Budget, FitOptions
from salmu_core.builtin.toy import Toy
from salmu_core.errors import BudgetExceeded, SalmuError
from salmu_core.plugins.registry import load_plugins
from salmu_core.records.schema import RunSpec
from salmu_core.runner import context
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.planning import plan_run
from salmu_core.runner.run import Settings, run
from salmu_core.spec.resolve import make_method, resolve
from toy_methods import toy_plugins

#: Need pairs of two people, or room for several measurements; each says so before it trains.
NOT_WITH_ONE_ROW = {
    "key-value-edit", "anchored-ascent", "hinge-negative-pairs", "slug", "scrub", "razor", "recover", "soup", "subgroup-forgetting",
}  # fmt: skip


@cache
def compromised():
    return Toy().load_model("compromised")


class Quick(Toy):
    """Toy, whose model is made once and copied."""

    def load_model(self, which):
        return copy.deepcopy(compromised()) if which == "compromised" else super().load_model(which)


class OneRow(Quick):
    """A request of one row, as most are."""

    def load_split(self, name):
        split = super().load_split(name)
        return split.take([0], name) if name == "forget" else split

    def budget(self):
        return Budget(forget=4, retain=256)


@pytest.fixture(scope="module")
def zoo():
    return load_plugins()


def planned(method, benchmark, zoo):
    rows = {role: len(benchmark.split_for(role)) for role in method.reads()}
    meter = SampleMeter(benchmark.budget().times(1), method.name)
    return method.planned_steps(rows, meter, lambda name, options: make_method(name, options, zoo))


def took(method, benchmark):
    """Steps that the method takes."""
    with toy_context(method, benchmark=benchmark) as ctx:
        method.unlearn(ctx)
        return ctx.steps


@torch.no_grad()
def rehearsed(job):
    """`fit` without its gradients: the same samples and the same calls, and weights that moved."""
    for parameter in job.params:
        parameter.add_(torch.full_like(parameter, 1e-4))
    for step in range(1, job.steps + 1):
        for role, store in job.stores.items():
            job.meter.take(role, min(job.batch_sizes[role], len(store)))
        if job.after_step and job.after_step(step):
            break
    return step


@pytest.mark.parametrize("kind", [Quick, OneRow])
def test_every_method_takes_the_steps_of_its_plan(zoo, kind, monkeypatch):
    monkeypatch.setattr(context, "fit", rehearsed)
    benchmark, faults = kind(), []
    for name in zoo.methods:
        method = make_method(name, {}, zoo)
        try:
            steps = planned(method, benchmark, zoo)
            taken = took(method, benchmark)
        except SalmuError as error:
            if kind is Quick or name not in NOT_WITH_ONE_ROW or error.hint is None:
                faults.append(f"{name}: {type(error).__name__}: {error}")
            continue
        trains = isinstance(method.options, FitOptions) or "inner" in type(method.options).model_fields
        # Some stop early, and some leave room for measurements that the plan cannot know.
        if (steps is None) == trains or (steps is not None and not 0 < taken <= steps):
            faults.append(f"{name}: planned {steps}, took {taken}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", ["gradient-ascent-retain", "npo", "salun", "multidelete"])
def test_a_request_of_one_row_is_carried_out(zoo, name):
    """These asked for a batch of retain pairs that the budget of one row did not hold."""
    method, benchmark = make_method(name, {}, zoo), OneRow()
    steps = planned(method, benchmark, zoo)
    assert steps >= 3  # salun measures on one of four samples first
    assert took(method, benchmark) == steps


def test_epochs_beyond_the_budget_are_refused_by_the_plan_and_by_the_run_of_every_method(zoo):
    benchmark, faults, asked = Quick(), [], 0
    for name, entry in zoo.methods.items():
        fields = entry.cls.Options.model_fields
        if "epochs" not in fields and "inner" not in fields:
            continue
        options = {"epochs": 1000} if "epochs" in fields else {"inner_options": {"epochs": 1000}}
        asked += 1
        for what, act in (("plan", lambda m: planned(m, benchmark, zoo)), ("run", lambda m: took(m, benchmark))):
            try:
                act(make_method(name, options, zoo))
                faults.append(f"{name}: its {what} refuses nothing")
            except BudgetExceeded:
                pass
            except SalmuError as error:  # of a method's own, when the room for what it measures is gone
                if what == "plan" or "budget" not in str(error):
                    faults.append(f"{name}: its {what} says {type(error).__name__}: {error}")
    assert asked > 15
    assert not faults, "\n".join(faults)


def test_dry_run_and_run_refuse_alike_and_leave_nothing(tmp_path):
    plugins, settings = toy_plugins(), Settings(cache=tmp_path / "cache", cpu=True)
    spec = RunSpec(method="ascent", benchmark="toy", method_options={"epochs": 1000})
    with pytest.raises(BudgetExceeded, match="more forget samples"):
        plan_run(resolve(spec, plugins), tmp_path / "run", settings, plugins)
    with pytest.raises(BudgetExceeded, match=r"more forget samples[\s\S]*--passes"):
        run(spec, out=tmp_path / "run", settings=settings, plugins=plugins)
    assert not (tmp_path / "run").exists()


def test_a_batch_is_no_larger_than_what_is_left():
    meter = SampleMeter({"forget": 10, "retain": 10}, "m")
    rows = {"forget": 1, "retain": 32}
    assert meter.batch_sizes(FitOptions(batch_size=64), rows) == {"forget": 1, "retain": 10}
    assert meter.steps(FitOptions(batch_size=64), rows) == 1
    assert meter.steps(FitOptions(batch_size=2), rows) == 5
    meter.take("retain", 10)
    with pytest.raises(BudgetExceeded, match="0 of 10 are left"):
        meter.steps(FitOptions(), rows)
