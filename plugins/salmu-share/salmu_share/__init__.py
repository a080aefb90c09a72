"""Sharing results: a run on the Hugging Face hub, and a leaderboard that others can add to.

Names are resolved when first used: `salmu --help` imports this package and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from salmu_share.board.check import Checks as Checks
    from salmu_share.board.site import check_board as check_board
    from salmu_share.board.submit import submit as submit
    from salmu_share.upload import push as push

_HOMES = {"Checks": "board.check", "check_board": "board.site", "push": "upload", "submit": "board.submit"}
__all__ = ["Checks", "check_board", "push", "submit"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'salmu_share' has no attribute '{name}'")
    return getattr(importlib.import_module(f"salmu_share.{_HOMES[name]}"), name)
