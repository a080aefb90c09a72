"""The score before 0.2 and today's, side by side on the same runs: controls and methods on the shipped instance.

    uv run python benchmarks/mini/experiments/old_and_new.py

Ten runs at 1x with the options below (made to show what the scores do, not to rank methods), kept in
`benchmarks/mini/results/old_and_new.json` as they end; the same command goes on with what is missing and writes the table in
`docs/concepts.md`. `--size tiny` tries this script and keeps its results below `--out`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from curves import read_stored
from head_to_head import forget_model, short
from matrix import cells_of
from planned import carry_out

from salmu_core.comparison.overall import basis
from salmu_core.files.writing import write_json, write_text
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.schema import RunRecord, ScoreRecord
from salmu_core.runner.compare import MethodChoice
from salmu_core.runner.planned import PlannedRun, plan_comparison
from salmu_core.runner.run import Settings

RESULTS = Path(__file__).parents[1] / "results" / "old_and_new.json"
DOCS = Path(__file__).parents[3] / "docs" / "concepts.md"
COMMAND = "uv run python benchmarks/mini/experiments/old_and_new.py"
START, END = "<!-- old and new score: benchmarks/mini/results/old_and_new.json -->\n", "<!-- end of old and new score -->\n"
CHOSEN = [
    MethodChoice("clean-oracle"),
    MethodChoice("word-removal", {"variant": "rare", "r": 2.0}),
    MethodChoice("word-removal", {"variant": "rare", "r": 1.0}),
    MethodChoice("caption-centroid", {"keep": 0.1}),
    MethodChoice("name-shuffle"),
    MethodChoice("matched-noise", {"size": 0.2}),
    MethodChoice("retain-finetuning", {"lr": 2e-3}),
    MethodChoice("direct-similarity-minimisation", {"lr": 1e-4}),
    MethodChoice("hinge-negative-pairs", {"lr": 3e-4}),
    MethodChoice("key-value-edit"),
]


def old_score(gaps: Mapping[str, float], start: Mapping[str, float], kinds: Mapping[str, ScoreRecord]) -> float:
    """The overall score of 0.1: `1 - D(model) / D(Compromised)`, D the root mean square of gaps, forgetting and all else half each.

    Args:
        gaps, start: metric -> distance to the target, of the model and of Compromised.
        kinds: metric -> a score of it, for what it looks at.
    """
    halves = [[name for name in gaps if (kinds[name].aspect == "forgetting") == forgetting] for forgetting in (True, False)]
    weights = {name: 1 / len(half) for half in halves for name in half}

    def distance(values: Mapping[str, float]) -> float:
        return math.sqrt(sum(weight * values[name] ** 2 for name, weight in weights.items()))

    return 1 - distance(gaps) / distance(start)


def rows_of(stored: Mapping[str, Any]) -> list[list[str]]:
    """Title, old and new score, what became of either half, and the verdict; the highest old score first."""
    references = {which: {n: ScoreRecord(**s) for n, s in own.items()} for which, own in stored["references"].items()}
    clean, compromised = references["clean"], references["compromised"]
    counted = basis(clean, compromised)
    start = {name: 1.0 if kind.aspect == "forgetting" else 0.0 for name, kind in counted.kinds.items()}
    found = []
    for run, cell in zip(stored["runs"], cells_of(stored), strict=True):
        if not cell.scores:
            continue
        scores = {name: compromised[name].model_copy(update={"value": value}) for name, value in cell.scores.items()}
        gaps = {name: cell.gaps[name] for name in counted.weights}
        parts, before = counted.of(scores), old_score(gaps, start, counted.kinds)
        assert parts is not None
        kept = min(1 - gaps[name] for name, kind in counted.kinds.items() if kind.aspect == "holdout")
        shown = [f"{part:.2f}" for part in (float(parts.forgotten), max(0.0, kept), float(parts.general))]
        found.append((before, [run["title"], f"{before:.2f}", f"{float(parts.overall):.2f}", *shown, cell.verdict]))
    return [cells for _, cells in sorted(found, key=lambda row: -row[0])]


def table(stored: Mapping[str, Any]) -> str:
    """The section of the docs."""
    header = ["run", "score of 0.1", "score now", "forgotten (worst metric)", "holdouts kept (worst)", "general", "verdict"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows_of(stored)]
    words = f"`{COMMAND}`, the shipped instance at 1x, one seed, options chosen to show what the scores do:"
    return "\n".join([words, "", *lines, ""])


def docs(stored: Mapping[str, Any]) -> str:
    """docs/concepts.md with its table made anew."""
    before, rest = DOCS.read_text(encoding="utf-8").split(START)
    return before + START + table(stored) + END + rest.split(END)[1]


def keep(path: Path, record: RunRecord, title: str) -> None:
    """Add a finished run in the place of an earlier one of that title."""
    stored = {**read_stored(path), "command": COMMAND, "instance": 0}
    if record.spec.method == "none":
        scores = {name: {**score.model_dump(mode="json"), "summary": ""} for name, score in record.scores.items()}
        stored["references"][record.spec.start] = scores
        stored["reference_ids"][record.spec.start] = record.id
    else:
        runs = [run for run in stored["runs"] if run["title"] != title]
        stored["runs"] = sorted([*runs, {**short(record), "title": title}], key=lambda run: run["title"])
    write_json(path, stored)


def title_of(item: PlannedRun, chosen: Sequence[MethodChoice] = CHOSEN) -> str:
    """The method with the options that it was given here."""
    spec = item.resolved.spec
    given = next(
        (c.options for c in chosen if c.name == spec.method and {**spec.method_options, **c.options} == spec.method_options),
        {},
    )
    return f"`{spec.method}`" + "".join(f" {name}={value:g}" if isinstance(value, float) else f" {name}={value}" for name, value in given.items())  # fmt: skip


@click.command()
@click.option("--workers", default=2, show_default=True)
@click.option("--minutes", type=float, help="Begin no run after so many; the same command goes on.")
@click.option("--size", default="mini", show_default=True, help="Of mini.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/old-and-new"), help="Run directories.")
def main(workers: int, minutes: float | None, size: str, out: Path) -> None:
    """Run what is missing, keep it, write the table."""
    plugins, settings = load_plugins(), Settings(cpu=True)
    path = RESULTS if size == "mini" else out / "old_and_new.json"
    options = {} if size == "mini" else {"size": size}
    planned = plan_comparison(CHOSEN, benchmark_options=options, preset="none", out=out, settings=settings, plugins=plugins)
    planned[0].resolved.benchmark.build()
    stored = read_stored(path)
    have = {run["id"] for run in stored["runs"]} | set(stored["reference_ids"].values())
    missing = [item for item in planned if item.resolved.id not in have]

    def keep_run(item: PlannedRun, record: RunRecord) -> None:
        keep(path, record, title_of(item))
        forget_model(item)

    carry_out(missing, settings, workers, keep_run, minutes)
    stored = json.loads(path.read_text(encoding="utf-8"))
    print(table(stored))
    if size == "mini":
        write_text(DOCS, docs(stored))


if __name__ == "__main__":
    main()
