"""`salmu build`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salmu_core.cli.arguments import benchmark_options, complete_names, data_dir_option

if TYPE_CHECKING:
    from salmu_core.benchmark import Agreement

_EXAMPLES = """\b
Examples:
  salmu build mini
  salmu build mini --bench-seed 1
  salmu build mini --bench-set size=small
  salmu build mini --bench-seed 1 --rebuild
  salmu build mini --from-scratch
"""


@click.command("build", epilog=_EXAMPLES)
@click.argument("benchmark", shell_complete=complete_names("benchmark"))
@click.option("--bench-seed", type=click.IntRange(min=0), help="The benchmark's seed.")
@click.option("--bench-set", multiple=True, metavar="NAME=VALUE", help="An option of the benchmark; repeatable.")
@data_dir_option
@click.option("--rebuild", is_flag=True, help="Throw away what is there and build again.")
@click.option(
    "--from-scratch",
    is_flag=True,
    help="Make what comes ready-made with the package again, in a temporary place, and say whether data and scores agree.",
)
def build_command(
    benchmark: str,
    bench_seed: int | None,
    bench_set: Sequence[str],
    data_dir: Path | None,
    rebuild: bool,
    from_scratch: bool,
) -> int:
    """Build BENCHMARK: generate or fetch its data, train or fetch its models. What is there already is kept.

    Exit code 1 when what is made --from-scratch does not agree with what comes ready-made.
    """
    from salmu_core.benchmark import BuildStep
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.errors import BadOptions
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.progress import Progress
    from salmu_core.spec.resolve import make_benchmark

    plugins = load_plugins()
    built = make_benchmark(benchmark, benchmark_options(bench_set, bench_seed, data_dir), plugins)
    if rebuild and from_scratch:
        raise BadOptions("--rebuild and --from-scratch are two things.", "--from-scratch leaves everything as it is.")
    if built.ready() and not (rebuild or from_scratch):
        render.out.print(f"{benchmark} is built already. Use --rebuild to build it again.", highlight=False)
        return 0
    started = time.monotonic()
    with ProgressDisplay() as display:

        def report(step: BuildStep) -> None:
            display.run_progress(Progress(benchmark, step.stage, step.done, step.total))

        agreements = built.from_scratch(report) if from_scratch else ()
        if not from_scratch:
            built.build(report, rebuild=rebuild)
    if from_scratch:
        return _tell_agreement(benchmark, agreements, time.monotonic() - started)
    render.out.print(f"Built {benchmark} in {render.seconds_text(time.monotonic() - started)}.", highlight=False)
    return 0


def _tell_agreement(benchmark: str, agreements: Sequence[Agreement], seconds: float) -> int:
    """Everything that was compared, in a table, and whether all of it agrees."""
    from salmu_core.cli import render

    rows = [(a.what, a.given, a.made, a.allowed, "agrees" if a.agrees else "DIFFERS") for a in agreements]
    render.out.print(render.make_table(("", "Ready-made", "Made here", "Allowed", ""), rows))
    different = [a.what for a in agreements if not a.agrees]
    took = render.seconds_text(seconds)
    words = "agrees with what comes ready-made" if not different else f"differs: {', '.join(different)}"
    render.out.print(f"{benchmark}, made from scratch in {took}, {words}.", markup=False, highlight=False)
    return 1 if different else 0
