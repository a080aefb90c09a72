"""What a run would do and take, without doing it: `salmu run --dry-run`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.files import check_writable
from salmu_core.method import FitOptions
from salmu_core.plugins import Plugins
from salmu_core.runner.resolve import Resolved, make_metrics
from salmu_core.runner.run import Settings, finished_record


@dataclass(frozen=True)
class RunPlan:
    """A validated run and its cost as far as it can be known before it starts."""

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
    metrics: list[str]
    skipped: dict[str, str]
    disk_bytes: int | None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return dict(vars(self))

    def lines(self) -> list[tuple[str, str]]:
        """For people."""
        steps = "decided by the method" if self.most_steps is None else f"at most {self.most_steps}"
        rows = ", ".join(f"{role} {count}" for role, count in self.rows.items())
        allowed = ", ".join(f"{role} {self.allowed[role]}" for role in self.sees if role in self.allowed) or "none"
        return [
            ("run", f"{self.title} ({self.id})"),
            ("directory", self.folder + (", finished before" if self.done else "")),
            ("options", ", ".join(f"{name}={value}" for name, value in self.options.items()) or "none"),
            ("benchmark", "built" if self.benchmark_built else "to be built first"),
            ("rows", rows or "known once the benchmark is built"),
            ("samples it may see", allowed if self.benchmark_built else "known once the benchmark is built"),
            ("optimiser steps", steps if self.benchmark_built else "known once the benchmark is built"),
            (
                "disk",
                "known once the benchmark is built" if self.disk_bytes is None else f"{self.disk_bytes / 1e6:.0f} MB",
            ),
            ("metrics", ", ".join(self.metrics)),
            *((f"not measured: {name}", reason) for name, reason in self.skipped.items()),
        ]


def plan_run(resolved: Resolved, folder: Path, settings: Settings, plugins: Plugins) -> RunPlan:
    """Check names, options, output place and metrics, and say what the run would take. Builds and trains nothing.

    Raises:
        OutputError: the place cannot be written.
    """
    check_writable(folder.parent if not folder.exists() else folder)
    benchmark = resolved.benchmark
    evaluation = plan_evaluation(make_metrics(plugins, settings.metric_options), benchmark)
    method = resolved.new_method()
    rows: dict[str, int] = {}
    allowed: dict[str, int] = {}
    steps = disk = None
    if benchmark.ready():
        rows = {role: len(benchmark.split_for(role)) for role in method.data}
        allowed = benchmark.budget().times(resolved.spec.budget)
        if isinstance(method.options, FitOptions) and rows:
            sizes = {role: min(method.options.batch_size, count) for role, count in rows.items()}
            steps = min(allowed[role] // size for role, size in sizes.items())
            if method.options.epochs is not None:
                first = next(iter(rows))
                steps = min(steps, int(method.options.epochs * rows[first] / sizes[first]))
        parameters = sum(parameter.numel() for parameter in benchmark.load_model("compromised").parameters())
        disk = parameters * 4 * 4  # the model, and weights with two moments while it trains
    return RunPlan(
        title=resolved.title,
        id=resolved.id,
        folder=str(folder),
        done=finished_record(folder, resolved) is not None,
        options=resolved.options,
        sees=tuple(method.data),
        benchmark_built=benchmark.ready(),
        rows=rows,
        allowed=allowed,
        most_steps=steps,
        metrics=[metric.name for metric in evaluation.metrics],
        skipped=dict(evaluation.skipped),
        disk_bytes=disk,
    )
