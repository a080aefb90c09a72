"""Per-row values that a run keeps beside its record, and scores of resampled identities made from them. Read without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salmu_core.records.schema import RunRecord
from salmu_core.seeding import numpy_generator

#: METRIC/rows: float [n], the score is their mean; METRIC/cluster: int [n], rows with one number are one identity (or class), one
#: number being one identity in all metrics of a run. A metric without METRIC/cluster has independent rows.
ROWS = "rows"
CLUSTER = "cluster"
RESAMPLES = 1000
_CELLS = 2_000_000  # weights drawn at once: bounds memory for tens of thousands of identities


@dataclass(frozen=True)
class ClusterSums:
    """One metric of one run, summed by cluster.

    Attributes:
        sums, sizes: float [clusters], of the rows' values and their number.
        label: int [clusters], the clusters' numbers; None when every row stands for itself.
    """

    sums: np.ndarray
    sizes: np.ndarray
    label: np.ndarray | None


def read_cluster_sums(record: RunRecord, folder: Path | None) -> dict[str, ClusterSums]:
    """What the sidecar of a record holds, by metric. Empty where there is none, it cannot be read, or it was written before clusters
    were (0.1): then identities are not resampled."""
    arrays = _arrays(record, folder)
    if record.scores and not any(name.endswith(f"/{CLUSTER}") for name in arrays):
        return {}
    return {name: cluster_sums(arrays, name) for name in record.scores if f"{name}/{ROWS}" in arrays}


def read_rows(record: RunRecord, folder: Path | None, metrics: Iterable[str]) -> dict[str, np.ndarray]:
    """The rows of some metrics, float [n] in the order of their split; those that were not kept are left out."""
    wanted = [name for name in metrics if name in record.scores]
    arrays = _arrays(record, folder) if wanted else {}
    return {name: np.asarray(arrays[f"{name}/{ROWS}"], dtype=np.float64) for name in wanted if f"{name}/{ROWS}" in arrays}


def _arrays(record: RunRecord, folder: Path | None) -> Mapping[str, np.ndarray]:
    if folder is None or record.rows_file is None or not (path := folder / record.rows_file).is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return {}


def cluster_sums(arrays: Mapping[str, np.ndarray], metric: str) -> ClusterSums:
    """A metric's rows [n], summed by cluster."""
    rows = np.asarray(arrays[f"{metric}/{ROWS}"], dtype=np.float64)
    labels = arrays.get(f"{metric}/{CLUSTER}")
    if labels is None:
        return ClusterSums(rows, np.ones(len(rows)), None)
    present, codes = np.unique(labels, return_inverse=True)
    return ClusterSums(np.bincount(codes, weights=rows), np.bincount(codes).astype(float), present)


def resampled_scores(
    runs: Sequence[Mapping[str, ClusterSums]], names: Iterable[str], resamples: int = RESAMPLES
) -> list[dict[str, np.ndarray]]:
    """The score of every run and metric on `resamples` resamples of the identities: float [resamples] each.

    All runs see the same resamples, and an identity is drawn alike for all metrics, so differences between runs and anything that
    is computed from several metrics have the right spread. The Bayesian bootstrap (Rubin 1981): every cluster weighs as an
    exponential variable does, which is as wide as drawing clusters with replacement and needs no common list of clusters.

    Args:
        runs: of one benchmark instance.
        names: the metrics wanted; one that a run lacks rows of is left out of its result.
    """
    wanted = list(names)
    own = {name: max((len(run[name].sums) for run in runs if name in run), default=0) for name in wanted}
    shared = 1 + max(
        (int(part.label.max()) for run in runs for part in run.values() if part.label is not None and len(part.label)),
        default=-1,
    )
    generator = numpy_generator(0, "identities")
    found: list[dict[str, list[np.ndarray]]] = [{name: [] for name in wanted if name in run} for run in runs]
    step = max(1, _CELLS // max(1, shared, *own.values()))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        weights = generator.standard_exponential((size, shared))
        for name in wanted:
            alone: np.ndarray | None = None
            for run, values in zip(runs, found, strict=True):
                if name not in run:
                    continue
                part = run[name]
                if part.label is None:
                    if alone is None:
                        alone = numpy_generator(start, "rows", name).standard_exponential((size, own[name]))
                    drawn, sums, sizes = alone[:, : len(part.sums)], part.sums, part.sizes
                else:
                    drawn = weights
                    # At the place of its number; those that are not there weigh nothing.
                    sums, sizes = (np.bincount(part.label, of, shared) for of in (part.sums, part.sizes))
                values[name].append((drawn @ sums) / (drawn @ sizes))
    return [{name: np.concatenate(parts) for name, parts in values.items()} for values in found]
