"""The contract of a metric, line by line, on the toy benchmark's models and on embeddings at the edge of what can occur."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from salmu_authors.testing.contract import Checks, NotApplicable, NotReached
from salmu_authors.testing.declarations import add_declaration_checks, add_process_checks
from salmu_authors.testing.package import check_names
from salmu_authors.testing.watch import fixed_randomness, watched_benchmarks
from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import Embedded, View
from salmu_core.evaluation.bootstrap import clustered_interval
from salmu_core.evaluation.embed import embed_views
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.metric import Metric, NotMeasurable, Score
from salmu_core.plugins.calls import plugin_code
from salmu_core.plugins.loading import Entry
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.schema import Aspect, ScoreRecord, Target

METRIC_CHECKS = Checks()
add_declaration_checks(METRIC_CHECKS)
check = METRIC_CHECKS.add

Views = Mapping[str, Embedded]


class MetricTrial:
    """A metric and the views it asks for, on several models."""

    def __init__(self, cls: type[Metric], options: Mapping[str, Any], entry: Entry[Any] | None = None) -> None:
        self.kind = "metric"
        self.cls: Any = cls
        self.options = dict(options)
        self.entry = entry
        self.toy = Toy()
        self.drawn: list[str] = []
        self.settings: list[str] = []
        self.read: list[str] = []

    def new(self) -> Metric:
        """A fresh metric object.

        Raises:
            NotReached: its options or its constructor do not work.
        """
        try:
            made: Metric = self.cls(self.cls.Options(**self.options))
        except Exception as error:
            raise NotReached("The metric cannot be made: see `class` and `constructor`.") from error
        return made

    @cached_property
    def needs(self) -> Mapping[str, View]:
        """The views it asks for."""
        try:
            return self.new().needs()
        except NotReached:
            raise
        except Exception as error:
            raise NotReached("needs() does not work: see `needs`.") from error

    @cached_property
    def views(self) -> Views:
        """Its views of the toy benchmark's Compromised model."""
        return self.views_of("compromised")

    def views_of(self, which: Target) -> Views:
        """Its views of one of the toy benchmark's models."""
        metric = self.new()
        if metric.name in plan_evaluation([metric], self.toy).skipped:
            raise NotReached("The toy benchmark has not the views it needs: see `measurable`.")
        embedded = embed_views(self.toy.load_model(which), self.toy, list(dict.fromkeys(self.needs.values())))
        return {argument: embedded[view] for argument, view in self.needs.items()}

    def changed(self, change: Callable[[Tensor], Tensor]) -> Views:
        """The views with other vectors, of unit length."""
        return {
            argument: Embedded(torch.nn.functional.normalize(change(view.vectors), dim=-1), view.columns, view.texts)
            for argument, view in self.views.items()
        }

    def score(self, views: Views) -> Score:
        """Compute it afresh, from copies: a metric that changes its views must not disturb the next look at them."""
        return self.new().compute(**_copied(views))

    @cached_property
    def first(self) -> Score:
        """Its score of the Compromised model.

        Raises:
            NotReached: it was not measured.
        """
        views = _copied(self.views)
        own = self.cls.__module__.partition(".")[0]
        with fixed_randomness(), watched_benchmarks() as access:
            state = ProcessState()
            try:
                with plugin_code("It", self.settings.append, state, own):
                    self.score(self.views)  # importing a library for the first time may draw, too
                with plugin_code("It", self.settings.append, state, own):
                    try:
                        score = self.new().compute(**views)
                    finally:
                        self.drawn = state.drawn()
            except Exception as error:
                self.error: Exception | None = error
                raise NotReached("It gave no score: see `computes`.") from error
            finally:
                self.settings = list(dict.fromkeys(self.settings))
                self.read = access.evaluation + access.training
        self.left_behind = views
        if not isinstance(score, Score):
            self.error = TypeError(f"compute returned {type(score).__name__}")
            raise NotReached("It gave no score: see `computes`.")
        return score

    @property
    def rows(self) -> np.ndarray:
        """The rows of its score.

        Raises:
            NotApplicable: it gives none.
        """
        if self.first.rows is None:
            raise NotApplicable("It gives no rows, so it has no interval.")
        return np.asarray(self.first.rows, dtype=np.float64)


# ---------------------------------------------------------------- what it declares


@check("target", "`target` is the model whose value is the goal: clean or compromised.")
def target(trial: MetricTrial) -> None:
    assert trial.cls.target in get_args(Target), f"The target is {trial.cls.target}, not clean or compromised."


@check("aspect", "`aspect` is what the verdict files it under, and `primary` is true or false.")
def aspect(trial: MetricTrial) -> None:
    known = get_args(Aspect)
    assert trial.cls.aspect in known, f"aspect = {trial.cls.aspect!r} is not one of: {', '.join(known)}."
    assert isinstance(trial.cls.primary, bool), f"primary = {trial.cls.primary!r}: give True or False."
    expected = "clean" if trial.cls.aspect == "forgetting" else "compromised"
    assert trial.cls.target == expected, (
        f"What looks at {trial.cls.aspect} has the target {expected}, not {trial.cls.target}."
    )


