"""Tune every method of the zoo on two instances of `mini` that no table shows, for both budgets: one restartable command.

    uv run python benchmarks/mini/experiments/tune_all.py --workers 2

Each (method, budget) is one `salmu tune`: 12 trials on the instances 3 and 4, stopped early where they are hopeless, the same for all.
Its preset, which holds all trials, is written to `benchmarks/mini/results/presets` as soon as its search ends, so results can be
committed as they come. Once every method has been searched at a budget, that budget's presets are copied into the package `salmu-mini`:
a comparison in which some methods are tuned and others are not would be none. The same command goes on where it was cut: finished searches are skipped, finished trials are read back.
`--minutes N` ends after the trials that run at that time. Quick methods come first, and 1x before 5x.

Workers are processes of one thread each: on a CPU, that is more trials per hour than one process with all threads.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch

from salmu_core.files.writing import write_text
from salmu_core.method import LossMethod
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.runner.run import Settings
from salmu_core.spec.presets import preset_file
from salmu_tune.rule import RULE
from salmu_tune.search import Trial, make_grounds, tune

PRESETS = Path(__file__).parents[1] / "results" / "presets"
SHIPPED = Path(__file__).parents[1] / "salmu_mini" / "presets"
COMMAND = "uv run python benchmarks/mini/experiments/tune_all.py"
Task = tuple[str, float]


class Late(Exception):
    """Not an error: the time that was given is over."""


@cache
def installed() -> Plugins:
    """The installed plugins, looked for once."""
    return load_plugins()


def is_done(method: str, budget: float, trials: int, instances: Sequence[int], presets: Path = PRESETS) -> bool:
    """Is there a preset of this very search, by the package's present version and today's rule?"""
    path = presets / preset_file(method, budget)
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    entry = installed().get("method", method)
    same = len(found.get("trials", ())) == trials and found.get("instances") == list(instances) and found.get("rule") == RULE
    names = (entry.package.name, entry.cls.former_package)  # a method that moved is the same method
    return same and entry.package.version in [found["packages"].get(name) for name in names]


def in_order(methods: Sequence[str], budgets: Sequence[float]) -> list[Task]:
    """Methods that train no loss are quick and hardly depend on the budget; then those that see one split; then the others."""
    entries = installed().methods

    def costly(name: str) -> tuple[bool, int]:
        cls = entries[name].cls
        return issubclass(cls, LossMethod), len(cls.data)

    return [(name, budget) for budget in sorted(budgets) for name in sorted(methods, key=lambda name: (*costly(name), name))]


def _work(task: Task, arguments: dict[str, Any], deadline: float | None) -> tuple[Task, float, int]:
    """One search, in a worker. Returns its seconds and the trials that ran on every instance."""
    torch.set_num_threads(1)
    started = time.monotonic()

    def show(method: str, number: int, of: int, trial: Trial) -> None:
        given = " ".join(f"{name}={value}" for name, value in trial.options.items()) or "defaults"
        print(
            f"  {method} {number}/{of}: {given} -> {trial.value:.3f} ({trial.verdict}, {sum(trial.seconds):.0f} s)",
            flush=True,
        )
        if deadline is not None and time.time() > deadline and number < of:
            raise Late

    [found] = tune([task[0]], budgets=[task[1]], show=show, **arguments)
    target = PRESETS / found.preset.name if arguments["benchmark_options"] == {} else None
    if target is not None:
        write_text(target, found.preset.read_text(encoding="utf-8"))
    return task, time.monotonic() - started, sum(not trial.stopped for trial in found.trials)


def ship(
    budgets: Sequence[float], trials: int, instances: Sequence[int], found: Path = PRESETS, target: Path = SHIPPED
) -> None:
    """Copy the presets of each budget at which every method that declares a search space was searched."""
    searched = [name for name, entry in installed().methods.items() if entry.cls.search]
    for budget in budgets:
        if all(is_done(name, budget, trials, instances, found) for name in searched):
            for name in searched:
                file = preset_file(name, budget)
                write_text(target / file, (found / file).read_text(encoding="utf-8"))
            print(f"All {len(searched)} methods are tuned at {budget:g}x: their presets are in {target}.", flush=True)


@click.command()
@click.option("--instances", default="3,4", show_default=True, help="Benchmark seeds; no table shows these.")
@click.option("--budgets", default="1,5", show_default=True)
@click.option("--methods", default="", help="Comma-separated; default: all that declare a search space.")
@click.option("--trials", default=12, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--minutes", type=float, help="Stop after so many; the same command goes on.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/tune-all"), help="Trials.")
@click.option(
    "--size", default="", help="Of mini: 'tiny' tries this script in minutes and writes no presets into the package."
)
@click.option("--dry-run", is_flag=True, help="List the searches that are missing.")
def main(
    instances: str,
    budgets: str,
    methods: str,
    trials: int,
    workers: int,
    minutes: float | None,
    out: Path,
    size: str,
    dry_run: bool,
) -> None:
    """Run the searches that are missing, and keep each as it ends."""
    plugins, settings = installed(), Settings(cpu=True)
    seeds, wanted = [int(seed) for seed in instances.split(",")], [float(budget) for budget in budgets.split(",")]
    chosen = methods.split(",") if methods else [name for name, entry in plugins.methods.items() if entry.cls.search]
    every = in_order(chosen, wanted)
    tasks = [task for task in every if size or not is_done(*task, trials, seeds)]
    print(
        f"{len(tasks)} of {len(every)} searches are missing, {trials} trials each on the instances {instances}.", flush=True
    )
    if dry_run or not tasks:
        for method, budget in tasks:
            print(f"{method} {budget:g}x")
        if not (dry_run or size):
            ship(wanted, trials, seeds)
        return
    started = time.monotonic()
    deadline = None if minutes is None else time.time() + 60 * minutes
    arguments: dict[str, Any] = {
        "benchmark_options": {"size": size} if size else {},
        "bench_seeds": seeds,
        "trials": trials,
        "out": out,
        "settings": settings,
        "command": COMMAND,
    }
    # Instances are built and references run once, before workers would do it twice.
    for ground in make_grounds("mini", arguments["benchmark_options"], seeds, 0, "no", out, settings, plugins):
        print(f"GenKnow's stand-in, of Compromised: {ground.compromised['GenKnow'].value:.3f}", flush=True)
    ready, busy, done = time.monotonic(), 0.0, 0
    weights = {task: task[1] for task in tasks}  # a search costs about as much as its budget
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(_work, task, arguments, deadline): task for task in tasks}
        for future in as_completed(waiting):
            task = waiting[future]
            try:
                _, seconds, whole = future.result()
            except Late:
                pool.shutdown(wait=False, cancel_futures=True)
                continue
            except Exception as error:  # one method's failure must not end the others' searches
                if not future.cancelled():
                    print(f"{task[0]} {task[1]:g}x failed: {type(error).__name__}: {error}", flush=True)
                continue
            finally:
                share = weights.pop(task)
            busy, done = busy + seconds, done + 1
            _tell(task, seconds, whole, time.monotonic() - ready, share, sum(weights.values()), trials)
            if deadline is not None and time.time() > deadline:
                pool.shutdown(wait=False, cancel_futures=True)
    print(
        f"{done} searches in {(time.monotonic() - started) / 60:.0f} minutes, {busy / 3600:.2f} core hours; {len(tasks) - done} are"
        " missing, the same command goes on.",
        flush=True,
    )
    if not size:
        ship(wanted, trials, seeds)


_finished: list[float] = []


def _tell(task: Task, seconds: float, whole: int, elapsed: float, share: float, left: float, trials: int) -> None:
    """A finished search, and the time left at the pace so far."""
    _finished.append(share)
    minutes = elapsed / sum(_finished) * left / 60
    print(
        f"{task[0]} {task[1]:g}x: {seconds:.0f} s, {whole} of {trials} trials on every instance; about {minutes:.0f} minutes left",
        flush=True,
    )


if __name__ == "__main__":
    main()
