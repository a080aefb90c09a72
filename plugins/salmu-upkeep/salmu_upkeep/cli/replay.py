"""`salmu replay`."""

from __future__ import annotations

from pathlib import Path

import click

from salmu_core.cli.arguments import FiniteRange

_EXAMPLES = """\b
Examples:
  salmu replay results/mini/runs/delete-b1-s0-1234abcd
  salmu replay record.json --tolerance 0.005 --json
"""


@click.command("replay", epilog=_EXAMPLES)
@click.argument("record", type=click.Path(path_type=Path))
@click.option("--tolerance", type=FiniteRange(min=0), default=1e-3, show_default=True, help="Largest difference of a score.")
@click.option("--out", type=click.Path(path_type=Path), help="Keep the repetition here.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def replay_command(record: Path, tolerance: float, out: Path | None, cpu: bool, as_json: bool) -> int:
    """Run the RECORD of a run (a run directory or its record.json) again and compare. Exit code 1 when it is not reproduced."""
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.data.processes import process_index
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.run import Settings
    from salmu_upkeep.repeating import replay

    plugins = load_plugins()
    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        found = replay(record, tolerance=tolerance, out=out, settings=Settings(cpu=cpu), plugins=plugins)
    if process_index() != 0:
        return 0
    if as_json:
        render.print_json(
            {
                "outcome": found.outcome,
                "tolerance": found.tolerance,
                "scores": {name: {"recorded": a, "replayed": b} for name, (a, b) in found.differences.items()},
                "versions": {name: {"recorded": a, "now": b} for name, (a, b) in found.versions.items()},
                "status": {"recorded": found.recorded.status, "replayed": found.replayed.status},
            }
        )
    else:

        def shown(value: float | None) -> str:
            return "–" if value is None else f"{value:.6f}"

        rows = [
            (name, shown(a), shown(b), "–" if a is None or b is None else f"{b - a:+.1e}")
            for name, (a, b) in found.differences.items()
        ]
        render.out.print(render.make_table(("Metric", "Recorded", "Now", "Difference"), rows))
        for name, (before, now) in found.versions.items():
            render.out.print(f"{name} was {before} and is {now}", markup=False, highlight=False)
        words = {
            "bit for bit": "Reproduced bit for bit: the weights are the same.",
            "within tolerance": f"Reproduced: no score differs by more than {tolerance:g}.",
            "not reproduced": f"Not reproduced: a score differs by more than {tolerance:g}, or the run ended otherwise.",
        }
        render.out.print(words[found.outcome], style="green" if found.outcome != "not reproduced" else "red")
    return 1 if found.outcome == "not reproduced" else 0
