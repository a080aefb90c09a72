"""How each method trades forgetting for what is kept: its curve over the option that drives it, and methods compared at equal forgetting.

    uv run python benchmarks/mini/experiments/curves.py --workers 2
    uv run python benchmarks/mini/experiments/curves_report.py

A method is driven by the first option of its search space, the learning rate for those that train, at `--points` values over its whole
range (rates up to that of pretraining). All other options are those of mini's presets, or the defaults. Every run is kept as it ends in
`benchmarks/mini/results/curves/instance-N.json`; the same command goes on with what is missing. The ends and every second value come
first, so a curve that is cut is a coarser whole one. `--minutes N` begins no run after N minutes; `--size tiny` tries this script and
keeps its results below `--out`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from head_to_head import forget_model, short
from planned import carry_out

from salmu_core.files.writing import write_json
from salmu_core.options import Between
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord
from salmu_core.runner.compare import MethodChoice
from salmu_core.runner.planned import PlannedRun, plan_comparison
from salmu_core.runner.run import Settings
from salmu_core.spec.resolve import make_benchmark
from salmu_tune.space import space_of

RESULTS = Path(__file__).parents[1] / "results" / "curves"
COMMAND = "uv run python benchmarks/mini/experiments/curves.py"


def driver(method: str, plugins: Plugins, largest_rate: float | None) -> tuple[str, Between] | None:
    """The option that drives a method, and its range; None for one that declares none."""
    space = space_of(plugins.get("method", method).cls, largest_rate)
    first = next(iter(space.items()), None)
    return None if first is None or not isinstance(first[1], Between) else (first[0], first[1])


def values_of(span: Between, points: int) -> list[float]:
    """Values over a range, its ends included, with two digits: evenly spaced, by their logarithms where the range says so."""
    shares = [number / (points - 1) for number in range(points)]
    if span.log:
        low, high = math.log(span.low), math.log(span.high)
        found = [math.exp(low + share * (high - low)) for share in shares]
    else:
        found = [span.low + share * (span.high - span.low) for share in shares]
    rounded = [float(f"{value:.2g}") for value in found]
    return [min(max(value, span.low), span.high) for value in rounded]


def coarse_first(points: int) -> list[int]:
    """Positions in the order in which they are run: every second one, then those between."""
    return [*range(0, points, 2), *range(1, points, 2)]


def read_stored(path: Path) -> dict[str, Any]:
    """What is kept of an instance."""
    if not path.is_file():
        return {"command": COMMAND, "references": {}, "reference_ids": {}, "runs": []}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def keep(path: Path, instance: int, record: RunRecord, option: str = "", value: float = 0.0) -> None:
    """Add a finished run in the place of an earlier one of the same method and value."""
    stored = {**read_stored(path), "instance": instance}
    if record.spec.method == "none":
        stored["references"][record.spec.start] = {
            name: {**score.model_dump(mode="json"), "summary": ""} for name, score in record.scores.items()
        }
        stored["reference_ids"][record.spec.start] = record.id
    else:
        place = (record.spec.method, record.spec.budget, value)
        others = [run for run in stored["runs"] if (run["method"], run["budget"], run["value"]) != place]
        added = {**short(record), "option": option, "value": value}
        stored["runs"] = sorted([*others, added], key=lambda run: (run["method"], run["budget"], run["value"]))
    write_json(path, stored)


@click.command()
@click.option("--instances", default="0", show_default=True, help="Benchmark seeds.")
@click.option("--budget", default=1.0, show_default=True)
@click.option("--methods", default="", help="Comma-separated; default: all that declare an option that drives them.")
@click.option("--points", default=7, show_default=True, help="Values of each option.")
@click.option("--workers", default=2, show_default=True)
@click.option("--minutes", type=float, help="Begin no run after so many; the same command goes on.")
@click.option("--size", default="mini", show_default=True, help="Of mini.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/curves"), help="Run directories.")
@click.option("--dry-run", is_flag=True, help="Say how many runs are missing.")
def main(
    instances: str, budget: float, methods: str, points: int, workers: int, minutes: float | None, size: str, out: Path, dry_run: bool
) -> None:  # fmt: skip
    """Run what is missing and keep it."""
    plugins, settings = load_plugins(), Settings(cpu=True)
    results = RESULTS if size == "mini" else out / "stored"
    tasks: list[tuple[int, int, PlannedRun, str, float]] = []
    for instance in map(int, instances.split(",")):
        options = {"seed": instance, **({} if size == "mini" else {"size": size})}
        benchmark = make_benchmark("mini", options, plugins, settings.cache_folder)
        chosen = methods.split(",") if methods else sorted(plugins.methods)
        driven = {
            name: found for name in chosen if (found := driver(name, plugins, benchmark.pretraining_rate())) is not None
        }
        given = {
            (name, number): (option, value)
            for name, (option, span) in driven.items()
            for number, value in enumerate(values_of(span, points))
        }
        choices = [MethodChoice(name, {option: value}) for (name, _), (option, value) in given.items()]
        stored = read_stored(results / f"instance-{instance}.json")
        have = {run["id"] for run in stored["runs"]} | set(stored["reference_ids"].values())
        order = {number: place for place, number in enumerate(coarse_first(points))}
        for item in plan_comparison(
            choices, benchmark_options=options, budgets=[budget], out=out / f"instance-{instance}", settings=settings, plugins=plugins
        ):  # fmt: skip
            if item.resolved.id in have:
                continue
            name = item.resolved.spec.method
            if name == "none":
                tasks.append((instance, -1, item, "", 0.0))
                continue
            option = driven[name][0]
            value = float(item.resolved.options[option])
            number = next(n for (known, n), (_, v) in given.items() if known == name and v == value)
            tasks.append((instance, order[number], item, option, value))
        if not dry_run:
            benchmark.build()
    tasks.sort(key=lambda task: task[:2])
    print(f"{len(tasks)} runs are missing.", flush=True)
    if dry_run or not tasks:
        return
    about: dict[Path, tuple[int, str, float]] = {
        item.folder: (instance, option, value) for instance, _, item, option, value in tasks
    }

    def keep_run(item: PlannedRun, record: RunRecord) -> None:
        instance, option, value = about[item.folder]
        keep(results / f"instance-{instance}.json", instance, record, option, value)
        forget_model(item)

    carry_out([task[2] for task in tasks], settings, workers, keep_run, minutes)


def every_stored(folder: Path = RESULTS) -> Sequence[dict[str, Any]]:
    """What is kept of every instance."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("instance-*.json"))]


if __name__ == "__main__":
    main()
