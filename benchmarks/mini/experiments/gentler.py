"""The paper's baselines with gentler settings than their presets: is a disagreement the benchmark's, or the settings'?

    uv run python benchmarks/mini/experiments/gentler.py --workers 2

`salmu tune` chooses settings that forget. Here those that read otherwise than in SALMUBench's table take smaller steps, and
generic-captions runs without the hard negative that tuning switched on. One instance, one training seed, the paper's budget. Each
finished run is kept in `benchmarks/mini/results/gentler.json`; the same command goes on with what is missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from head_to_head import short

from salmu_core import hookimpl
from salmu_core.files import write_json
from salmu_core.plugins import load_plugins
from salmu_core.records.schema import RunRecord
from salmu_core.runner.compare import MethodChoice, plan_comparison
from salmu_core.runner.run import Settings
from salmu_core.runner.workers import run_in_workers

STORED = Path(__file__).parents[1] / "results" / "gentler.json"
COMMAND = "uv run python benchmarks/mini/experiments/gentler.py --cpu"
INSTANCE, SEED, BUDGET = 0, 0, 5.0
#: Options beside the defaults; presets are left out.
GRID: dict[str, list[dict[str, Any]]] = {
    "generic-captions": [{"lr": lr} for lr in (1e-5, 1e-4, 1e-3)]
    + [{"lr": lr, "retain_weight": 1.0} for lr in (1e-5, 1e-4, 3e-4)],
    "retain-finetuning": [{"lr": lr} for lr in (3e-4, 1e-3, 3e-3)],
    "gradient-ascent": [{"lr": lr} for lr in (1e-6, 3e-6, 1e-5)],
    "gradient-ascent-retain": [{"lr": lr} for lr in (1e-5, 3e-5)],
    "multidelete": [{"lr": lr} for lr in (1e-4, 3e-4)],
}


def read_gentler() -> list[dict[str, Any]]:
    """The runs that are kept; `given` holds their options beside the defaults."""
    if not STORED.is_file():
        return []
    runs: list[dict[str, Any]] = json.loads(STORED.read_text(encoding="utf-8"))["runs"]
    return runs


class _Keeper:
    """Keeps each run as it is done."""

    def __init__(self, given: dict[str, dict[str, Any]]) -> None:
        self._given = given

    @hookimpl
    def run_finished(self, record: RunRecord) -> None:
        """A run is done."""
        run = {**short(record), "given": self._given[record.id]}
        kept = [other for other in read_gentler() if (other["method"], other["given"]) != (run["method"], run["given"])]
        order = list(GRID)
        kept = sorted([*kept, run], key=lambda one: (order.index(one["method"]), GRID[one["method"]].index(one["given"])))
        write_json(STORED, {"command": COMMAND, "instance": INSTANCE, "training seed": SEED, "budget": BUDGET, "runs": kept})
        print(f"{record.spec.method} {run['given']}: {record.status}", flush=True)


@click.command()
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/gentler"), help="Run directories.")
@click.option("--cpu", is_flag=True)
def main(workers: int, out: Path, cpu: bool) -> None:
    """Run what is missing and keep it."""
    plugins, settings = load_plugins(), Settings(cpu=cpu)
    choices = [MethodChoice(method, options) for method, several in GRID.items() for options in several]
    planned = plan_comparison(
        choices, benchmark="mini", benchmark_options={"seed": INSTANCE}, seeds=[SEED], budgets=[BUDGET], preset="none", out=out,
        settings=settings, plugins=plugins,
    )  # fmt: skip
    planned[0].resolved.benchmark.build()
    runs = [item for item in planned if item.resolved.spec.method != "none"]
    given = {item.resolved.id: dict(choice.options) for item, choice in zip(runs, choices, strict=True)}
    have = {run["id"] for run in read_gentler()}
    missing = [(item.resolved, item.folder) for item in runs if item.resolved.id not in have]
    print(f"{len(missing)} runs are missing.", flush=True)
    if missing:
        plugins.watch(_Keeper(given))
        run_in_workers(missing, settings, plugins, workers, threads=1)


if __name__ == "__main__":
    main()
