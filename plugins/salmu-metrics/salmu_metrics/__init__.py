"""The ten metrics of SALMUBench (Selvas-Sala et al. 2026, arXiv 2603.26316), each a pure function and a thin class, and PrivPref."""

from __future__ import annotations

from salmu_core import Metric, hookimpl
from salmu_metrics.association_consistency import ACS as ACS
from salmu_metrics.association_consistency import held_out_verdicts as held_out_verdicts
from salmu_metrics.association_consistency import official_shuffle as official_shuffle
from salmu_metrics.association_consistency import pair_features as pair_features
from salmu_metrics.association_consistency import shuffled_captions as shuffled_captions
from salmu_metrics.core_association import CoreAssoc as CoreAssoc
from salmu_metrics.core_association import strongest_cosines as strongest_cosines
from salmu_metrics.general_knowledge import GenKnow as GenKnow
from salmu_metrics.identity_zero_shot import IdZSC as IdZSC
from salmu_metrics.pair_similarity import AssocStr as AssocStr
from salmu_metrics.pair_similarity import FragSim as FragSim
from salmu_metrics.pair_similarity import InterIdSim as InterIdSim
from salmu_metrics.pair_similarity import IntraIdSim as IntraIdSim
from salmu_metrics.pair_similarity import VisIdInt as VisIdInt
from salmu_metrics.pair_similarity import pair_cosines as pair_cosines
from salmu_metrics.private_preference import PrivPref as PrivPref
from salmu_metrics.retrieval_failure import RetFail as RetFail
from salmu_metrics.retrieval_failure import draw_distractors as draw_distractors
from salmu_metrics.retrieval_failure import ranks_and_ties as ranks_and_ties
from salmu_metrics.retrieval_failure import retrieval_ranks as retrieval_ranks
from salmu_metrics.zero_shot import class_vectors as class_vectors
from salmu_metrics.zero_shot import nearest_class as nearest_class


@hookimpl
def register_metrics() -> list[type[Metric]]:
    """The ten, in the order of the paper: forgetting efficacy, then utility. PrivPref stands with the first and is not scored."""
    return [RetFail, AssocStr, ACS, IdZSC, CoreAssoc, PrivPref, GenKnow, InterIdSim, IntraIdSim, VisIdInt, FragSim]
