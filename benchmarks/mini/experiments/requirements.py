"""What a pair of mini has to be like, measured: one command for any instances.

    uv run python benchmarks/mini/experiments/requirements.py 0 1 2

Builds what is not there, writes `benchmarks/mini/results/pair.json` and the table in `benchmarks/mini/README.md`, and ends with 1 where a
requirement is missed. The design was chosen on benchmark seed 100 alone, in one training; other seeds were looked at afterwards.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salmu_core.files.writing import default_cache, write_json, write_text
from salmu_mini import Mini
from salmu_mini.requirements import REQUIREMENTS, measure

RESULTS = Path(__file__).parents[1] / "results" / "pair.json"
CARD = Path(__file__).parents[1] / "README.md"
COMMAND = "uv run python benchmarks/mini/experiments/requirements.py"
START, END = "<!-- requirements: benchmarks/mini/results/pair.json -->\n", "<!-- end of requirements -->\n"


def table(stored: Mapping[str, Any]) -> str:
    """The card's table: a row for each requirement, a column for each instance."""
    seeds = sorted(stored, key=int)
    head = "| requirement | " + " | ".join(f"seed {seed}" for seed in seeds) + " |\n|---|" + "---|" * len(seeds)
    rows = []
    for item in REQUIREMENTS:
        cells = [item.shown(stored[seed]) + ("" if item.met(stored[seed]) else " **missed**") for seed in seeds]
        rows.append(f"| {item.words} | " + " | ".join(cells) + " |")
    return "\n".join([head, *rows]) + "\n"


def card(stored: Mapping[str, Any]) -> str:
    """The card with its table made anew."""
    before, rest = CARD.read_text(encoding="utf-8").split(START)
    return before + START + f"`{COMMAND} {' '.join(sorted(stored, key=int))}`\n\n{table(stored)}" + END + rest.split(END)[1]


def main() -> None:
    """Measure the instances named on the command line; those measured before stay."""
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for seed in sys.argv[1:]:
        benchmark = Mini(Mini.Options(seed=int(seed)), default_cache())
        benchmark.build()
        found = measure(benchmark)
        if found.ruined:
            sys.exit(f"Clean of seed {seed} reads catastrophic: {found.ruined}")
        stored[seed] = {which: {k: round(v, 6) for k, v in values.items()} for which, values in found.values.items()}
        write_json(RESULTS, stored)
    write_text(CARD, card(stored))
    print(table(stored))
    missed = [item.words for item in REQUIREMENTS for seed in stored if not item.met(stored[seed])]
    sys.exit(f"Missed: {'; '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
