"""Forget associations, keep their neighbours."""

from __future__ import annotations

from salmu_core import UnlearningMethod, hookimpl
from salmu_selective.method import Selective


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """The selective method."""
    return [Selective]
