"""`salmu run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from salmu_core.cli.arguments import (
    FiniteRange,
    benchmark_choice,
    benchmark_options,
    complete_names,
    isolation_settings,
    make_settings,
    parse_settings,
    preset_option,
    protocol_choice,
    run_settings,
)

if TYPE_CHECKING:
    from salmu_core.records.schema import RunRecord
    from salmu_core.runner.planning import RunPlan

_EXAMPLES = """\b
Examples:
  salmu run gradient-ascent
  salmu run gradient-ascent --set lr=1e-4 --seed 1 --out runs/ga
  salmu run delete --budget 5 --dry-run
  salmu run delete --benchmark salmubench --data-dir snapshot
  accelerate launch --num_processes 2 -m salmu_core run delete --out runs/2
"""


@click.command("run", epilog=_EXAMPLES)
@click.argument("method", shell_complete=complete_names("method"))
@benchmark_choice
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all that the method draws.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the method; repeatable.")
@click.option(
    "--budget",
    type=FiniteRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiple of the benchmark's sample budget.",
)
@click.option(
    "--start",
    type=click.Choice(["compromised", "clean"]),
    default="compromised",
    show_default=True,
    help="The model to start from.",
)
@preset_option
@click.option("--out", type=click.Path(path_type=Path), help="Run directory. Default: results/BENCHMARK/runs/NAME.")
@click.option("--dry-run", is_flag=True, help="Check everything and print the plan and the cost; run nothing.")
@click.option("--overwrite", is_flag=True, help="Do a finished run again.")
@protocol_choice
@run_settings
@isolation_settings
@click.option("--json", "as_json", is_flag=True, help="Print the record (or the plan) as JSON.")
def run_command(
    method: str,
    benchmark: str | None,
    bench_seed: int | None,
    bench_set: tuple[str, ...],
    data_dir: Path | None,
    settings: tuple[str, ...],
    preset: str,
    out: Path | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Run METHOD over a benchmark and leave a run directory with record.json and model.safetensors.

    A run that is done is read back; a run that was killed goes on from its last checkpoint.
    """
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.data.processes import process_count, process_index
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.records.schema import RunSpec
    from salmu_core.runner.planning import plan_run
    from salmu_core.runner.standing import standing
    from salmu_core.runner.workers import run_alone
    from salmu_core.spec.resolve import resolve_with_preset
    from salmu_core.spec.study import results_folder

    plugins = load_plugins()
    how = make_settings(flags, overwrite=overwrite, isolate="none")
    given = parse_settings(settings)
    bench_options = benchmark_options(bench_set, bench_seed, data_dir)
    spec = RunSpec(
        method=method,
        benchmark=benchmark or "",
        method_options=given,
        benchmark_options=bench_options,
        **{name: flags[name] for name in ("start", "seed", "budget", "precision", "protocol")},
    )
    resolved = resolve_with_preset(spec, preset, plugins, how.cache_folder)
    folder = (out or resolved.folder_in(results_folder(resolved.spec.benchmark, bench_options) / "runs")).absolute()
    if dry_run:
        return _show_plan(plan_run(resolved, folder, how, plugins), as_json=as_json)
    taken = {name: value for name, value in resolved.spec.method_options.items() if name not in given}
    if taken and process_index() == 0:
        render.show_preset(method, taken, preset)
    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        record = run_alone(resolved, folder, how, plugins)
        rows = None if as_json or process_count() > 1 else standing(record, folder, resolved, how, plugins)
    if process_index() == 0:
        render.show_problems(plugins.problems)
        _show(record, rows, folder, as_json=as_json)
    return 0 if process_index() != 0 or record.status == "ok" else 1


def _show_plan(plan: RunPlan, *, as_json: bool) -> int:
    from salmu_core.cli import render

    if as_json:
        render.print_json(plan.as_json())
    else:
        render.out.print(render.make_table(("Plan", ""), plan.lines()))
    return 0


def _show(record: RunRecord, rows: Any, folder: Path, *, as_json: bool) -> None:
    from salmu_core.cli import render

    if as_json:
        render.print_json(record.model_dump(mode="json"))
        return
    if record.error:
        render.err.print(f"{record.status}: {record.error}", style="red", markup=False)
    if rows is None:
        render.show_scores(record.scores, record.skipped)
    else:
        render.show_standing(record, rows)
    render.show_reading(record)
    render.show_faults(record)
    render.out.print(f"\nWritten to {folder}", markup=False, highlight=False)
    if rows is not None:
        render.show_next(folder)
