"""`salmu tune`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from salmu_core.cli.arguments import (
    benchmark_choice,
    benchmark_options,
    complete_names,
    isolation_settings,
    make_settings,
    parse_numbers,
    run_settings,
)

_EXAMPLES = """\b
Examples:
  salmu tune gradient-ascent delete --trials 12
  salmu tune --all --bench-seeds 3,4 --budget 1,5
  salmu compare --budget 1,5 --preset results/mini-seeds-3-4/tune/presets
"""


@click.command("tune", epilog=_EXAMPLES)
@click.argument("methods", nargs=-1, shell_complete=complete_names("method"))
@click.option("--all", "every", is_flag=True, help="Every installed method that declares a search space.")
@benchmark_choice
@click.option(
    "--bench-seeds",
    metavar="N,N,...",
    help="Instances of a seeded benchmark: a trial runs on each in turn, and is stopped where it is hopeless.",
)
@click.option("--trials", type=click.IntRange(min=1), default=12, show_default=True, help="Trials of every method.")
@click.option(
    "--budget",
    "budgets",
    default="1",
    show_default=True,
    metavar="X,X,...",
    help="Multiples of the budget; each is searched by itself and gets presets of its own.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of carving and search.")
@click.option("--out", type=click.Path(path_type=Path), help="Trials and presets. Default: results/BENCHMARK/tune.")
@run_settings
@isolation_settings
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def tune_command(
    methods: tuple[str, ...],
    every: bool,
    benchmark: str | None,
    bench_seed: int | None,
    bench_set: tuple[str, ...],
    data_dir: Path | None,
    bench_seeds: str | None,
    trials: int,
    budgets: str,
    seed: int,
    out: Path | None,
    precision: Any,
    as_json: bool,
    **flags: Any,
) -> int:
    """Choose the options of METHODS by what they do on a part of forget and retain that is set aside.

    Neither evaluation splits nor the Clean model are looked at. A search that was killed goes on where it was.
    """
    from salmu_core.cli import render
    from salmu_core.errors import BadOptions
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.spec.resolve import standard_benchmark
    from salmu_core.spec.study import results_folder
    from salmu_tune.display import TuneDisplay
    from salmu_tune.search import Trial, tune

    plugins = load_plugins()
    if bool(methods) == every:
        raise BadOptions("salmu tune takes METHODS or --all.", "salmu list-methods shows what is installed.")
    chosen = methods or tuple(sorted(name for name, entry in plugins.methods.items() if entry.cls.search))
    name = benchmark or standard_benchmark(plugins)
    options = benchmark_options(bench_set, bench_seed, data_dir)
    if bench_seeds is not None and bench_seed is not None:
        raise BadOptions("The benchmark's seed is given twice: --bench-seed and --bench-seeds.", "Leave out one.")
    instances = () if bench_seeds is None else tuple(parse_numbers(bench_seeds, "--bench-seeds", int))
    factors = tuple(parse_numbers(budgets, "--budget", float))
    named = {**options, **({"seeds": "-".join(map(str, instances))} if instances else {})}

    def show(method: str, number: int, of: int, trial: Trial) -> None:
        given = " ".join(f"{name}={value}" for name, value in trial.options.items())
        line = f"{method} {number}/{of}: {given} -> {trial.value:.3f} ({trial.verdict}, {sum(trial.seconds):.0f} s)"
        render.err.print(line, markup=False, highlight=False)

    with TuneDisplay(
        runs=max(1, len(instances)) * (2 + (trials + 1) * len(chosen) * len(factors)), quiet=as_json
    ) as display:
        plugins.watch(display)
        found = tune(
            chosen,
            benchmark=name,
            benchmark_options=options,
            bench_seeds=instances,
            trials=trials,
            budgets=factors,
            seed=seed,
            precision=precision,
            out=out or results_folder(name, named) / "tune",
            settings=make_settings(flags),
            plugins=plugins,
            command=" ".join(["salmu", *map(shlex.quote, sys.argv[1:])]),
            show=show,
        )
    if as_json:
        render.print_json([{"method": item.method, "budget": item.budget, "options": dict(item.best.options), "value": item.best.value,
                            "verdict": item.best.verdict, "preset": str(item.preset)} for item in found])  # fmt: skip
        return 0
    rows = [
        (
            item.method,
            f"{item.budget:g}x",
            " ".join(f"{name}={value}" for name, value in item.best.options.items()),
            f"{item.best.value:.3f}",
            f"{item.trials[0].value:.3f}",
            item.best.verdict
            if item.best.eligible and not item.best.harms_in_a_run
            else f"{item.best.verdict}; no trial may be chosen, this one harms least",
        )
        for item in found
    ]
    render.out.print(render.make_table(("method", "budget", "options", "value", "defaults", "verdict there"), rows))
    render.out.print(f"Presets: {found[0].preset.parent}", markup=False, highlight=False)
    return 0