@check("bounds", "`bounds` are two finite numbers in order, and `chance` lies between them.")
def bounds(trial: MetricTrial) -> None:
    low, high = trial.cls.bounds
    assert math.isfinite(low) and math.isfinite(high) and low < high, f"bounds = {trial.cls.bounds}: give (lowest, highest)."
    assert low <= trial.cls.chance <= high, f"chance = {trial.cls.chance} is outside the bounds {trial.cls.bounds}."


@check("needs", "`needs` gives a view for every parameter of `compute`, and nothing more.")
def needs(trial: MetricTrial) -> None:
    asked = trial.new().needs()
    assert asked, "needs() names no view, so there is nothing to compute from."
    odd = [name for name, view in asked.items() if not isinstance(view, View) or view.side not in ("image", "text")]
    assert not odd, f"needs()['{odd[0]}'] is no View(split, 'image' or 'text')."
    parameters = [p for p in inspect.signature(trial.cls.compute).parameters.values() if p.name != "self"]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    taken = {p.name for p in parameters}
    required = {p.name for p in parameters if p.default is p.empty}
    assert set(asked) <= taken, f"needs() names {', '.join(sorted(set(asked) - taken))}, which compute does not take."
    assert required <= set(asked), f"compute takes {', '.join(sorted(required - set(asked)))}, which needs() does not name."


@check("measurable", "A benchmark with SALMUBench's splits has what it needs.")
def measurable(trial: MetricTrial) -> None:
    skipped = plan_evaluation([trial.new()], trial.toy).skipped if trial.needs else {}
    reason = skipped.get(trial.cls.name)
    assert reason is None, f"Not measurable on the toy benchmark: {reason}. Split names: {', '.join(trial.toy.splits())}."


# ---------------------------------------------------------------- what it gives


@check("computes", "`compute` returns a Score.")
def computes(trial: MetricTrial) -> None:
    _ = trial.views
    try:
        _ = trial.first
    except NotReached:
        raise AssertionError(f"compute failed on the toy benchmark: {type(trial.error).__name__}: {trial.error}") from None


@check("finite", "The value is a finite number.")
def finite(trial: MetricTrial) -> None:
    value = trial.first.value
    assert isinstance(value, int | float | np.floating), f"The value is a {type(value).__name__}: return float(...)."
    assert math.isfinite(value), f"The value is {value}: look for an empty mean or a division by zero."


@check("within-bounds", "The value lies within `bounds` on every model.")
def within_bounds(trial: MetricTrial) -> None:
    low, high = trial.cls.bounds
    generator = torch.Generator().manual_seed(0)
    _ = trial.first
    models: dict[str, Views] = {
        "Compromised": trial.views,
        "Clean": trial.views_of("clean"),
        "random embeddings": trial.changed(lambda v: torch.randn(v.shape, generator=generator)),
        "a collapsed model, all embeddings equal": trial.changed(torch.ones_like),
        "embeddings and their opposites": trial.changed(
            lambda v: torch.ones_like(v) * (-1.0) ** torch.arange(len(v))[:, None]
        ),
    }
    for what, views in models.items():
        try:
            value = trial.score(views).value
        except NotMeasurable:
            continue
        assert low - 1e-6 <= value <= high + 1e-6, (
            f"The value {value:.4f} on {what} is outside the declared bounds {trial.cls.bounds}."
        )


@check("mean-of-rows", "The value is the mean of the rows, which intervals and paired tests are made from.")
def mean_of_rows(trial: MetricTrial) -> None:
    rows = trial.rows
    assert rows.ndim == 1 and len(rows), f"rows has the shape {rows.shape}: give one number per row."
    assert np.isfinite(rows).all(), "Some rows are not finite: leave rows that do not count out, with their clusters."
    assert np.isclose(rows.mean(), trial.first.value, rtol=1e-5, atol=1e-6), (
        f"The value {trial.first.value:.6f} is not the mean of the rows, {rows.mean():.6f}."
    )


@check("clusters", "There is one cluster label per row.")
def clusters(trial: MetricTrial) -> None:
    labels = trial.first.clusters
    if labels is None:
        raise NotApplicable("It gives no clusters: rows count as independent.")
    assert len(labels) == len(trial.rows), f"There are {len(labels)} cluster labels and {len(trial.rows)} rows."


@check("interval", "Its 95 % interval can be made and encloses the value.")
def interval(trial: MetricTrial) -> None:
    labels = trial.first.clusters
    if labels is not None and len(labels) != len(trial.rows):
        raise NotReached("Clusters and rows do not fit: see `clusters`.")
    low, high, count = clustered_interval(trial.rows, labels, trial.cls.name)
    if count < 2:
        raise AssertionError(
            "All rows are in one cluster, so no interval can be made: give the identity (or class) of each row."
        )
    assert low - 1e-9 <= trial.first.value <= high + 1e-9, (
        f"The value {trial.first.value:.4f} is outside [{low:.4f}, {high:.4f}]."
    )


