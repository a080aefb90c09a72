"""Finding and loading plugins and commands."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Names that stood in `salmu_core.plugins` itself in salmu 0.1."""
    if name.startswith("__"):
        raise AttributeError(f"module 'salmu_core.plugins' has no attribute '{name}'")
    return getattr(importlib.import_module("salmu_core.plugins.loading"), name)
