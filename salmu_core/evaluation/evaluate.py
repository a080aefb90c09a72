"""From a model and a benchmark to scores: plan, one embedding pass, metrics, intervals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache
from salmu_core.data.processes import process_index
from salmu_core.errors import PluginFailure, SalmuError
from salmu_core.evaluation.bootstrap import clustered_interval
from salmu_core.evaluation.embed import EmbeddingCache, Tell, embed_views
from salmu_core.evaluation.exhibits import make_exhibits
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.metric import Metric, NotMeasurable, Score
from salmu_core.models.dual_encoder import DualEncoder, Tower
from salmu_core.records.exhibits import Exhibits
from salmu_core.records.rows import CLUSTER
from salmu_core.records.schema import ScoreRecord


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model; `rows` are per-row arrays for the sidecar, by "metric/what"; `exhibits` what a report shows of it
    (made by the main process alone)."""

    scores: Mapping[str, ScoreRecord]
    skipped: Mapping[str, str]
    rows: Mapping[str, np.ndarray]
    seconds: Mapping[str, float] = field(default_factory=dict)
    exhibits: Exhibits | None = None


def evaluate_model(
    model: DualEncoder,
    benchmark: Benchmark,
    metrics: Iterable[Metric],
    cache: EmbeddingCache | None = None,
    tell: Tell = lambda stage, done, total: None,
    *,
    data: DataCache | None = None,
    fingerprint: Mapping[Tower, str] | None = None,
) -> Evaluation:
    """Score a model with every metric that the benchmark supports.

    Args:
        cache, data, fingerprint: see `embed_views`.

    Raises:
        PluginFailure: a metric raised, or returned a value that does not fit its own declaration; the metric is named.
        BadData, Diverged, OutputError: see `embed_views`.
    """
    plan = plan_evaluation(metrics, benchmark, read=True)
    started = time.perf_counter()
    embedded = embed_views(model, benchmark, plan.all_views(), cache, tell, data=data, fingerprint=fingerprint)
    embedding_seconds = time.perf_counter() - started
    scores: dict[str, ScoreRecord] = {}
    skipped = dict(plan.skipped)
    rows: dict[str, np.ndarray] = {}
    clusters: dict[str, list[str]] = {}
    for number, metric in enumerate(plan.metrics):
        views = {argument: embedded[view] for argument, view in plan.views[metric.name].items()}
        try:
            score = metric.compute(**views)
        except NotMeasurable as reason:
            skipped[metric.name] = str(reason)
            continue
        except SalmuError as error:
            raise type(error)(f"The metric {metric.name}: {error.message}", error.hint) from error
        except Exception as error:
            raise PluginFailure(f"The metric {metric.name} failed: {type(error).__name__}: {error}") from error
        scores[metric.name] = _record(metric, score, benchmark)
        if score.rows is not None:
            rows[f"{metric.name}/rows"] = np.asarray(score.rows)
            if score.clusters is not None:
                clusters[metric.name] = [str(label) for label in score.clusters]
        rows |= {f"{metric.name}/{name}": np.asarray(values) for name, values in score.details.items()}
        tell("score", number + 1, len(plan.metrics))
    rows |= _numbered(clusters)
    scored = time.perf_counter()
    exhibits = make_exhibits(benchmark, plan, embedded) if process_index() == 0 else None
    seconds = {
        "embed": embedding_seconds,
        "score": scored - started - embedding_seconds,
        "exhibits": time.perf_counter() - scored,
    }
    return Evaluation(scores, skipped, rows, seconds, exhibits)


def _numbered(clusters: Mapping[str, list[str]]) -> dict[str, np.ndarray]:
    """Which rows belong together, as numbers: paired tests need to know, and the labels may be people's names.

    Numbered over all metrics at once, so that a person has one number wherever they appear.
    """
    known = {
        label: number for number, label in enumerate(sorted({label for labels in clusters.values() for label in labels}))
    }
    return {
        f"{metric}/{CLUSTER}": np.fromiter((known[label] for label in labels), dtype=np.int64, count=len(labels))
        for metric, labels in clusters.items()
    }


def described(metric: Metric, benchmark: Benchmark) -> dict[str, Any]:
    """What a record says of a score's metric, whoever measured it, and what it counts on a benchmark.

    Raises:
        PluginFailure: the benchmark counts a metric of this name that looks at something else.
    """
    names = ("target", "aspect", "primary", "bounds", "summary", "tolerance", "scored")
    found = {name: getattr(metric, name) for name in names}
    if benchmark.scoring is None:
        return found
    counted = benchmark.scoring.get(metric.name)
    if counted is not None and (counted.target, counted.aspect) != (metric.target, metric.aspect):
        raise PluginFailure(
            f"{benchmark.name} counts {metric.name} as {counted.aspect} with target {counted.target}, and the installed metric of"
            f" that name says {metric.aspect} with target {metric.target}."
        )
    return {**found, "weight": float(counted is not None)}


def _record(metric: Metric, score: Score, benchmark: Benchmark) -> ScoreRecord:
    low = high = None
    clusters = 0
    value = float(score.value)
    if not np.isfinite(value):
        raise PluginFailure(f"The metric {metric.name} gave {value}, which is not a number to compare.")
    if score.rows is not None:
        values = np.asarray(score.rows, dtype=np.float64)
        if not np.isclose(values.mean(), value, rtol=1e-5, atol=1e-6):
            raise PluginFailure(f"The metric {metric.name} gave {value}, which is not the mean {values.mean()} of its rows.")
        low, high, clusters = clustered_interval(values, score.clusters, metric.name)
    return ScoreRecord(
        value=value,
        **described(metric, benchmark),
        chance=metric.chance if score.chance is None else score.chance,
        n=0 if score.rows is None else len(score.rows),
        clusters=clusters,
        low=low,
        high=high,
        extras=dict(score.extras),
    )
