"""95 % intervals by resampling clusters (identities, classes), because rows of one identity rise and fall together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from salmu_core.seeding import numpy_generator

RESAMPLES = 1000
_CELLS = 4_000_000  # clusters drawn at once: bounds memory for tens of thousands of them
_COUNTED = 2048  # up to so many clusters, how often each is drawn is drawn; beyond, which ones, at a tenth of the time


def clustered_interval(
    rows: np.ndarray, clusters: Sequence[Any] | None, *purpose: object, resamples: int = RESAMPLES
) -> tuple[float, float, int]:
    """Percentile bootstrap interval of the mean of `rows` [n], resampling clusters with replacement.

    Args:
        rows: float [n].
        clusters: n labels, or None when every row stands for itself.
        purpose: what the draws are seeded from, so that a score has the same interval every time.

    Returns:
        Lower end, upper end, number of clusters. Source: Efron & Tibshirani 1993, ch. 13; clustering as in Field & Welsh
        2007 (randomised cluster bootstrap).
    """
    labels = [str(label) for label in (range(len(rows)) if clusters is None else clusters)]
    place = {label: code for code, label in enumerate(sorted(set(labels)))}
    codes = np.fromiter((place[label] for label in labels), dtype=np.int64, count=len(labels))
    count = len(place)
    sums = np.bincount(codes, weights=rows, minlength=count)
    sizes = np.bincount(codes, minlength=count).astype(float)
    generator = numpy_generator(0, "bootstrap", *purpose)
    means: list[np.ndarray] = []
    step = max(1, _CELLS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if count <= _COUNTED:
            times = generator.multinomial(count, np.full(count, 1 / count), size=size)
            means.append((times @ sums) / (times @ sizes))
        else:
            drawn = generator.integers(count, size=(size, count))
            means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high), count
