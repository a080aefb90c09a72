"""Attacks that try to get forgotten associations back out of a model.

Names are resolved when first used: `salmu --help` imports this package and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salmu_audits.plugin import AUDITS as AUDITS
    from salmu_audits.runner import audit as audit

_HOMES = {"AUDITS": "plugin", "audit": "runner"}
__all__ = ["audit"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'salmu_audits' has no attribute '{name}'")
    return getattr(importlib.import_module(f"salmu_audits.{_HOMES[name]}"), name)
