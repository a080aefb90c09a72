"""Where packages that were written for salmu 0.1 find the checks: they are in `salmu_authors.testing` now."""

from __future__ import annotations

from typing import Any

from salmu_core.plugins.moved import moved


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'salmu_core.testing' has no attribute '{name}'")
    return getattr(moved("testing"), name)
