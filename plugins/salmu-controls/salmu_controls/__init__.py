"""Controls: rows of a leaderboard that propose nothing. A score that one of them can win is a fault of the score, or of the data."""

from __future__ import annotations

from salmu_controls.captions import CaptionCentroid
from salmu_controls.weights import CleanOracle, MatchedNoise
from salmu_controls.words import NameShuffle, WordRemoval
from salmu_core import UnlearningMethod, hookimpl

__all__ = ["CaptionCentroid", "CleanOracle", "MatchedNoise", "NameShuffle", "WordRemoval", "register_methods"]


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Every control."""
    return [WordRemoval, NameShuffle, CaptionCentroid, MatchedNoise, CleanOracle]
