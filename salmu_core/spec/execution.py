"""How runs are carried out, from the flags to the training loop: one value, which changes time and memory and no identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Which runs get a process of their own.
Isolation = Literal["third-party", "all", "none"]


@dataclass(frozen=True)
class Execution:
    """How runs are carried out: what it changes is time and memory, and values by rounding only.

    Args:
        micro_batch: rows that go through an encoder at a time while training; losses still see whole batches. None: whole batches.
        checkpoint_activations: compute the activations of each layer again in the backward pass instead of keeping them.
        compile: compile the encoders with torch.compile where there is a compiler.
        cpu: stay on the CPU even where there is an accelerator.
        checkpoint_seconds: time between checkpoints of a fit.
        keep_pixels: keep decoded images in the cache, for every later model and process.
        log_with: a tracker that Accelerate knows, e.g. "tensorboard".
        isolate: which runs of a comparison get a process that carries out nothing else: those of methods whose package is not
            salmu's own (see `salmu_core.plugins.own_packages`), all or none. Another process finds no plugin that is not installed.
        time_limit: seconds that a run of a comparison may take, from the start of its process to its record; None: any.
    """

    micro_batch: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    cpu: bool = False
    checkpoint_seconds: float = 30.0
    keep_pixels: bool = True
    log_with: str | None = None
    isolate: Isolation = "third-party"
    time_limit: float | None = None
