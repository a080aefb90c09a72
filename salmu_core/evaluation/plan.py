"""Which metrics a benchmark supports, and which views they need: decided before a model is loaded."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from salmu_core.benchmark import Benchmark
from salmu_core.data.pairs import View
from salmu_core.metric import Metric
from salmu_core.plugins.calls import Warn, asked


@dataclass(frozen=True)
class EvaluationPlan:
    """Metrics to compute with their views, and metrics that this benchmark cannot support with the reason."""

    metrics: tuple[Metric, ...]
    views: Mapping[str, Mapping[str, View]]  # metric -> argument -> view
    skipped: Mapping[str, str]
    broken: Mapping[str, str] = field(default_factory=dict)  # metric -> what went wrong when it was asked for its views

    def all_views(self) -> list[View]:
        """Every view that some metric needs, once."""
        return list(dict.fromkeys(view for views in self.views.values() for view in views.values()))


def plan_evaluation(
    metrics: Iterable[Metric], benchmark: Benchmark, *, read: bool = False, warn: Warn = lambda sentence: None
) -> EvaluationPlan:
    """Match what metrics need with what the benchmark has.

    Args:
        read: the benchmark is built: read the splits whose columns are not known before, for templates that name columns.
        warn: told what a metric changed in the process when it was asked.
    """
    known = benchmark.splits()
    usable: list[Metric] = []
    views: dict[str, Mapping[str, View]] = {}
    skipped: dict[str, str] = {}
    broken: dict[str, str] = {}
    for metric in metrics:
        try:
            with asked(f"The metric {metric.name}", warn):
                needs = {str(argument): _view(view) for argument, view in metric.needs().items()}
        except Exception as error:  # the plugin's own code
            broken[metric.name] = f"needs() raised {type(error).__name__}: {error}"
            continue
        reasons = []
        for view in needs.values():
            if view.split not in known:
                reasons.append(f"{benchmark.name} has no split '{view.split}'")
            elif view.side not in known[view.split].sides and view.template is None:
                reasons.append(f"the split '{view.split}' of {benchmark.name} has no {view.side}s")
            elif view.template is not None:
                columns = known[view.split].columns
                if columns is None and read:
                    columns = frozenset(benchmark.split(view.split).columns)
                if columns is None:
                    continue
                named = sorted({name for _, name, _, _ in string.Formatter().parse(view.template) if name})
                absent = [name for name in named if name not in columns]
                if absent:
                    reasons.append(f"the split '{view.split}' of {benchmark.name} has no column {', '.join(absent)}")
        if reasons:
            skipped[metric.name] = "; ".join(dict.fromkeys(reasons))
        else:
            usable.append(metric)
            views[metric.name] = needs
    return EvaluationPlan(tuple(usable), views, skipped, broken)


def _view(view: object) -> View:
    if not isinstance(view, View):
        raise TypeError(f"{view!r} is not a View")
    return view
