"""What the pair measures, for several benchmark seeds.

    uv run python benchmarks/mini/experiments/verify_pair.py --seeds 0,1,2

Builds what is missing, scores Clean and Compromised and writes `benchmarks/mini/results/pair.json`.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from salmu_core import evaluate
from salmu_core.files import write_json
from salmu_core.plugins import load_plugins
from salmu_core.runner.resolve import make_benchmark


@click.command()
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--summary", type=click.Path(path_type=Path), default=Path(__file__).parents[1] / "results" / "pair.json")
def main(seeds: str, summary: Path) -> None:
    """Score the pairs."""
    plugins = load_plugins()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for seed in seeds.split(","):
        options = {"seed": int(seed)}
        benchmark = make_benchmark("mini", options, plugins)
        started = time.monotonic()
        cold = not benchmark.ready()
        benchmark.build()
        print(f"seed {seed}: " + (f"built in {time.monotonic() - started:.0f} s" if cold else "built before"), flush=True)
        found[seed] = {}
        for which in ("clean", "compromised"):
            scores = evaluate(which, benchmark="mini", benchmark_options=options, plugins=plugins).scores
            found[seed][which] = {name: round(score.value, 4) for name, score in scores.items()}
            print(
                f"  {which}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[seed][which].items()), flush=True
            )
    command = f"uv run python benchmarks/mini/experiments/verify_pair.py --seeds {seeds}"
    write_json(summary, {"command": command, "benchmark version": type(benchmark).version, "benchmark seed": found})


if __name__ == "__main__":
    main()
