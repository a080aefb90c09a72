"""Publishing a run on the Hugging Face hub: its model, a card that explains it, and its record.

Names are resolved when first used: `salmu --help` imports this package and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salmu_share.upload import push as push

__all__ = ["push"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'salmu_share' has no attribute '{name}'")
    return getattr(importlib.import_module("salmu_share.upload"), name)
