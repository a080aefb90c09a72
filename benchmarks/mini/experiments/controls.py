"""Controls at their variants on instances of mini: none may read selective or score above 0.25.

    uv run python benchmarks/mini/experiments/controls.py 0 --out results/controls

Prints the leaderboard of every variant and ends with 1 where a control does what none should. Finished runs are read back.
"""

from __future__ import annotations

import argparse
import sys

from salmu_core.comparison.compare import CONTROL, Row
from salmu_core.comparison.overall import INDISCRIMINATE
from salmu_core.report.table import leaderboard_renderables
from salmu_core.runner.compare import MethodChoice, compare

VARIANTS = [
    *(MethodChoice("word-removal", {"variant": variant}) for variant in ("owned", "unseen")),
    *(MethodChoice("word-removal", {"variant": "rare", "r": r}) for r in (10.0, 3.0, 2.0, 1.5, 1.0)),
    *(MethodChoice("word-removal", {"variant": "rarest", "k": k}) for k in (20, 60, 100)),
    MethodChoice("name-shuffle"),
    *(MethodChoice("caption-centroid", {"keep": keep}) for keep in (1.0, 0.1, 0.0)),
    *(MethodChoice("matched-noise", {"size": size}) for size in (0.02, 0.05, 0.1, 0.2)),
    MethodChoice("clean-oracle"),
]


def faults(rows: list[Row]) -> list[str]:
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


def main() -> int:
    """Run, print, and look for faults."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instances", nargs="+", type=int, help="benchmark seeds")
    parser.add_argument("--size", default="mini")
    parser.add_argument("--out", default="results/controls")
    given = parser.parse_args()
    found = compare(
        VARIANTS, bench_seeds=given.instances, benchmark_options={"size": given.size}, preset="none", out=given.out
    )
    console = Console(width=160)
    for part in leaderboard_renderables(found.comparison, 160):
        console.print(part)
    problems = faults([row for row in found.comparison.rows if row.kind == "run"])
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
