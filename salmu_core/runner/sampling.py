"""Which rows a step sees: a pure function of seed and step, so a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from salmu_core.seeding import numpy_generator


class EpochSampler:
    """Batches of a constant size from a fresh permutation per epoch; the remainder of an epoch that fills no batch is left
    out, so that no batch holds a row twice. A split smaller than the batch is one batch.

    Args:
        rows: rows of the split.
        batch_size: rows per batch.
        seed, purpose: what the permutations are drawn from.
        drawn_from: permute this many rows and leave out those from `rows` on. Two splits of which one is the other plus
            more rows at its end then meet their common rows in the same order. Default: `rows`.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, *purpose: object, drawn_from: int | None = None) -> None:
        self.rows = rows
        self.batch_size = min(batch_size, rows)
        self.per_epoch = rows // self.batch_size

        def permutation(epoch: int) -> np.ndarray:
            order = numpy_generator(seed, "batches", *purpose, epoch).permutation(drawn_from or rows)
            return order[order < rows]

        self._permutation = lru_cache(maxsize=2)(permutation)

    def batch(self, step: int) -> Int[Tensor, " batch"]:
        """Row numbers of one step."""
        epoch, position = divmod(step, self.per_epoch)
        start = position * self.batch_size
        chosen: np.ndarray = self._permutation(epoch)[start : start + self.batch_size]
        return torch.from_numpy(chosen.copy())
