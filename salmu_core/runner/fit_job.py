"""What the training loop is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from accelerate import Accelerator
from torch import Tensor, nn

from salmu_core.data.pairs import Batch
from salmu_core.data.pixels import PairStore
from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.gradients import Combine, OnGradients
from salmu_core.runner.sampling import EpochSampler

Loss = Callable[[DualEncoder, Batch], "Tensor | Mapping[str, Tensor]"]
#: Called after every optimiser step with its number, counted from 1; returning True ends the fit.
AfterStep = Callable[[int], "bool | None"]
#: Called with step, steps and the values to show.
OnStep = Callable[[int, int, Mapping[str, float]], None]


@dataclass
class Fit:
    """One call of the loop: what it is given. Numbers are per global batch, whatever the number of processes.

    Args:
        model: changed in place.
        loss: scalar, or named scalars that are summed.
        stores: pairs per role; every step sees one batch of each.
        options: learning rate, batch size and so on.
        steps: optimiser steps.
        params: what is trained; everything else stays bit-equal.
        meter: counts samples.
        seed, number: the batches of fit `number` are drawn from them.
        normalisation_training: batch-norm statistics move (training from scratch); off for unlearning.
        batch_sizes: rows of a batch per role, where they are fewer than `options.batch_size`: no more than a budget holds.
        samplers: which rows each step sees, per role; default: one `EpochSampler` for each store.
        on_gradients: changes the gradients in place before they are clipped and used.
        combine: makes one gradient of those of the loss's terms; default: their sum.
        extra_state: tensors to keep with the checkpoint, and how to take them back.
    """

    accelerator: Accelerator
    model: DualEncoder
    loss: Loss
    stores: Mapping[str, PairStore]
    options: FitOptions
    steps: int
    params: Sequence[nn.Parameter]
    meter: SampleMeter
    seed: int
    number: int = 0
    after_step: AfterStep | None = None
    on_step: OnStep | None = None
    checkpoints: Checkpoints | None = None
    extra_state: Callable[[], dict[str, Tensor]] = dict
    load_extra_state: Callable[[dict[str, Tensor]], None] = lambda state: None
    normalisation_training: bool = False
    samplers: Mapping[str, EpochSampler] | None = None
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    on_gradients: OnGradients | None = None
    combine: Combine | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds_before_resume: float = 0.0
