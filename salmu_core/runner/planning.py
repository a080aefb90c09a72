"""What runs would do and take, without doing them: `salmu run --dry-run`, `salmu compare --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salmu_core.data.processes import process_count
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.files.writing import check_writable
from salmu_core.method import FitOptions
from salmu_core.plugins.loading import Plugins
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import disk_for_training
from salmu_core.runner.memory import ModelCost, model_cost, training_bytes
from salmu_core.runner.run import Settings, finished_record, steps_within_budget
from salmu_core.spec.resolve import Resolved, make_metrics


@dataclass(frozen=True)
class RunPlan:
    """A validated run and its cost as far as it can be known before it starts.

    `memory_bytes` is an estimate for one device; `disk_bytes` is the most while the run goes on, `kept_bytes` what stays.
    """

    title: str
    id: str
    folder: str
    done: bool
    options: dict[str, Any]
    sees: tuple[str, ...]
    benchmark_built: bool
    rows: dict[str, int]
    allowed: dict[str, int]
    most_steps: int | None
    samples: dict[str, int]
    metrics: list[str]
    skipped: dict[str, str]
    memory_bytes: int | None
    disk_bytes: int | None
    kept_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        steps = "decided by the method" if self.most_steps is None else f"at most {self.most_steps}"
        sees = ", ".join(f"{role} {count}" for role, count in self.samples.items())
        later = "known once the benchmark is built"
        rows = ", ".join(f"{role} {count}" for role, count in self.rows.items())
        allowed = ", ".join(f"{role} {self.allowed[role]}" for role in self.sees if role in self.allowed) or "none"
        return [
            ("run", f"{self.title} ({self.id})"),
            ("directory", self.folder + (", finished before" if self.done else "")),
            ("options", ", ".join(f"{name}={value}" for name, value in self.options.items()) or "none"),
            ("benchmark", "built" if self.benchmark_built else "to be built first"),
            ("rows", rows or later),
            ("samples it may see", allowed if self.benchmark_built else later),
            ("optimiser steps", steps if self.benchmark_built else later),
            *([("samples in those steps", sees)] if sees else []),
            *([("memory", f"about {_gigabytes(self.memory_bytes)} per device (an estimate)")] if self.memory_bytes else []),
            ("disk", later if self.disk_bytes is None else f"{_gigabytes(self.disk_bytes)} while it runs"),
            *([("disk kept", _gigabytes(self.kept_bytes))] if self.kept_bytes is not None else []),
            ("metrics", ", ".join(self.metrics)),
            *((f"not measured: {name}", reason) for name, reason in self.skipped.items()),
        ]


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def plan_run(
    resolved: Resolved, folder: Path, settings: Settings, plugins: Plugins, cost: ModelCost | None = None
) -> RunPlan:
    """Check names, options, output place and metrics, and say what the run would take. Builds and trains nothing.

    Args:
        cost: of the benchmark's model, when it is known already.

    Raises:
        OutputError: the place cannot be written.
        BudgetExceeded: the budget does not hold the run.
    """
    check_writable(folder.parent if not folder.exists() else folder)
    benchmark = resolved.benchmark
    evaluation = plan_evaluation(make_metrics(plugins, settings.metric_options, benchmark, resolved.spec), benchmark)
    method = resolved.new_method()
    rows: dict[str, int] = {}
    allowed: dict[str, int] = {}
    samples: dict[str, int] = {}
    steps = memory = disk = kept = None
    if benchmark.ready():
        cost = cost or model_cost(benchmark.load_model("compromised"))
        rows = {role: len(benchmark.split_for(role)) for role in method.reads()}
        allowed = benchmark.budget().times(resolved.spec.budget)
        kept = cost.weights if method.reads() else 0
        disk = kept
        steps = steps_within_budget(resolved, plugins)
        if isinstance(method.options, FitOptions) and rows:
            sizes = SampleMeter(allowed, method.name).batch_sizes(method.options, rows)
            samples = {} if steps is None else {role: steps * size for role, size in sizes.items()}
            memory = training_bytes(cost, method.options, rows, resolved.spec.precision, settings, process_count())
            disk = disk_for_training(cost.weights)
    return RunPlan(
        title=resolved.title,
        id=resolved.id,
        folder=str(folder),
        done=finished_record(folder, resolved) is not None,
        options=resolved.options,
        sees=method.reads(),
        benchmark_built=benchmark.ready(),
        rows=rows,
        allowed=allowed,
        most_steps=steps,
        samples=samples,
        metrics=[metric.name for metric in evaluation.metrics],
        skipped=dict(evaluation.skipped),
        memory_bytes=memory,
        disk_bytes=disk,
        kept_bytes=kept,
    )


def plan_runs(runs: Sequence[tuple[Resolved, Path]], settings: Settings, plugins: Plugins) -> list[RunPlan]:
    """`plan_run` for the runs of a comparison; a benchmark's model is looked at once."""
    costs: dict[int, ModelCost] = {}
    plans = []
    for resolved, folder in runs:
        benchmark = resolved.benchmark
        if benchmark.ready() and id(benchmark) not in costs:
            costs[id(benchmark)] = model_cost(benchmark.load_model("compromised"))
        plans.append(plan_run(resolved, folder, settings, plugins, costs.get(id(benchmark))))
    return plans
