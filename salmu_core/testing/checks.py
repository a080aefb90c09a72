"""Conformance checks for methods, metrics and benchmarks."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from salmu_core.benchmark import Benchmark
from salmu_core.errors import BudgetExceeded, Diverged, EvaluationLocked, PluginFailure
from salmu_core.evaluation.embed import embed_views
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.method import UnlearningMethod
from salmu_core.metric import Metric, Score
from salmu_core.options import OneOf
from salmu_core.plugins import require_class
from salmu_core.testing.context import toy_context
from salmu_core.toy import Toy


def check_method(cls: type[UnlearningMethod], **options: Any) -> None:
    """Run a method on the toy benchmark and check what the runner relies on.

    Args:
        options: other than the defaults, e.g. to make the check faster.
    """
    _check_class("method", cls)
    given = cls.Options(**options)
    assert cls.Options(**given.model_dump(mode="json")) == given, "Options do not survive a round trip through JSON."
    assert cls.data or cls.family == "baseline", "A method that sees no data cannot forget: declare `data`."
    _check_search(cls)

    first, seen, allowed = _unlearn(cls, options)
    assert all(torch.isfinite(tensor).all() for tensor in first.values()), "Weights are not finite after unlearning."
    for role, count in seen.items():
        assert count <= allowed[role], f"{count} {role} samples were seen, {allowed[role]} are allowed."
    again, _, _ = _unlearn(cls, options)
    unequal = [name for name, tensor in first.items() if not torch.equal(tensor, again[name])]
    assert not unequal, (
        f"Two runs with one seed gave other weights ({unequal[0]}, ...): draw through ctx.generator, not from global state."
    )
    start = Toy().load_model("compromised").weights()
    assert first.keys() == start.keys(), "The model's weights have other names than before: change values, not structure."
    assert torch.equal(first["logit_scale"], start["logit_scale"]), "The logit scale was changed."
    if cls.data:
        _check_isolation(cls, options)


def check_metric(cls: type[Metric], **options: Any) -> None:
    """Compute a metric on the toy benchmark and check what the evaluation relies on."""
    _check_class("metric", cls)
    given = cls.Options(**options)
    assert cls.Options(**given.model_dump(mode="json")) == given, "Options do not survive a round trip through JSON."
    metric = cls(given)
    benchmark = Toy()
    plan = plan_evaluation([metric], benchmark)
    assert metric.name not in plan.skipped, f"Not measurable on the toy benchmark: {plan.skipped.get(metric.name)}."
    embedded = embed_views(benchmark.load_model("compromised"), benchmark, plan.all_views())
    views = {argument: embedded[view] for argument, view in plan.views[metric.name].items()}
    before = {argument: view.vectors.clone() for argument, view in views.items()}
    first, second = metric.compute(**views), cls(given).compute(**views)
    assert isinstance(first, Score), f"compute returned {type(first).__name__}, not a Score."
    assert first.value == second.value, "Two evaluations of one model differ: make the generator inside compute."
    low, high = cls.bounds
    assert low <= first.value <= high, f"The value {first.value} is outside the declared bounds {cls.bounds}."
    assert cls.target in ("clean", "compromised"), f"The target is {cls.target}, not clean or compromised."
    if first.rows is not None:
        assert np.isclose(np.mean(first.rows), first.value, atol=1e-6), "The value is not the mean of the rows."
        if first.clusters is not None:
            assert len(first.clusters) == len(first.rows), "There are not as many cluster labels as rows."
    for argument, view in views.items():
        assert torch.equal(view.vectors, before[argument]), f"The view '{argument}' was changed in place."


def check_benchmark(benchmark: Benchmark) -> None:
    """Read a built benchmark's splits and models and check what the runner relies on."""
    _check_class("benchmark", type(benchmark))
    assert benchmark.ready(), "The benchmark is not built."
    roles = [info.role for info in benchmark.splits().values()]
    for role in ("forget", "retain"):
        assert roles.count(role) == 1, f"There must be exactly one split with the role {role}."
    for name, info in benchmark.splits().items():
        split = benchmark.split(name)
        assert len(split) > 0, f"The split {name} is empty."
        assert ("image" in info.sides) == (split.images is not None), f"The split {name} declares other sides than it has."
        assert ("text" in info.sides) == (split.texts is not None), f"The split {name} declares other sides than it has."
    budget = benchmark.budget()
    assert budget.forget > 0, "The budget holds no forget samples."
    assert budget.retain > 0, "The budget holds no retain samples."
    assert benchmark.fingerprint() == benchmark.fingerprint(), "The fingerprint is not stable."
    first, second = benchmark.load_model("compromised"), benchmark.load_model("compromised")
    assert first.fingerprint() == second.fingerprint(), "Loading the Compromised model twice gave other weights."
    clean = benchmark.load_model("clean")
    assert clean.fingerprint() != first.fingerprint(), "Clean and Compromised are the same model."
    assert clean.weights().keys() == first.weights().keys(), "Clean and Compromised are of other architectures."


def _check_search(cls: type[UnlearningMethod]) -> None:
    """Every end of the search space is a value that the options take."""
    for name, span in cls.search.items():
        assert name in cls.Options.model_fields, f"The search space names '{name}', which is no option of {cls.name}."
        values = span.values if isinstance(span, OneOf) else (span.low, span.high)
        for value in values:
            cls.Options(**{name: value})


def _check_class(kind: Any, cls: type) -> None:
    try:
        require_class(kind, cls)
    except PluginFailure as failure:
        raise AssertionError(f"{cls.__name__} cannot be registered: {failure.message}.") from None
    assert inspect.getdoc(cls), f"{cls.__name__} has no docstring."


def _unlearn(cls: type[UnlearningMethod], options: Any) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, int]]:
    method = cls(cls.Options(**options))
    with toy_context(method) as ctx:
        try:
            method.unlearn(ctx)
        except BudgetExceeded as error:
            raise AssertionError(f"The 1x budget does not hold what the defaults ask for: {error}") from error
        except Diverged as error:
            raise AssertionError(f"The method diverges on the toy benchmark: {error}") from error
        weights = {name: tensor.detach().clone() for name, tensor in ctx.model.weights().items()}
        return weights, dict(ctx.samples), Toy().budget().times(1)


def _check_isolation(cls: type[UnlearningMethod], options: Any) -> None:
    """Evaluation splits stay out of reach while the method runs: neither through the context nor through a benchmark."""
    method = cls(cls.Options(**options))
    benchmark = Toy()
    with toy_context(method, benchmark=benchmark) as ctx:
        for role in ("forget", "retain"):
            if role not in cls.data:
                try:
                    ctx.captions(role)
                except Exception:
                    continue
                raise AssertionError(f"The {role} split can be read and is not declared.")
        try:
            benchmark.split("holdout_identity")
        except EvaluationLocked:
            return
    raise AssertionError("Evaluation data can be read while the method runs.")


__all__ = ["check_benchmark", "check_method", "check_metric"]
