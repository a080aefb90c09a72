"""Files that are written whole or not at all, and noticed when they are changed."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Names that stood in `salmu_core.files` itself in salmu 0.1."""
    if name.startswith("__"):
        raise AttributeError(f"module 'salmu_core.files' has no attribute '{name}'")
    return getattr(importlib.import_module("salmu_core.files.writing"), name)
