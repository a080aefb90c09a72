"""Attacks that try to get forgotten associations back out of a model."""

from __future__ import annotations

from salmu_audits.membership import AugmentedMembership, CalibratedMembership, SimilarityMembership
from salmu_audits.probes import LinearMap, PairProbe, UnseenWordings
from salmu_audits.relearning import BenignRelearning, FewShotRelearning
from salmu_audits.weights import Int4Rounding, Int8Rounding, OriginalImageTower, OriginalTextTower
from salmu_core import Audit, hookimpl

AUDITS: list[type[Audit]] = [
    FewShotRelearning,
    BenignRelearning,
    Int8Rounding,
    Int4Rounding,
    LinearMap,
    PairProbe,
    OriginalImageTower,
    OriginalTextTower,
    UnseenWordings,
    SimilarityMembership,
    AugmentedMembership,
    CalibratedMembership,
]


@hookimpl
def register_audits() -> list[type[Audit]]:
    """All twelve."""
    return AUDITS
