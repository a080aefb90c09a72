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
    format_option,
    make_settings,
    parse_numbers,
    parse_settings,
    parse_values,
    preset_option,
    results_folder,
    run_settings,
)
from salmu_core.errors import BadOptions

if TYPE_CHECKING:
    from salmu_core.plugins import Plugins
    from salmu_core.runner.compare import ComparisonResult, PlannedRun
    from salmu_core.runner.run import Settings

_EXAMPLES = """\b
Examples:
  salmu compare
  salmu compare gradient-ascent delete --seeds 0,1,2 --budget 1,5
  salmu compare --set gradient-ascent.lr=1e-4 --out results/trial
  salmu compare --benchmark salmubench --data-dir snapshot
  salmu compare --seeds 0,1,2 --launcher slurm --launcher-set timeout_min=240 --launcher-set gpus_per_node=1
"""


@click.command("compare", epilog=_EXAMPLES)
@click.argument("methods", nargs=-1, shell_complete=complete_names("method"))
@benchmark_choice
@click.option("--seeds", default="0", show_default=True, metavar="N,N,...", help="Training seeds.")
@click.option("--budget", "budgets", default="1", show_default=True, metavar="X,X,...", help="Multiples of the budget.")
@click.option("--set", "settings", multiple=True, metavar="METHOD.NAME=VALUE", help="An option of a method; repeatable.")
@preset_option
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
    help="Make every missing run a job of a Slurm cluster, or a process of this machine (pip install 'salmu[slurm]').",
)
@click.option(
    "--launcher-set",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a job is given, by submitit's names: timeout_min=240, gpus_per_node=1, slurm_partition=gpu, ...; repeatable.",
)
@click.option("--no-wait", is_flag=True, help="Come back once the jobs are submitted; the same command waits and compares.")
@run_settings
@format_option
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
def compare_command(
    methods: tuple[str, ...],
    benchmark: str,
    bench_seed: int | None,
    bench_set: tuple[str, ...],
    data_dir: Path | None,
    seeds: str,
    budgets: str,
    settings: tuple[str, ...],
    preset: str,
    out: Path | None,
    overwrite: bool,
    dry_run: bool,
    workers: int | None,
    launcher: Any,
    launcher_set: tuple[str, ...],
    no_wait: bool,
    precision: Any,
    form: str,
    as_json: bool,
    **flags: Any,
) -> int:
    """Run every METHOD (default: all that are installed) over a benchmark and rank them.

    Runs that are done are not repeated, runs that were cut are resumed. A method that fails is a row that says why.
    """
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.plugins import load_plugins
    from salmu_core.processes import process_index
    from salmu_core.records import formats
    from salmu_core.records.table import leaderboard_renderables
    from salmu_core.runner.compare import plan_comparison, run_planned
    from salmu_core.runner.planning import plan_runs

    if launcher is None and (launcher_set or no_wait):
        raise BadOptions(
            "--launcher-set and --no-wait say how jobs are launched.", "Add --launcher slurm or --launcher local."
        )
    plugins = load_plugins()
    how = make_settings(flags, overwrite=overwrite)
    options: dict[str, dict[str, str]] = {}
    for name, value in parse_settings(settings).items():
        method, dot, option = name.partition(".")
        if not dot:
            raise BadOptions(f"--set of a comparison takes METHOD.NAME=VALUE, got '{name}={value}'.")
        options.setdefault(method, {})[option] = value
    arguments: dict[str, Any] = {
        "benchmark": benchmark,
        "seeds": parse_numbers(seeds, "--seeds", int),
        "budgets": parse_numbers(budgets, "--budget", float),
        "options": options,
        "benchmark_options": benchmark_options(bench_set, bench_seed, data_dir),
        "precision": precision,
        "preset": preset,
        "out": out or results_folder(benchmark, benchmark_options(bench_set, bench_seed, data_dir)),
        "settings": how,
        "plugins": plugins,
    }
    planned = plan_comparison(methods, **arguments)
    done = 0 if overwrite else sum(item.done for item in planned)
    if dry_run:
        plans = plan_runs([(item.resolved, item.folder) for item in planned], how, plugins)
        if as_json:
            render.print_json([plan.as_json() for plan in plans])
        else:
            render.show_plans(plans)
        return 0
    if process_index() == 0:
        render.show_problems(plugins.problems)
        render.err.print(f"{len(planned)} runs, {done} of them done before.", highlight=False)
        for name, chosen in {item.resolved.spec.method: item.resolved.spec.method_options for item in planned}.items():
            taken = {option: value for option, value in chosen.items() if option not in options.get(name, {})}
            if taken:
                render.show_preset(name, taken, preset)
    as_json = as_json or form == "json"
    with ProgressDisplay(runs=len(planned), quiet=as_json) as display:
        plugins.watch(display)
        display.skip(done)
        result: ComparisonResult | None
        if launcher is None:
            result, problem = run_planned(planned, arguments["out"], how, plugins, workers), False
        else:
            options_of_jobs = parse_values(launcher_set, "--launcher-set")
            result, problem = _launch(planned, arguments["out"], how, plugins, launcher, options_of_jobs, wait=not no_wait)
    if process_index() != 0:
        return 0
    if result is None:
        return 1 if problem else 0
    if as_json or form != "table":
        print(formats.render(result.comparison, "json" if as_json else form), end="")
    else:
        for renderable in leaderboard_renderables(result.comparison, render.out.width):
            render.out.print(renderable)
        for path in result.files.values():
            render.out.print(f"Written: {path}", markup=False, highlight=False)
    return 0 if not problem and all(record.status == "ok" for record in result.records) else 1


def _launch(
    planned: Sequence[PlannedRun],
    out: Path,
    how: Settings,
    plugins: Plugins,
    kind: Any,
    options: dict[str, Any],
    *,
    wait: bool,
) -> tuple[ComparisonResult | None, bool]:
    """Run as jobs. Returns the comparison, where there is one already, and whether a job died."""
    from salmu_core.cli import render
    from salmu_core.runner.launch import Launcher, launch_planned

    launched = launch_planned(planned, out, how, plugins, Launcher(kind, options), wait=wait)
    if launched.waiting:
        render.err.print(
            f"{len(launched.waiting)} jobs are queued or running. The same command without --no-wait waits and compares.",
            highlight=False,
        )
    for job in launched.dead:
        render.err.print(
            f"The job {job.job} of {job.run} ended without a record; its log: {job.log}", style="red", markup=False
        )
    if launched.dead:
        render.err.print("The same command again goes on from the last checkpoints.", highlight=False)
    return launched.result, bool(launched.dead)
