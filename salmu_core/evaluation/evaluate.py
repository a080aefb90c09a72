"""From a model and a benchmark to scores: plan, one embedding pass, metrics, intervals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache
from salmu_core.data.processes import process_index
from salmu_core.errors import PluginFailure
from salmu_core.evaluation.embed import EmbeddingCache, Tell, embed_views
from salmu_core.evaluation.measure import described as described
from salmu_core.evaluation.measure import measure, read_only
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.evaluation.report_data import make_exhibits
from salmu_core.metric import Metric, NotMeasurable
from salmu_core.models.dual_encoder import DualEncoder, Tower
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.report_data import Exhibits
from salmu_core.records.rows import CLUSTER
from salmu_core.records.schema import ScoreRecord


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model.

    Attributes:
        rows: per-row arrays for the sidecar, by "metric/what".
        exhibits: what a report shows of it, made by the main process alone.
        broken: metric -> what went wrong in it; the others are not touched.
        warnings: what metrics left changed in the process, which was put back.
    """

    scores: Mapping[str, ScoreRecord]
    skipped: Mapping[str, str]
    rows: Mapping[str, np.ndarray]
    seconds: Mapping[str, float] = field(default_factory=dict)
    exhibits: Exhibits | None = None
    broken: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def whole(self) -> Evaluation:
        """Itself, for those that need every metric.

        Raises:
            PluginFailure: one failed.
        """
        for name, problem in self.broken.items():
            raise PluginFailure(f"The metric {name} failed: {problem}.")
        return self


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
    """Score a model with every metric that the benchmark supports. A metric that fails is named in `broken`.

    Args:
        cache, data, fingerprint: see `embed_views`.

    Raises:
        BadData, Diverged, OutputError: see `embed_views`.
    """
    warnings: list[str] = []
    plan = plan_evaluation(metrics, benchmark, read=True, warn=warnings.append)
    started = time.perf_counter()
    embedded = embed_views(model, benchmark, plan.all_views(), cache, tell, data=data, fingerprint=fingerprint)
    embedding_seconds = time.perf_counter() - started
    scores: dict[str, ScoreRecord] = {}
    skipped, broken = dict(plan.skipped), dict(plan.broken)
    rows: dict[str, np.ndarray] = {}
    clusters: dict[str, list[str]] = {}
    handed = {view: read_only(content) for view, content in embedded.items()}
    state = ProcessState()
    for number, metric in enumerate(plan.metrics):
        views = {argument: handed[view] for argument, view in plan.views[metric.name].items()}
        try:
            score, scores[metric.name] = measure(metric, views, benchmark, state, warnings.append)
        except NotMeasurable as reason:
            skipped[metric.name] = str(reason)
            continue
        except PluginFailure as failure:
            broken[metric.name] = failure.message
            continue
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
    return Evaluation(scores, skipped, rows, seconds, exhibits, broken, tuple(dict.fromkeys(warnings)))


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
