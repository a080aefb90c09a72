"""Did a general metric really fall? A paired test over the rows that both models were measured on. Read without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import special

from salmu_core.records.rows import read_rows
from salmu_core.records.schema import RunRecord

#: A fall is real when its one-sided p is at most this.
LEVEL = 0.05


@dataclass(frozen=True)
class Fall:
    """What a paired test says of a fall.

    Attributes:
        p: one-sided, of a fall at least as large if neither model were better.
        rows: that were compared.
    """

    p: float
    rows: int

    @property
    def real(self) -> bool:
        """Is it more than chance?"""
        return self.p <= LEVEL

    @property
    def in_words(self) -> str:
        """The p with its sign, as sentences show it."""
        return "< .001" if self.p < 0.001 else f"= {self.p:.3f}"


def fall_test(before: np.ndarray, after: np.ndarray) -> Fall:
    """Is the mean of `after` lower than that of `before`, row by row?

    Outcomes of right and wrong are compared by McNemar's exact test: of the rows that changed, is it more than half that became
    wrong? Other values by a paired t-test. Source: McNemar 1947; Agresti 2013, section 11.1.

    Args:
        before, after: float [n], of the same rows in the same order.

    Example:
        >>> import numpy as np
        >>> fall_test(np.array([1, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 0, 0])).p
        0.03125
    """
    count = len(before)
    if all(((values == 0) | (values == 1)).all() for values in (before, after)):
        lost, gained = int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
        # At least as many lost ones, were it a coin that decided for each.
        return Fall(float(special.bdtrc(lost - 1, lost + gained, 0.5)) if lost else 1.0, count)
    changed = before - after
    if np.ptp(changed) == 0:  # all alike: no spread to test by
        return Fall(0.0 if count > 1 and changed[0] > 0 else 1.0, count)
    t = changed.mean() / (changed.std(ddof=1) / math.sqrt(count))
    return Fall(float(special.stdtr(count - 1, -t)), count)


def fall_tests(record: RunRecord, folder: Path | None, before: Mapping[str, np.ndarray]) -> Mapping[str, Fall]:
    """The tests of a run's general metrics against Compromised; nothing where either kept no rows, or other ones.

    Args:
        folder: where the run's record lies.
        before: Compromised's `general_rows`.
    """
    after = general_rows(record, folder) if before else {}
    return {
        name: fall_test(before[name], rows)
        for name, rows in after.items()
        if name in before and len(rows) == len(before[name]) > 0
    }


def general_rows(record: RunRecord, folder: Path | None) -> dict[str, np.ndarray]:
    """The rows of a record's general metrics, float [n] each; those that were not kept are left out."""
    return read_rows(record, folder, [name for name, score in record.scores.items() if score.aspect == "general"])
