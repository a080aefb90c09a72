"""`salmu evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from salmu_core.cli.arguments import (
    benchmark_options,
    metric_options,
    model_benchmark_choice,
    precision_choice,
    protocol_choice,
)

if TYPE_CHECKING:
    from salmu_core.records.schema import ScoreRecord

_EXAMPLES = """\b
Examples:
  salmu evaluate compromised
  salmu evaluate results/mini/runs/my-run --out scores.json
  salmu evaluate checkpoint.pt --benchmark mini --json
  salmu evaluate hf-hub:OWNER/NAME --precision bf16
  salmu evaluate compromised --benchmark salmubench --data-dir snapshot
  salmu evaluate compromised --benchmark salmubench --protocol official
"""


@click.command("evaluate", epilog=_EXAMPLES)
@click.argument("model")
@model_benchmark_choice
@click.option("--out", type=click.Path(path_type=Path), help="A .json file or a directory for the record.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator.")
@precision_choice
@protocol_choice
@click.option("--no-cache", is_flag=True, help="Do not keep decoded images in the cache.")
@click.option("--metric-set", multiple=True, metavar="METRIC.NAME=VALUE", help="An option of a metric; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def evaluate_command(
    model: str,
    benchmark: str | None,
    bench_seed: int | None,
    bench_set: tuple[str, ...],
    data_dir: Path | None,
    out: Path | None,
    cpu: bool,
    precision: Literal["no", "bf16", "fp16"],
    protocol: Literal["seeded", "official"],
    no_cache: bool,
    metric_set: tuple[str, ...],
    as_json: bool,
) -> int:
    """Score MODEL: a run directory, a .safetensors/.pt/.bin checkpoint, an open_clip hf-hub: or local-dir: name, or one of
    the words clean and compromised. A model scored before is read from the cache.
    """
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.data.processes import process_index
    from salmu_core.files.writing import check_writable
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.evaluate import evaluate
    from salmu_core.runner.run import Settings

    plugins = load_plugins()
    if out is not None:
        check_writable(out.parent if out.suffix == ".json" else out)
    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        record = evaluate(
            model,
            benchmark=benchmark,
            benchmark_options=benchmark_options(bench_set, bench_seed, data_dir),
            out=out,
            precision=precision,
            protocol=protocol,
            settings=Settings(cpu=cpu, keep_pixels=not no_cache, metric_options=metric_options(metric_set)),
            plugins=plugins,
        )
    if process_index() != 0:
        return 0
    render.show_problems(plugins.problems)
    if as_json:
        render.print_json(record.model_dump(mode="json"))
        return 0 if record.status == "ok" else 1
    render.show_scores(record.scores, record.skipped)
    render.show_faults(record)
    if precision == "fp16":
        _show_difference(record.scores)
    if out is not None:
        render.out.print(f"\nWritten to {out}", markup=False, highlight=False)
    return 0 if record.status == "ok" else 1


def _show_difference(scores: Mapping[str, ScoreRecord]) -> None:
    """What half precision changed."""
    from salmu_core.cli import render
    from salmu_core.runner.evaluate import FULL_PRECISION

    def row(name: str, half: float, full: float) -> tuple[str, ...]:
        return name, f"{half:.6f}", f"{full:.6f}", f"{half - full:+.6f}"

    rows = [
        row(name, score.value, score.extras[FULL_PRECISION])
        for name, score in scores.items()
        if FULL_PRECISION in score.extras
    ]
    render.out.print()
    render.out.print(render.make_table(("Metric", "fp16", "fp32", "difference"), rows))
    for name, score in scores.items():
        for extra, value in score.extras.items():
            if "ties" in extra:
                render.out.print(f"{name}: {extra} {value:.6f}", markup=False, highlight=False)
