"""A flat map of embeddings: the two directions along which Compromised's pictures and captions spread most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from salmu_core.records.report_data import Vectors


@dataclass(frozen=True)
class Projection:
    """PCA fitted on one model, used for every model of a report, so that points can be compared.

    Pictures and captions lie in two separate clouds (the modality gap), which would fill the first direction. Each side is
    therefore centred on its own mean first: a pair that matches lies close together.

    Attributes:
        means: of the fitted model's pictures and captions.
        axes: unit-length columns.
        share: of the spread around the means that each direction holds.
    """

    means: Float[np.ndarray, "2 dim"]
    axes: Float[np.ndarray, "dim 2"]
    share: tuple[float, float]

    @classmethod
    def fit(cls, vectors: Vectors) -> Projection | None:
        """None where there are too few rows to span a map."""
        image, text = vectors.tables()
        if len(image) < 3:
            return None
        means = np.stack([image.mean(axis=0), text.mean(axis=0)])
        spread = np.concatenate([image - means[0], text - means[1]]).astype(np.float64)
        _, strength, directions = np.linalg.svd(spread, full_matrices=False)
        if len(strength) < 2:
            return None
        axes = directions[:2].T
        # A direction has no sign of its own: the largest entry is made positive, so the map is not mirrored at whim.
        axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
        total = float((strength**2).sum()) or 1.0
        return cls(means, axes, (float(strength[0] ** 2) / total, float(strength[1] ** 2) / total))

    def place(self, vectors: Vectors) -> tuple[Float[np.ndarray, "rows 2"], Float[np.ndarray, "rows 2"]] | None:
        """Where pictures and captions of a model lie; None where its embeddings have another size."""
        if vectors.dim != self.means.shape[1]:
            return None
        image, text = vectors.tables()
        return (image - self.means[0]) @ self.axes, (text - self.means[1]) @ self.axes