@check("companions", "`extras`, `details` and `chance` are numbers that a record can hold.")
def companions(trial: MetricTrial) -> None:
    score = trial.first
    odd = [name for name, value in score.extras.items() if not math.isfinite(float(value))]
    assert not odd, f"extras['{odd[0]}'] is not a finite number."
    for name, values in score.details.items():
        assert np.asarray(values).dtype.kind in "biuf", f"details['{name}'] is not an array of numbers."
    if score.chance is not None:
        assert trial.cls.bounds[0] <= score.chance <= trial.cls.bounds[1], f"chance = {score.chance} is outside the bounds."


@check("deterministic", "One model always has one value.")
def deterministic(trial: MetricTrial) -> None:
    _ = trial.first
    with fixed_randomness():
        second = trial.score(trial.views)
    assert second.value == trial.first.value, (
        f"Two evaluations of one model differ ({trial.first.value} and {second.value}): make the generator inside compute."
    )


add_process_checks(METRIC_CHECKS, "make a generator inside compute, from an option `seed`")


@check("inputs-unchanged", "The views are as they were: other metrics are given the same tensors.")
def inputs_unchanged(trial: MetricTrial) -> None:
    _ = trial.first
    for argument, view in trial.views.items():
        same = torch.equal(trial.left_behind[argument].vectors, view.vectors)
        assert same, f"The view '{argument}' was changed in place: work on a copy, other metrics are given the same tensors."


@check("views-only", "It computes from its views and reads no benchmark.")
def views_only(trial: MetricTrial) -> None:
    _ = trial.first
    assert not trial.read, f"compute reads {', '.join(trial.read)} from a benchmark: ask for a view in needs()."


@check("order", "The order of rows does not matter.")
def order(trial: MetricTrial) -> None:
    generator = np.random.default_rng(0)
    first = trial.first
    orders: dict[str, np.ndarray] = {}
    shuffled = {}
    for argument, view in trial.views.items():
        rows = orders.setdefault(trial.needs[argument].split, generator.permutation(len(view)))
        columns = {name: [values[row] for row in rows] for name, values in view.columns.items()}
        texts = None if view.texts is None else [view.texts[row] for row in rows]
        shuffled[argument] = Embedded(view.vectors[torch.from_numpy(rows)], columns, texts)
    value = trial.score(shuffled).value
    if np.isclose(value, first.value, rtol=1e-5, atol=1e-6):
        return
    if "seed" in trial.cls.Options.model_fields and first.rows is not None:
        low, high, _ = clustered_interval(trial.rows, first.clusters, trial.cls.name)
        assert low <= value <= high, (
            f"With rows in another order the value is {value:.4f}, outside the interval [{low:.4f}, {high:.4f}] of {first.value:.4f}:"
            " what is drawn may differ with the order, what is measured may not."
        )
        return
    raise AssertionError(
        f"With rows in another order the value is {value:.6f} instead of {first.value:.6f}: match rows by their columns, not by place;"
        " a metric that draws has an option `seed`."
    )


@check("empty-data", "Without rows it raises NotMeasurable, which is recorded, and not an error, which would be its fault.")
def empty_data(trial: MetricTrial) -> None:
    nothing = {
        argument: Embedded(view.vectors[:0], {name: [] for name in view.columns}, None if view.texts is None else [])
        for argument, view in trial.views.items()
    }
    try:
        score = trial.score(nothing)
    except NotMeasurable as reason:
        assert str(reason), "NotMeasurable has no reason: say what is missing."
        return
    except Exception as error:
        raise AssertionError(
            f"Without rows compute raises {type(error).__name__}: {error}. Raise NotMeasurable(reason)."
        ) from None
    raise AssertionError(f"Without rows compute gives {score.value}: raise NotMeasurable(reason) instead.")


@check("record", "An evaluation records it, and the record can be read back.")
def record(trial: MetricTrial) -> None:
    _ = trial.first
    found = evaluate_model(trial.toy.load_model("compromised"), trial.toy, [trial.new()]).whole()
    score = found.scores.get(trial.cls.name)
    assert score is not None, f"The evaluation skipped it: {found.skipped.get(trial.cls.name)}."
    assert ScoreRecord.model_validate_json(score.model_dump_json()) == score, (
        "The score is another after it was written and read."
    )


@check("card", "The package has a card that names the metric and each of its options.")
def card(trial: MetricTrial) -> None:
    check_names(trial)


def _copied(views: Views) -> dict[str, Embedded]:
    return {argument: Embedded(view.vectors.clone(), view.columns, view.texts) for argument, view in views.items()}
