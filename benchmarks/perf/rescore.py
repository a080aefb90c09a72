"""Scoring a model for the first time against scoring it again, and one embedding pass against one pass per metric.

    uv run python benchmarks/perf/rescore.py

Prints seconds and ratios measured side by side in this process, on the Compromised model of `mini` (built when missing).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from salmu_core.evaluation.embed import EmbeddingCache
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.plugins import load_plugins
from salmu_core.runner.resolve import make_benchmark, make_metrics


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    plugins = load_plugins()
    benchmark = make_benchmark("mini", {}, plugins)
    benchmark.build()
    metrics = make_metrics(plugins)
    for name in benchmark.splits():
        benchmark.split(name)  # reading tables is not what is measured
    model = benchmark.load_model("compromised")
    with tempfile.TemporaryDirectory() as folder:
        evaluate_model(
            model, benchmark, metrics, EmbeddingCache(Path(folder))
        )  # warm-up: imports, and the pixel cache below
        shared = seconds(lambda: evaluate_model(model, benchmark, metrics))
        separate = seconds(lambda: [evaluate_model(model, benchmark, [metric]) for metric in metrics])
        again = seconds(
            lambda: evaluate_model(benchmark.load_model("compromised"), benchmark, metrics, EmbeddingCache(Path(folder)))
        )
    print(f"one embedding pass for {len(metrics)} metrics: {shared:.2f} s")
    print(f"one pass per metric:              {separate:.2f} s ({separate / shared:.1f}x)")
    print(f"scored again from the cache:      {again:.2f} s ({shared / again:.1f}x faster than the first time)")


if __name__ == "__main__":
    main()
