"""Choosing options without looking at evaluation data: `salmu tune`.

Names are resolved when first used: `salmu --help` imports this package and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salmu_tune.search import tune as tune

__all__ = ["tune"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'salmu_tune' has no attribute '{name}'")
    return getattr(importlib.import_module("salmu_tune.search"), name)
