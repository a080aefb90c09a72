"""Seconds and memory of each metric and of its interval at SALMUBench's row counts, from random embeddings.

    uv run python benchmarks/perf/metrics.py [--threads N] [--genknow] [--dim 512] [--solvers]

Embeddings are what a metric is given, so no model and no data are needed: pairs share a direction as strongly as those of the
Compromised model (mean cosine 0.3). `cpu` sums over cores: what `seconds` would be on one core that does nothing else. Memory is
the peak of the process while metric and interval are computed, less what it held before.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import psutil
import torch
from machine import processor

from salmu_core import Embedded, Metric, Score, View
from salmu_core.evaluation.bootstrap import clustered_interval
from salmu_core.plugins.loading import load_plugins
from salmu_core.runner.provenance import MemoryPeak
from salmu_core.spec.resolve import make_metrics
from salmu_metrics import association_consistency

#: split -> rows and identities; None: every row stands for itself. The size of fragile_set is not published: a guess.
ROWS: dict[str, tuple[int, int | None]] = {
    "forget": (30_468, 580),
    "forget_identity": (15_342, 193),
    "holdout_identity": (14_642, 194),
    "holdout_association": (14_943, 387),
    "retain_joint": (1_000, 580),
    "retain_disjoint": (15_741, None),
    "fragile_set": (5_000, None),
    "genknow": (50_000, 1000),
    "genknow_prompts": (80_000, 1000),
}
COSINE = 0.32


def embeddings(split: str, side: str, dim: int) -> torch.Tensor:
    """Unit-length fp32 rows. Image i and text i have a mean cosine of about `COSINE`; like real ones, rows lie mostly in a few
    dozen directions, so that unrelated ones are often close as well."""
    spread = torch.arange(1, dim + 1) ** -0.9
    seed = sum(map(ord, split))
    shared = torch.randn(ROWS[split][0], dim, generator=torch.Generator().manual_seed(seed)) * spread
    own = torch.Generator().manual_seed(seed + (1 if side == "image" else 2))
    noise = torch.randn(shared.shape, generator=own) * spread
    return torch.nn.functional.normalize(COSINE**0.5 * shared + (1 - COSINE) ** 0.5 * noise, dim=-1)


def view(needed: View, dim: int) -> Embedded:
    """A view with the columns and captions that metrics ask for."""
    rows, groups = ROWS[needed.split]
    people = [None] * rows if groups is None else [f"{row % groups:08d}" for row in range(rows)]
    columns = {"identity_id": people, "label": [row % (groups or 1) for row in range(rows)]}
    texts = None
    vectors = embeddings(needed.split, needed.side, dim)
    if needed.side == "text":
        named = needed.split == "forget_identity"
        texts = [f"person {people[row]}" if named else f"{needed.split} caption {row}" for row in range(rows)]
    return Embedded(vectors, columns, texts)


class Measured(NamedTuple):
    """What one metric gave and took: seconds on the wall, seconds of all cores together, bytes at most."""

    score: Score
    seconds: float
    cpu: float
    interval: float
    memory: int


def measure(metric: Metric, views: Mapping[str, Embedded]) -> Measured:
    """Compute a metric, then its interval."""
    before = psutil.Process().memory_info().rss
    peak = MemoryPeak(torch.device("cpu"))
    started, cpu = time.perf_counter(), time.process_time()
    score = metric.compute(**views)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert score.rows is not None
    started = time.perf_counter()
    clustered_interval(np.asarray(score.rows, dtype=np.float64), score.clusters, metric.name)
    return Measured(score, seconds, cpu, time.perf_counter() - started, max(0, peak.bytes() - before))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (NumPy takes OMP_NUM_THREADS)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--genknow", action="store_true", help="also ImageNet's 50,000 pictures and 80,000 prompts")
    parser.add_argument("--solvers", action="store_true", help="instead: how ACS depends on the solver of its regression")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    print(
        f"{processor()}, {os.cpu_count()} cores with a load of {load:.1f}, {arguments.threads} threads; torch {torch.__version__}"
    )
    if arguments.solvers:
        compare_solvers(arguments.dim)
        return
    print(f"\n{'metric':<12}{'rows':>8}{'value':>9}{'seconds':>9}{'cpu':>8}{'interval':>10}{'memory':>12}")
    import sklearn.linear_model  # noqa: F401  (a second that only the first evaluation pays)

    found = []
    for metric in make_metrics(load_plugins()):
        if metric.name == "GenKnow" and not arguments.genknow:
            continue
        views = {name: view(needed, arguments.dim) for name, needed in metric.needs().items()}
        one = measure(metric, views)
        assert one.score.rows is not None
        print(f"{metric.name:<12}{len(one.score.rows):>8}{one.score.value:>9.4f}" + columns(one))
        found.append(one)
    seconds, cpu_seconds, interval = (sum(getattr(one, name) for one in found) for name in ("seconds", "cpu", "interval"))
    print(f"{'all':<29}" + columns(Measured(found[0].score, seconds, cpu_seconds, interval, max(m.memory for m in found))))


def compare_solvers(dim: int) -> None:
    """The same ACS solved by other means: values, and held-out pairs that are judged otherwise than at the optimum."""
    from sklearn.linear_model import LogisticRegression

    def plain(solver: str, tolerance: float) -> Callable[..., LogisticRegression]:
        def fit(features: np.ndarray, labels: np.ndarray, inverse_penalty: float) -> LogisticRegression:
            regression = LogisticRegression(C=inverse_penalty, solver=solver, tol=tolerance, max_iter=5000)
            return regression.fit(features, labels)

        return fit

    views = {name: view(needed, dim) for name, needed in association_consistency.ACS().needs().items()}
    solvers = {
        "Newton to 1e-10": plain("newton-cholesky", 1e-10),
        "ours": association_consistency.fit_regression,
        "lbfgs to 1e-4 (scikit-learn's default)": plain("lbfgs", 1e-4),
        "lbfgs to 1e-6": plain("lbfgs", 1e-6),
    }
    optimum: np.ndarray | None = None
    print(f"\n{'solver':<40}{'ACS':>9}{'other verdicts':>16}{'cpu':>8}")
    for name, solver in solvers.items():
        association_consistency.fit_regression = solver
        started = time.process_time()
        score = association_consistency.ACS().compute(**views)
        seconds = time.process_time() - started
        assert score.rows is not None
        optimum = score.rows if optimum is None else optimum
        print(f"{name:<40}{score.value:>9.5f}{int((score.rows != optimum).sum()):>16}{seconds:>8.2f}")


def columns(one: Measured) -> str:
    """Times and memory, aligned."""
    return f"{one.seconds:>9.3f}{one.cpu:>8.3f}{one.interval:>10.3f}{one.memory / 2**20:>8.0f} MiB"


if __name__ == "__main__":
    main()
