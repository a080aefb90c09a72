"""Every installed method on three instances of `mini`, three training seeds, budgets 1x and 5x: one restartable command.

    uv run python benchmarks/mini/experiments/head_to_head.py --workers 2

Options come from `benchmarks/mini/results/presets` (`tune_all.py`); a budget at which a method was not searched leaves that method out,
unless `--methods` names it: tuned beside untuned would be no comparison. Each finished run is kept in `benchmarks/mini/results/head_to_head/instance-N.json`
at once, under the run's identity; the same command, also on another machine, goes on with what is missing, and makes a run again when
a method, its options or versions changed, or where the pair of that seed has other weights. Tables and pictures are made from these files by `head_to_head_report.py`. Models of the first
training seed at 1x stay in the run directories, where `attacks.py` finds them; all others would be gigabytes.

Workers are processes of one thread each: on a CPU, that is more runs per hour than one process with all threads. `--minutes N` begins no
run after N minutes. `--size tiny` tries this script in a few minutes and keeps its results below `--out`, not in the repository.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from planned import carry_out

from salmu_core.benchmark import Benchmark
from salmu_core.files.writing import write_json
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord, Target
from salmu_core.runner.planned import PlannedRun, plan_comparison
from salmu_core.runner.run import Settings
from salmu_core.spec.presets import preset_file

RESULTS = Path(__file__).parents[1] / "results" / "head_to_head"
PRESETS = RESULTS.parent / "presets"
COMMAND = "uv run python benchmarks/mini/experiments/head_to_head.py"


def stored_path(instance: int, results: Path | None = None) -> Path:
    """Where the results of an instance are kept: below `results`, or in the repository."""
    return (results or RESULTS) / f"instance-{instance}.json"


def read_stored(instance: int, results: Path | None = None) -> dict[str, Any]:
    """What is kept of an instance."""
    path = stored_path(instance, results)
    if not path.is_file():
        return {"command": COMMAND, "instance": instance, "references": {}, "runs": []}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def every_stored(folder: Path | None = None) -> list[dict[str, Any]]:
    """What is kept of every instance.

    Args:
        folder: instead of the results of this version of mini.
    """
    paths = sorted((folder or RESULTS).glob("instance-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def short(record: RunRecord) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "id": record.id,
        "method": record.spec.method,
        "package": None if record.provenance.method_package is None else record.provenance.method_package.model_dump(),
        "seed": record.spec.seed,
        "budget": record.spec.budget,
        "options": record.spec.method_options,
        "status": record.status,
        "error": (record.error or "").splitlines()[0] if record.error else None,
        "scores": {name: round(score.value, 6) for name, score in record.scores.items()},
        "weight_change": record.weight_change,
        "seconds": round(record.cost.seconds.get("unlearn", 0.0), 2),
        "samples": record.cost.samples,
        "trainable_parameters": record.cost.trainable_parameters,
        "device": record.provenance.device,
        "start": start_of(record),
    }


def start_of(record: RunRecord) -> str:
    """Fingerprint of the weights that a run started from: an instance that another machine built has other weights than one of the same
    seed built here, and runs on the two say nothing about each other."""
    return " ".join(record.provenance.start_fingerprint.values())


def keep(instance: int, record: RunRecord, results: Path | None = None) -> None:
    """Add a finished run in the place of an earlier one of the same method, budget and seed. Runs on another pair go."""
    stored = read_stored(instance, results)
    if record.spec.method == "none":
        stored["references"][record.spec.start] = {
            name: {**score.model_dump(mode="json"), "summary": ""} for name, score in record.scores.items()
        }
        stored.setdefault("reference_ids", {})[record.spec.start] = record.id
        stored.setdefault("reference_starts", {})[record.spec.start] = start_of(record)
        stored["packages"] = record.provenance.packages
    else:
        place = (record.spec.method, record.spec.budget, record.spec.seed)
        others = [
            run
            for run in stored["runs"]
            if (run["method"], run["budget"], run["seed"]) != place and run.get("start") == start_of(record)
        ]
        stored["runs"] = sorted([*others, short(record)], key=lambda run: (run["method"], run["budget"], run["seed"]))
    write_json(stored_path(instance, results), stored)


def forget_model(planned: PlannedRun) -> None:
    """Remove the weights of a kept run, but for those that attacks are made on."""
    spec = planned.resolved.spec
    shutil.rmtree(planned.folder / "checkpoints", ignore_errors=True)
    if spec.method != "none" and (spec.budget, spec.seed) != (1.0, 0):
        (planned.folder / "model.safetensors").unlink(missing_ok=True)


def searched_at(budget: float, plugins: Plugins) -> list[str]:
    """Methods that were searched at a budget, and those that have nothing to search, which need no preset."""
    return [
        name
        for name, entry in plugins.methods.items()
        if not entry.cls.search or (PRESETS / preset_file(name, budget)).is_file()
    ]


def starts_of(benchmark: Benchmark) -> dict[str, str]:
    """Fingerprints of the pair that stands here; empty where it is not built yet."""
    if not benchmark.ready():
        return {}
    models: tuple[Target, Target] = ("clean", "compromised")
    return {which: " ".join(benchmark.load_model(which).fingerprint().values()) for which in models}


def missing(planned: Sequence[PlannedRun], stored: dict[str, Any], starts: Mapping[str, str]) -> list[int]:
    """Positions of the runs that are not kept yet, on the pair that has these fingerprints."""
    have = {run["id"] for run in stored["runs"] if run.get("start") == starts.get("compromised", "")}
    kept = stored.get("reference_starts", {})
    have |= {of for which, of in stored.get("reference_ids", {}).items() if kept.get(which) == starts.get(which, "")}
    return [position for position, item in enumerate(planned) if item.resolved.id not in have]


@click.command()
@click.option("--instances", default="0,1,2", show_default=True, help="Benchmark seeds.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Training seeds.")
@click.option("--budgets", default="1,5", show_default=True)
@click.option("--methods", default="", help="Comma-separated; default: all that are installed.")
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/head-to-head"), help="Run directories.")
@click.option("--size", default="mini", show_default=True, help="Of mini.")
@click.option("--minutes", type=float, help="Begin no run after so many; the same command goes on.")
@click.option("--dry-run", is_flag=True, help="Say how many runs are missing.")
@click.option("--cpu", is_flag=True)
def main(
    instances: str,
    seeds: str,
    budgets: str,
    methods: str,
    workers: int,
    out: Path,
    size: str,
    minutes: float | None,
    dry_run: bool,
    cpu: bool,
) -> None:
    """Run what is missing and keep it."""
    plugins, settings = load_plugins(), Settings(cpu=cpu)
    results = RESULTS if size == "mini" else out / "stored"
    tasks: list[tuple[tuple[float, int, int], PlannedRun]] = []
    for instance, budget in itertools.product(map(int, instances.split(",")), map(float, budgets.split(","))):
        planned = plan_comparison(
            methods.split(",") if methods else searched_at(budget, plugins),
            benchmark="mini",
            benchmark_options={"seed": instance, **({} if size == "mini" else {"size": size})},
            seeds=[int(seed) for seed in seeds.split(",")],
            budgets=[budget],
            preset=str(PRESETS),
            out=out / f"instance-{instance}",
            settings=settings,
            plugins=plugins,
        )
        made = planned[0].resolved.benchmark
        if not dry_run:
            made.build()
        for position in missing(planned, read_stored(instance, results), starts_of(made)):
            spec = planned[position].resolved.spec
            tasks.append(((0.0 if spec.method == "none" else spec.budget, spec.seed, instance), planned[position]))
    # References first, then budget by budget and seed by seed: a matrix that is cut is a smaller whole one.
    ordered = [item for _, item in sorted(tasks, key=lambda task: task[0])]
    runs = list({item.resolved.id: item for item in ordered}.values())  # both budgets have the same references
    print(f"{len(runs)} runs are missing.", flush=True)
    if dry_run or not runs:
        return

    def keep_run(item: PlannedRun, record: RunRecord) -> None:
        keep(int(record.spec.benchmark_options["seed"]), record, results)
        forget_model(item)

    carry_out(runs, settings, workers, keep_run, minutes)


if __name__ == "__main__":
    main()
