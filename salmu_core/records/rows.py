"""Per-row values that a run keeps beside its record, and scores of resampled identities made from them. Read without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salmu_core.errors import BadRecord, DamagedFile
from salmu_core.files.seals import check_tensors
from salmu_core.records.schema import RunRecord
from salmu_core.seeding import numpy_generator

#: METRIC/rows: float [n], the score is their mean; METRIC/cluster: int [n], rows with one number are one identity (or class), one
#: number being one identity in all metrics of a run. A metric without METRIC/cluster has independent rows.
ROWS = "rows"
CLUSTER = "cluster"
RESAMPLES = 1000
_AGAIN = (
    "Run the run again, or delete this file: the scores in the record need no rows, and identities are then not resampled."
)
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
    """What the sidecar of a record holds, by metric. Empty where it is missing or was written before clusters were (0.1): then
    identities are not resampled.

    Raises:
        BadRecord: it is damaged.
    """
    arrays = _arrays(record, folder)
    if record.scores and not any(name.endswith(f"/{CLUSTER}") for name in arrays):
        return {}
    return {name: cluster_sums(arrays, name) for name in record.scores if f"{name}/{ROWS}" in arrays}


def read_rows(record: RunRecord, folder: Path | None, metrics: Iterable[str]) -> dict[str, np.ndarray]:
    """The rows of some metrics, float [n] in the order of their split; those that were not kept are left out."""
    wanted = [name for name in metrics if name in record.scores]
    arrays = _arrays(record, folder) if wanted else {}
    return {name: np.asarray(arrays[f"{name}/{ROWS}"], dtype=np.float64) for name in wanted if f"{name}/{ROWS}" in arrays}


def check_rows(record: RunRecord, folder: Path) -> None:
    """Make sure that the sidecar of a record, where there is one, is whole and the record's own.

    Raises:
        BadRecord: it is damaged, or scores are not the means of its rows.
    """
    arrays = _arrays(record, folder)
    labels = sum(len(values) for values in arrays.values() if values.ndim)  # there are no more than this
    for name, score in record.scores.items():
        rows, cluster = arrays.get(f"{name}/{ROWS}"), arrays.get(f"{name}/{CLUSTER}")
        if rows is None:
            continue
        if rows.ndim != 1 or rows.dtype.kind not in "fiub" or not np.isfinite(values := rows.astype(np.float64)).all():
            fault = "are not finite numbers"
        elif score.n not in (0, len(rows)) or not len(rows):
            fault = f"are {len(rows)}, where the record says {score.n}"
        elif not np.isclose(values.mean(), score.value, rtol=1e-5, atol=1e-6):
            fault = f"have the mean {values.mean():g}, where the record says {score.value:g}"
        elif cluster is not None and (
            cluster.dtype.kind not in "iu" or cluster.shape != rows.shape or cluster.min() < 0 or cluster.max() >= labels
        ):
            fault = "do not say to which identities they belong"
        else:
            continue
        raise BadRecord(
            f"'{folder / str(record.rows_file)}' does not belong to its record: the rows of {name} {fault}.", _AGAIN
        )


def _arrays(record: RunRecord, folder: Path | None) -> Mapping[str, np.ndarray]:
    if folder is None or record.rows_file is None or not os.path.lexists(path := folder / record.rows_file):
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        check_tensors(path)  # first of all: it does not wait for pipes
        arrays = load_file(path)
        check_tensors(path, required=any(name.endswith(f"/{CLUSTER}") for name in arrays))  # 0.1 wrote none of both
        return arrays
    except (DamagedFile, SafetensorError, OSError, KeyError, TypeError) as error:  # a number type that NumPy lacks
        said = error.message if isinstance(error, DamagedFile) else f"'{path}' cannot be read: {error}."
        raise BadRecord(said, _AGAIN) from error


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
            weighed: dict[bytes, np.ndarray] = {}  # runs of one instance have rows of the same people
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
                if (key := sizes.tobytes()) not in weighed:
                    weighed[key] = drawn @ sizes
                values[name].append((drawn @ sums) / weighed[key])
    return [{name: np.concatenate(parts) for name, parts in values.items()} for values in found]
