"""Relabelling: train forget images on with captions that are wrong, or that say nothing private."""

from __future__ import annotations

from salmu_core import UnlearningMethod, hookimpl
from salmu_relabel.generic import GenericCaptions
from salmu_relabel.shuffled import ShuffledCaptions


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Shuffled and generic captions."""
    return [ShuffledCaptions, GenericCaptions]
