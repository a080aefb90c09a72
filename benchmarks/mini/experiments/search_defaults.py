"""Choose the methods' defaults on `mini`: four values of the one option that matters most, for every method alike.

    uv run python benchmarks/mini/experiments/search_defaults.py

The search uses benchmark seed 3, which no published table uses, training seed 0 and the 1x budget. Of the four values it takes the
smallest change that does the job: the first value, going up, at which RetFail has come 95 % of the way from Compromised to
Clean; where none gets there, the one that comes nearest. That is how the published baselines are reported: all of them forget,
and what is compared is what it costs. The whole search is written to `benchmarks/mini/results/search.json`; a second call goes
on where the first was cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from salmu_core import RunRecord, run
from salmu_core.cli.progress import ProgressDisplay
from salmu_core.files import write_json
from salmu_core.plugins import load_plugins
from salmu_core.runner.run import Settings

BENCH_SEED = 3
ENOUGH = 0.05  # of the distance between Compromised and Clean
#: method -> the option and its values, from the gentlest to the strongest.
GRID: dict[str, tuple[str, list[float]]] = {
    "gradient-ascent": ("lr", [3e-6, 1e-5, 3e-5, 1e-4]),
    "gradient-ascent-retain": ("lr", [3e-5, 1e-4, 3e-4, 1e-3]),
    "direct-similarity-minimisation": ("lr", [3e-6, 1e-5, 3e-5, 1e-4]),
    "hinge-negative-pairs": ("lr", [3e-5, 1e-4, 3e-4, 1e-3]),
    "delete": ("lr", [3e-5, 1e-4, 3e-4, 1e-3]),
    "retain-finetuning": ("lr", [1e-4, 3e-4, 1e-3, 3e-3]),
    "selective-synaptic-dampening": ("alpha", [10, 5, 2, 1]),
    "neuron-pruning": ("share", [0.05, 0.1, 0.2, 0.4]),
}


def choose(gaps: list[float]) -> int:
    """Position of the value to take: the first whose gap is small enough, else the smallest gap."""
    good = [position for position, gap in enumerate(gaps) if gap <= ENOUGH]
    return good[0] if good else min(range(len(gaps)), key=gaps.__getitem__)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/search"), help="Run directories.")
@click.option("--summary", type=click.Path(path_type=Path), default=Path(__file__).parents[1] / "results" / "search.json")
def main(out: Path, summary: Path) -> None:
    """Run the grid and write the summary."""
    plugins = load_plugins()
    settings = Settings()
    bench: dict[str, Any] = {"seed": BENCH_SEED}

    def one(method: str, options: dict[str, float], name: str, **more: Any) -> RunRecord:
        return run(
            method, options=options, benchmark="mini", benchmark_options=bench, out=out / name, settings=settings,
            plugins=plugins, **more,
        )  # fmt: skip

    with ProgressDisplay(runs=2 + sum(len(values) for _, values in GRID.values())) as display:
        plugins.watch(display)
        clean = one("none", {}, "clean", start="clean").scores["RetFail"].value
        compromised = one("none", {}, "compromised").scores["RetFail"].value
        table: dict[str, Any] = {}
        for method, (option, values) in GRID.items():
            trials, gaps = [], []
            for value in values:
                record = one(method, {option: value}, f"{method}-{option}-{value:g}")
                scores = {name: round(score.value, 4) for name, score in record.scores.items()}
                gap = abs(record.scores["RetFail"].value - clean) / abs(compromised - clean) if scores else float("inf")
                gaps.append(gap)
                trials.append({option: value, "status": record.status, "RetFail gap": round(gap, 4), "scores": scores})
            table[method] = {"option": option, "chosen": values[choose(gaps)], "trials": trials}
    write_json(
        summary,
        {
            "command": "uv run python benchmarks/mini/experiments/search_defaults.py",
            "benchmark": "mini", "benchmark seed": BENCH_SEED, "training seed": 0, "budget": 1,
            "rule": f"first value with RetFail gap <= {ENOUGH}, else the smallest gap",
            "RetFail": {"clean": round(clean, 4), "compromised": round(compromised, 4)},
            "methods": table,
        },
    )  # fmt: skip
    for method, found in table.items():
        print(f"{method}: {found['option']} = {found['chosen']:g}")


if __name__ == "__main__":
    main()
