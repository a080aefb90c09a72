"""How runs are carried out, from the flags to the training loop: one value, which changes time and memory and no identity."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    micro_batch: int | None = None
    checkpoint_activations: bool = False
    compile: bool = False
    cpu: bool = False
    checkpoint_seconds: float = 30.0
    keep_pixels: bool = True
    log_with: str | None = None
