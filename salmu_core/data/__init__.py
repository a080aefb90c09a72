"""Pairs, splits and batches, and the cache of decoded pictures."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Names that stood in `salmu_core.data` itself in salmu 0.1."""
    if name.startswith("__"):
        raise AttributeError(f"module 'salmu_core.data' has no attribute '{name}'")
    return getattr(importlib.import_module("salmu_core.data.pairs"), name)
