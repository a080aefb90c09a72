"""Controls at their variants on instances of mini: none may read selective or score above 0.25.

    uv run python benchmarks/mini/experiments/controls.py --instances 0

Prints the leaderboard of every variant and ends with 1 where a control does what none should. Finished runs are read back;
`benchmarks/mini/results/controls.json` and `controls.md` are written after every run, `--minutes N` begins no run after N minutes, and
`--size tiny` tries this script and writes below `--out`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from planned import carry_out

from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.leaderboard import CONTROL, Comparison, Row
from salmu_core.comparison.overall import INDISCRIMINATE
from salmu_core.files.writing import write_json, write_text
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import read_record
from salmu_core.report.table import leaderboard_renderables
from salmu_core.runner.compare import MethodChoice
from salmu_core.runner.planned import PlannedRun, plan_comparison
from salmu_core.runner.run import Settings

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = "uv run python benchmarks/mini/experiments/controls.py"
VARIANTS = [
    *(MethodChoice("word-removal", {"variant": variant}) for variant in ("owned", "unseen")),
    *(MethodChoice("word-removal", {"variant": "rare", "r": r}) for r in (10.0, 3.0, 2.0, 1.5, 1.0)),
    *(MethodChoice("word-removal", {"variant": "rarest", "k": k}) for k in (20, 60, 100)),
    MethodChoice("name-shuffle"),
    *(MethodChoice("caption-centroid", {"keep": keep}) for keep in (1.0, 0.1, 0.0)),
    *(MethodChoice("matched-noise", {"size": size}) for size in (0.02, 0.05, 0.1, 0.2)),
    MethodChoice("clean-oracle"),
]


def faults(rows: Sequence[Row]) -> list[str]:
    """Controls that score what none should, in words."""
    found = []
    for row in rows:
        if row.family == CONTROL and row.verdict == "selective":
            found.append(f"{row.title} reads selective.")
        if row.family == CONTROL and (row.overall or 0.0) > INDISCRIMINATE:
            found.append(f"{row.title} scores {row.overall:.3f}, above {INDISCRIMINATE:g}.")
        if row.title.startswith("clean-oracle") and row.overall:
            found.append(f"Clean scores {row.overall:.3f} and not 0.")
    return found


def rows_of(comparison: Comparison) -> list[Row]:
    """The controls of a leaderboard, the highest score first."""
    return sorted((row for row in comparison.rows if row.kind == "run"), key=lambda row: -(row.overall or 0.0))


def as_markdown(comparison: Comparison, instances: str, of: int) -> str:
    """The table of controls."""
    rows = rows_of(comparison)
    lines = [
        "# Controls on mini",
        "",
        f"Made by `{COMMAND} --instances {instances}`: mini {comparison.benchmark_version}, budget 1x, one training seed, {sum(1 + len(row.same_as) for row in rows)} of"
        f" {of} variants so far. No control may read *selective* or score above {INDISCRIMINATE:g}; Clean scores 0.",
        "",
        "| control | overall | forgotten | kept | general | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        overall = "" if row.overall is None else f"{row.overall:.3f}"
        parts = " | ".join(
            f"{row.parts[name]:.2f}" if name in row.parts else "" for name in ("forgotten", "kept", "general")
        )
        lines.append(f"| {', '.join((row.title, *row.same_as))} | {overall} | {parts} | {row.verdict} |")
    return "\n".join([*lines, "", *(f"> {fault}" for fault in faults(rows)), ""])


def write_results(planned: Sequence[PlannedRun], instances: str, results: Path) -> Comparison:
    """The leaderboard of what is done so far, and its files."""
    done = [item for item in planned if (item.folder / "record.json").is_file()]
    records: list[RunRecord] = [read_record(item.folder) for item in done]
    comparison = compare_records(records, [item.folder for item in done])
    fields = {"title", "same_as", "overall", "parts", "verdict", "reason", "options", "bench_seeds"}
    rows: list[dict[str, Any]] = [row.model_dump(mode="json", include=fields) for row in rows_of(comparison)]
    about = {"command": f"{COMMAND} --instances {instances}", "version": comparison.benchmark_version}
    write_json(results / "controls.json", {**about, "rows": rows, "faults": faults(rows_of(comparison))})
    write_text(results / "controls.md", as_markdown(comparison, instances, len(VARIANTS)))
    return comparison


@click.command()
@click.option("--instances", default="0", show_default=True, help="Benchmark seeds.")
@click.option("--workers", default=2, show_default=True)
@click.option("--minutes", type=float, help="Begin no run after so many; the same command goes on.")
@click.option("--size", default="mini", show_default=True, help="Of mini.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/controls"), help="Run directories.")
def main(instances: str, workers: int, minutes: float | None, size: str, out: Path) -> None:
    """Run, print, and look for faults."""
    from rich.console import Console

    plugins, settings = load_plugins(), Settings(cpu=True)
    results = RESULTS if size == "mini" else out
    options = {} if size == "mini" else {"size": size}
    planned = plan_comparison(
        VARIANTS,
        bench_seeds=[int(seed) for seed in instances.split(",")],
        benchmark_options=options,
        preset="none",
        out=out,
        settings=settings,
        plugins=plugins,
    )
    for item in planned:
        if item.resolved.spec.method == "none":
            item.resolved.benchmark.build()  # once, before workers would
    missing = [item for item in planned if not item.done]
    left = carry_out(missing, settings, workers, lambda item, record: write_results(planned, instances, results), minutes)
    if left:
        sys.exit(2)
    comparison = write_results(planned, instances, results)
    console = Console(width=160)
    for part in leaderboard_renderables(comparison, 160):
        console.print(part)
    problems = faults([row for row in comparison.rows if row.kind == "run"])
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
