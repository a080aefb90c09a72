"""`salmu build`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from salmu_core.cli.arguments import benchmark_options, complete_names, data_dir_option

_EXAMPLES = """\b
Examples:
  salmu build mini
  salmu build mini --bench-seed 1
  salmu build mini --bench-set size=small
  salmu build mini --rebuild
"""


@click.command("build", epilog=_EXAMPLES)
@click.argument("benchmark", shell_complete=complete_names("benchmark"))
@click.option("--bench-seed", type=click.IntRange(min=0), help="The benchmark's seed.")
@click.option("--bench-set", multiple=True, metavar="NAME=VALUE", help="An option of the benchmark; repeatable.")
@data_dir_option
@click.option("--rebuild", is_flag=True, help="Throw away what is there and build again.")
def build_command(
    benchmark: str, bench_seed: int | None, bench_set: Sequence[str], data_dir: Path | None, rebuild: bool
) -> int:
    """Build BENCHMARK: generate or fetch its data, train or fetch its models. What is there already is kept."""
    from salmu_core.benchmark import BuildStep
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.plugins.registry import load_plugins
    from salmu_core.runner.progress import Progress
    from salmu_core.spec.resolve import make_benchmark

    plugins = load_plugins()
    built = make_benchmark(benchmark, benchmark_options(bench_set, bench_seed, data_dir), plugins)
    if built.ready() and not rebuild:
        render.out.print(f"{benchmark} is built already. Use --rebuild to build it again.", highlight=False)
        return 0
    started = time.monotonic()
    with ProgressDisplay() as display:

        def report(step: BuildStep) -> None:
            display.run_progress(Progress(benchmark, step.stage, step.done, step.total))

        built.build(report, rebuild=rebuild)
    render.out.print(f"Built {benchmark} in {render.seconds_text(time.monotonic() - started)}.", highlight=False)
    return 0
