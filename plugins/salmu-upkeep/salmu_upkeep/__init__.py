"""Keep results and data in order: repeat records, measure finished runs by new metrics, show a results folder while it grows, fetch,
check and export data.

Names are resolved when first used: `salmu --help` imports this package and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salmu_upkeep.repeating import Replay as Replay
    from salmu_upkeep.repeating import replay as replay
    from salmu_upkeep.rescoring import Rescored as Rescored
    from salmu_upkeep.rescoring import rescore as rescore

_PLACES = {"Replay": "repeating", "replay": "repeating", "Rescored": "rescoring", "rescore": "rescoring"}
__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'salmu_upkeep' has no attribute '{name}'")
    return getattr(importlib.import_module(f"salmu_upkeep.{_PLACES[name]}"), name)
