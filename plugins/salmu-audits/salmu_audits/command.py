"""`salmu audit`."""

from __future__ import annotations

from pathlib import Path

import click

from salmu_core.cli.arguments import benchmark_options, complete_names, model_benchmark_choice, parse_settings
from salmu_core.errors import BadOptions

_EXAMPLES = """\b
Examples:
  salmu audit results/mini/runs/delete-b1-s0-1234abcd
  salmu audit model.safetensors --only linear-map --only int4-rounding
  salmu audit results/mini/runs/RUN --set 'few-shot-relearning.lrs=[0.01]'
"""


@click.command("audit", epilog=_EXAMPLES)
@click.argument("model")
@model_benchmark_choice
@click.option(
    "--only", multiple=True, shell_complete=complete_names("audit"), help="An audit to run; repeatable. Default: all."
)
@click.option("--set", "settings", multiple=True, metavar="AUDIT.NAME=VALUE", help="An option of an audit; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of what the attacks draw.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for audits.json. Default: the run that MODEL is.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def audit_command(
    model: str,
    benchmark: str | None,
    bench_seed: int | None,
    bench_set: tuple[str, ...],
    data_dir: Path | None,
    only: tuple[str, ...],
    settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    cpu: bool,
    as_json: bool,
) -> int:
    """Attack MODEL (a run directory, a checkpoint, clean or compromised) and both reference models in the same way.

    `recovered` is 0 where an attack gets no more than from Clean, and 1 where it gets all that Compromised holds.
    """
    from salmu_audits.runner import audit
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.data.processes import process_index
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.run import Settings

    options: dict[str, dict[str, str]] = {}
    for name, value in parse_settings(settings).items():
        attack, dot, option = name.partition(".")
        if not dot:
            raise BadOptions(f"--set of an audit takes AUDIT.NAME=VALUE, got '{name}={value}'.")
        options.setdefault(attack, {})[option] = value
    plugins = load_plugins()
    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        results = audit(
            model,
            audits=only,
            benchmark=benchmark,
            benchmark_options=benchmark_options(bench_set, bench_seed, data_dir),
            options=options,
            seed=seed,
            out=out,
            settings=Settings(cpu=cpu),
            plugins=plugins,
        )
    if process_index() != 0:
        return 0
    if as_json:
        render.print_json([{**item.model_dump(mode="json"), "recovered": item.recovered} for item in results])
        return 0

    def shown(value: float | None, digits: int = 3) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    rows = [
        (
            item.audit,
            shown(item.value),
            shown(item.clean),
            shown(item.compromised),
            shown(item.recovered, 2),
            shown(item.times_clean, 2),
            f"{item.seconds:.0f}",
        )
        for item in results
    ]
    header = ("Audit", "This model", "Clean", "Compromised", "Recovered", "x Clean", "Seconds")
    render.out.print(render.make_table(header, rows))
    if trained := [f"{item.audit} {item.samples:,}" for item in results if item.samples]:
        render.out.print(f"Pairs trained on: {', '.join(trained)}", markup=False, highlight=False)
    for item in results:
        if item.reason:
            render.out.print(f"{item.audit}: not measured ({item.reason})", markup=False, highlight=False)
    return 0
