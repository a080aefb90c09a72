"""Dampening: shrink weights by how much forget pairs and others need them, measured by squared gradients. SSD and PPP."""

from __future__ import annotations

from salmu_core import UnlearningMethod, hookimpl
from salmu_dampening.partitioned import PartitionedDampening
from salmu_dampening.selective import SelectiveSynapticDampening


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """SSD and PPP."""
    return [SelectiveSynapticDampening, PartitionedDampening]
