"""What this package registers: its attacks, and attacking the runs of a comparison."""

from __future__ import annotations

from salmu_audits.comparison import attack_runs as attack_runs
from salmu_audits.identity import DejaVuAttributes, IdentityInference
from salmu_audits.inversion import NameInversion
from salmu_audits.layers import LayerProbe, LayerSimilarity
from salmu_audits.membership import (
    AugmentedMembership,
    CalibratedMembership,
    GradientMembership,
    SimilarityMembership,
    WeaklySupervisedMembership,
)
from salmu_audits.probes import LinearMap, PairProbe, UnseenWordings
from salmu_audits.relearning import BenignRelearning, FewShotRelearning, OnePhotoRelearning
from salmu_audits.values import FaceValueProbe, NamedValueProbe
from salmu_audits.weights import (
    Int4Rounding,
    Int8Rounding,
    OriginalImageTower,
    OriginalTextTower,
    OriginalTokenTable,
    SoupBack,
)
from salmu_core import Audit, hookimpl

AUDITS: list[type[Audit]] = [
    FaceValueProbe,
    NamedValueProbe,
    UnseenWordings,
    NameInversion,
    OnePhotoRelearning,
    FewShotRelearning,
    BenignRelearning,
    Int8Rounding,
    Int4Rounding,
    LinearMap,
    PairProbe,
    LayerProbe,
    IdentityInference,
    SimilarityMembership,
    AugmentedMembership,
    WeaklySupervisedMembership,
    GradientMembership,
    CalibratedMembership,
    DejaVuAttributes,
    OriginalImageTower,
    OriginalTextTower,
    OriginalTokenTable,
    SoupBack,
    LayerSimilarity,
]


@hookimpl
def register_audits() -> list[type[Audit]]:
    """All of them."""
    return AUDITS
