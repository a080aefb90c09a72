"""What a plan says of every method's steps is what its run does, and what a budget cannot hold is refused before it begins."""

import contextlib
import copy
import warnings
from functools import cache

import pytest
import torch

from salmu_authors.testing.context import toy_context
from salmu_core import Batch, Budget, FitOptions, LossMethod, Pairs
from salmu_core.builtin.toy import Toy
from salmu_core.errors import BadData, BudgetExceeded, SalmuError
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.schema import RunSpec
from salmu_core.runner import context
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.planning import plan_run
from salmu_core.runner.run import Settings, run
from salmu_core.spec.resolve import make_method, resolve
from toy_methods import Ascent, toy_plugins


@cache
def compromised():
    return Toy().load_model("compromised")


class Quick(Toy):
    """Toy, whose model is made once and copied."""

    def load_model(self, which):
        return copy.deepcopy(compromised()) if which == "compromised" else super().load_model(which)


class OneRow(Quick):
    """A request of one row, as most are, with the budget of `salmu forget`."""

    samples = 10

    def load_split(self, name):
        split = super().load_split(name)
        return split.take([0], name) if name == "forget" else split

    def budget(self):
        return Budget(forget=self.samples, retain=64 * self.samples)


class ForgetOnly(Ascent):
    """Sees no pairs to keep."""

    data = ("forget",)


class OnePass(OneRow):
    """The least that `salmu forget` can be asked for."""

    samples = 1


@pytest.fixture(scope="module")
def zoo():
    return load_plugins()


def planned(method, benchmark, zoo):
    forget = benchmark.split_for("forget")
    if "forget" in method.reads():
        method.check_forget(len(forget), forget.identities, lambda name, options: make_method(name, options, zoo))
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


#: Measure something among different identities, or lead to another pair of forget.
REFUSED = {"key-value-edit", "anchored-ascent", "diet"}
#: Do not hold what they measure besides within ten passes over one row.
OVER_BUDGET = {"scrub", "slug"}


@pytest.mark.parametrize("kind", [Quick, OneRow, OnePass])
@pytest.mark.filterwarnings("ignore:.*acts on how forget pairs differ")
def test_every_method_takes_the_steps_of_its_plan_or_is_refused_by_it(zoo, kind, monkeypatch):
    """Whatever the plan takes, the run carries out: no method finds out late that a request is too small for it."""
    monkeypatch.setattr(context, "fit", rehearsed)
    benchmark, faults, refused = kind(), [], set()
    for name in zoo.methods:
        method = make_method(name, {}, zoo)
        try:
            steps = planned(method, benchmark, zoo)
        except (BadData, BudgetExceeded) as error:
            refused.add(name)
            faults += [] if error.hint else [f"{name} does not say what to do"]
            continue
        try:
            taken = took(method, benchmark)
        except SalmuError as error:
            faults.append(f"{name}: planned {steps}, and {type(error).__name__}: {error}")
            continue
        trains = isinstance(method.options, FitOptions) or "inner" in type(method.options).model_fields
        # Some stop early, and some leave room for measurements that the plan cannot know.
        if (steps is None) == trains or (steps is not None and not 0 < taken <= steps):
            faults.append(f"{name}: planned {steps}, took {taken}")
    assert not faults, "\n".join(faults)
    expected = {Quick: set(), OneRow: REFUSED | OVER_BUDGET}
    assert refused == expected.get(kind, refused)


class Begun(Exception):
    """A fit was about to begin."""


def forget_gradient(method, benchmark, monkeypatch):
    """The largest gradient of what the method's first fit calls its forget term; None where it has no such term."""
    found = []

    def begin(job):
        rows = {role: Pairs(store, torch.arange(min(4, len(store)))) for role, store in job.stores.items()}
        terms = job.loss(job.model, Batch(rows))
        if isinstance(terms, dict) and "forget" in terms:
            term = terms["forget"]
            parts = torch.autograd.grad(term, list(job.params), allow_unused=True) if term.requires_grad else ()
            found.append(max((float(part.abs().max()) for part in parts if part is not None), default=0.0))
        raise Begun

    monkeypatch.setattr(context, "fit", begin)
    with toy_context(method, benchmark=benchmark) as ctx, contextlib.suppress(Begun):
        method.unlearn(ctx)
    return found[0] if found else None


def test_methods_whose_forget_term_says_nothing_of_one_row_declare_it(zoo, monkeypatch):
    benchmark, asked = OneRow(), set()
    for name, entry in zoo.methods.items():
        options = {"floor": -1.0} if name == "hinge-negative-pairs" else {}
        method = make_method(name, options, zoo)
        if not isinstance(method, LossMethod) or name in REFUSED | OVER_BUDGET:
            continue
        gradient = forget_gradient(method, benchmark, monkeypatch)
        if gradient is not None:
            asked.add(name)
            assert (gradient < 1e-9) == (entry.cls.fewest_rows > 1), f"{name}: {gradient}"
    assert len(asked) > 10


@pytest.mark.parametrize(("name", "warned"), [("npo", True), ("munba", True), ("direct-similarity-minimisation", False)])
def test_a_plan_says_which_methods_will_not_forget_one_row(zoo, name, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        planned(make_method(name, {}, zoo), OneRow(), zoo)
    assert any("will not forget" in str(warning.message) for warning in caught) == warned


@pytest.mark.parametrize("name", ["gradient-ascent-retain", "npo", "salun", "multidelete"])
@pytest.mark.filterwarnings("ignore:.*acts on how forget pairs differ")
def test_a_request_of_one_row_is_carried_out(zoo, name):
    """These asked for a batch of retain pairs that the budget of one row did not hold."""
    method, benchmark = make_method(name, {}, zoo), OneRow()
    steps = planned(method, benchmark, zoo)
    assert steps >= 9  # salun measures on one of ten samples first
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


def test_dry_run_and_run_refuse_a_request_of_one_person_alike(tmp_path, zoo):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    spec = RunSpec(method="key-value-edit", benchmark="toy", benchmark_options={"identities": 1})
    with pytest.raises(BadData, match="at least 2 identities, and here is 1"):
        plan_run(resolve(spec, zoo), tmp_path / "run", settings, zoo)
    with pytest.raises(BadData, match="at least 2 identities"):
        run(spec, out=tmp_path / "run", settings=settings, plugins=zoo)
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


def test_similarity_to_retain_is_the_mean_over_its_captions():
    class Rich(OneRow):
        def budget(self):
            return Budget(forget=10, retain=1000)

    with toy_context(Ascent(), benchmark=Rich()) as ctx:
        pairs = next(ctx.batches("retain", 64))
        image = torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), dim=1)
        with torch.no_grad():
            expected = (image @ ctx.model.encode_text(pairs.text).T).mean()
        assert ctx.similarity_to_retain(image) == pytest.approx(float(expected), abs=1e-6)
        assert ctx.samples["retain"] == 2 * len(pairs)
    with toy_context(ForgetOnly(), benchmark=Rich()) as ctx, pytest.raises(SalmuError, match="sees no others"):
        ctx.unrelated_similarity(1)
