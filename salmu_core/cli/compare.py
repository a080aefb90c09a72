"""`salmu compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from salmu_core.cli.arguments import (
    benchmark_choice,
    benchmark_options,
    complete_names,
    execution_of,
    isolation,
    isolation_settings,
    metric_options,
    parse_numbers,
    parse_settings,
    parse_values,
    preset_option,
    protocol_choice,
    run_settings,
)
from salmu_core.cli.shown_rows import Showing, showing
from salmu_core.errors import BadOptions

if TYPE_CHECKING:
    from salmu_core.spec.study import StudyLauncher

_EXAMPLES = """\b
Examples:
  salmu compare
  salmu compare gradient-ascent delete --seeds 0,1,2 --budget 1,5
  salmu compare slug scrub --seeds 0,1,2,3,4 --bench-seeds 0,1,2
  salmu compare slug delete --audits all
  salmu compare delete --fail-if verdict=catastrophic --require 'overall>=0.1'
  salmu compare --set gradient-ascent.lr=1e-4 --out results/trial
  salmu compare --benchmark salmubench --data-dir snapshot
  salmu compare --launcher slurm --launcher-set timeout_min=240
"""


@click.command("compare", epilog=_EXAMPLES)
@click.argument("methods", nargs=-1, shell_complete=complete_names("method"))
@benchmark_choice
@click.option(
    "--bench-seeds",
    metavar="N,N,...",
    help="Instances of a seeded benchmark: each run is measured against its own, rows are means.",
)
@click.option("--seeds", default="0", show_default=True, metavar="N,N,...", help="Training seeds.")
@click.option("--budget", "budgets", default="1", show_default=True, metavar="X,X,...", help="Multiples of the budget.")
@click.option("--set", "settings", multiple=True, metavar="METHOD.NAME=VALUE", help="An option of a method; repeatable.")
@preset_option
@click.option(
    "--audits",
    type=click.Choice(["fast", "all", "none"]),
    default="fast",
    show_default=True,
    help="Attack every finished run: by audits that are cheap (seconds for a small model), by all that are installed, or by none.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Results directory. Default: results/BENCHMARK.")
@click.option("--overwrite", is_flag=True, help="Do finished runs again.")
@click.option("--dry-run", is_flag=True, help="Check everything and list the runs and their cost; run nothing.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Runs at a time, each a process. Default: as many as cores and memory allow for small models on a CPU, else 1.",
)
@click.option(
    "--launcher",
    type=click.Choice(["slurm", "local"]),
    help="Make every missing run a job of a Slurm cluster, or a process of this machine.",
)
@click.option(
    "--launcher-set",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a job is given, by submitit's names: timeout_min=240, gpus_per_node=1, slurm_partition=gpu, ...; repeatable.",
)
@click.option("--no-wait", is_flag=True, help="Come back once the jobs are submitted; the same command waits and compares.")
@protocol_choice
@run_settings
@isolation_settings
@showing
def compare_command(
    methods: tuple[str, ...],
    benchmark: str | None,
    bench_seed: int | None,
    bench_set: tuple[str, ...],
    data_dir: Path | None,
    bench_seeds: str | None,
    seeds: str,
    budgets: str,
    settings: tuple[str, ...],
    preset: str,
    audits: Any,
    out: Path | None,
    overwrite: bool,
    dry_run: bool,
    no_wait: bool,
    **flags: Any,
) -> int:
    """Run every METHOD (default: all that are installed) over a benchmark and rank them.

    Runs that are done are not repeated, runs that were cut are resumed. A method that fails is a row that says why. Methods that
    cannot be told apart share a rank: more --seeds and --bench-seeds tell finer differences. The results folder gets a study.toml
    that `salmu study` repeats.

    Exit codes: 0, 1 when a run is not ok or something cannot be used, 2 for unknown flags, 3 when a --require or --fail-if condition
    is broken.
    """
    from salmu_core.cli.comparison import carry_out
    from salmu_core.spec.study import Study, StudyExecution, StudyMethod

    if bench_seeds is not None and bench_seed is not None:
        raise BadOptions("The benchmark's seed is given twice: --bench-seed and --bench-seeds.", "Leave out one.")
    study = Study(
        benchmark=benchmark,
        benchmark_options=benchmark_options(bench_set, bench_seed, data_dir),
        bench_seeds=() if bench_seeds is None else tuple(parse_numbers(bench_seeds, "--bench-seeds", int)),
        methods=tuple(StudyMethod(name) for name in methods),
        seeds=tuple(parse_numbers(seeds, "--seeds", int)),
        budgets=tuple(parse_numbers(budgets, "--budget", float)),
        preset=preset,
        audits=audits,
        metrics=metric_options(flags["metric_set"]),
        out=None if out is None else str(out),
        execution=StudyExecution(
            **{name: flags[name] for name in ("precision", "protocol", "workers")},
            **execution_of(flags),
            isolate=isolation(flags["isolate"], "third-party"),
            time_limit=flags["time_limit"],
        ),
        launcher=_launcher(flags["launcher"], flags["launcher_set"], no_wait),
    )
    options = options_by_method(settings)
    return carry_out(study, Showing.of(flags), options=options, overwrite=overwrite, dry_run=dry_run, no_wait=no_wait)


def _launcher(kind: Any, settings: Sequence[str], no_wait: bool) -> StudyLauncher | None:
    """How jobs are launched; None: runs are carried out here.

    Raises:
        BadOptions: flags of a launcher are given without one.
    """
    from salmu_core.spec.study import StudyLauncher

    if kind is not None:
        return StudyLauncher(kind=kind, options=parse_values(settings, "--launcher-set"))
    if settings or no_wait:
        raise BadOptions(
            "--launcher-set and --no-wait say how jobs are launched.", "Add --launcher slurm or --launcher local."
        )
    return None


def options_by_method(settings: Sequence[str]) -> dict[str, dict[str, str]]:
    """The options that `--set METHOD.NAME=VALUE` gives, by method.

    Raises:
        BadOptions: one names no method.
    """
    options: dict[str, dict[str, str]] = {}
    for name, value in parse_settings(settings).items():
        method, dot, option = name.partition(".")
        if not dot:
            raise BadOptions(f"--set of a comparison takes METHOD.NAME=VALUE, got '{name}={value}'.")
        options.setdefault(method, {})[option] = value
    return options
