"""Does the stand-in that options are chosen on fall as GenKnow falls? Both on finished runs.

    uv run python benchmarks/mini/experiments/stand_in.py results/head-to-head/*/runs/*

Each RUN is a run folder of `mini` with its model. Writes `benchmarks/mini/results/stand_in.json` and prints how far the two agree: the rank
correlation of what is lost, and how many runs are on the other side of the rule's limit. It chooses nothing: the limit is the verdict's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import spearmanr

from salmu_core import load_model
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.files.writing import write_json
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.store import read_record
from salmu_core.spec.resolve import make_benchmark
from salmu_metrics import GenKnow
from salmu_tune.rule import LARGEST_LOSS

RESULT = Path(__file__).parents[1] / "results" / "stand_in.json"


def lost(value: float, before: float, chance: float) -> float:
    """The share of the level above chance that is gone."""
    return (before - value) / (before - chance)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(runs: tuple[Path, ...]) -> None:
    """Measure every run."""
    torch.set_num_threads(1)
    plugins, rows = load_plugins(), []
    known: dict[Any, tuple[Any, float, float, float]] = {}
    for folder in runs:
        record = read_record(folder)
        if record.status != "ok" or record.model_file is None or not (folder / record.model_file).is_file():
            continue
        options = dict(record.spec.benchmark_options)
        key = options.get("seed", 0)
        if key not in known:
            base = make_benchmark("mini", options, plugins)
            ground = make_benchmark("validation", {"base": "mini", "base_options": base.options.model_dump()}, plugins)
            compromised = base.load_model("compromised")
            [own, shown] = [evaluate_model(compromised, where, [GenKnow()]).scores["GenKnow"] for where in (base, ground)]
            known[key] = ground, own.value, shown.value, own.chance
        ground, before, shown_before, chance = known[key]
        found = evaluate_model(load_model(folder), ground, [GenKnow()]).scores["GenKnow"].value
        row = {
            "method": record.spec.method,
            "instance": key,
            "seed": record.spec.seed,
            "budget": record.spec.budget,
            "GenKnow": round(lost(record.scores["GenKnow"].value, before, chance), 4),
            "stand-in": round(lost(found, shown_before, chance), 4),
        }
        rows.append(row)
        print(row, flush=True)
    task, stand_in = (np.array([row[name] for row in rows]) for name in ("GenKnow", "stand-in"))
    summary = {
        "runs": len(rows),
        "limit": LARGEST_LOSS,
        "Spearman": round(float(spearmanr(task, stand_in).statistic), 3),
        "root mean square of the difference, where GenKnow lost less than a tenth": round(
            float(np.sqrt(np.mean((task - stand_in)[task < 0.1] ** 2))), 4
        ),
        "harmful, let pass": int(((task > LARGEST_LOSS) & (stand_in <= LARGEST_LOSS)).sum()),
        "harmless, refused": int(((task <= LARGEST_LOSS) & (stand_in > LARGEST_LOSS)).sum()),
    }
    write_json(RESULT, {"summary": summary, "runs": rows})
    print(summary)


if __name__ == "__main__":
    main()
