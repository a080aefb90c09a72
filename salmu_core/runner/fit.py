"""The only training loop. Unlearning methods and benchmarks that train their own pair both go through `fit`.

Model and loss are put into one module, that module is prepared by Accelerate and called once per step. So whatever a loss
does with the encoders is right on several data-parallel processes, and the model itself is never wrapped or patched.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from salmu_core.data import Batch, Pairs
from salmu_core.errors import BadOptions, Diverged
from salmu_core.method import FitOptions
from salmu_core.model import DualEncoder
from salmu_core.pixels import PairStore
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints, Saved
from salmu_core.runner.sampling import EpochSampler

Loss = Callable[[DualEncoder, Batch], "Tensor | Mapping[str, Tensor]"]
#: Called after every optimiser step with its number, counted from 1; returning True ends the fit.
AfterStep = Callable[[int], "bool | None"]
#: Called with step, steps and the values to show.
OnStep = Callable[[int, int, Mapping[str, float]], None]

HISTORY_POINTS = 200  # a training curve needs no more


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
        samplers: which rows each step sees, per role; default: one `EpochSampler` for each store.
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
    history: list[dict[str, float]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds_before_resume: float = 0.0


class _LossStep(nn.Module):
    """Model and loss as one module: what Accelerate prepares."""

    def __init__(self, model: DualEncoder, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # The encoders switch autocast on for themselves; similarities and losses stay in fp32.
        with torch.autocast(self.model.device.type, enabled=False):
            terms = self._loss(self.model, batch)
        return dict(terms) if isinstance(terms, Mapping) else {"loss": terms}


def plan_steps(options: FitOptions, rows: Mapping[str, int], meter: SampleMeter) -> int:
    """Optimiser steps of a fit: the given epochs over the first role, or all that the budget holds.

    Raises:
        BudgetExceeded: the epochs asked for need more samples of some role than are left.
    """
    sizes = {role: min(options.batch_size, count) for role, count in rows.items()}
    if options.epochs is None:
        limits = [left // sizes[role] for role in rows if (left := meter.left(role)) is not None]
        if not limits:
            raise BadOptions("The number of epochs is not given and no budget limits it.", "Set epochs.")
        steps = min(limits)
    else:
        first = next(iter(rows))
        steps = max(1, math.floor(options.epochs * rows[first] / sizes[first]))
    for role, size in sizes.items():
        meter.check(role, max(1, steps) * size)
    return max(1, steps)


def learning_rate(options: FitOptions, step: int, steps: int) -> float:
    """The rate of a step counted from 0: linear warm-up to `lr`, then the schedule down to 0 at the end."""
    warm = round(options.warmup * steps)
    if step < warm:
        return options.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if options.schedule == "cosine":
        return options.lr * 0.5 * (1 + math.cos(math.pi * done))
    return options.lr * (1 - done) if options.schedule == "linear" else options.lr


def fit(job: Fit) -> int:
    """Run the loop and return the number of steps that the model has taken.

    Raises:
        Diverged: a loss or gradient stopped being finite; the model then holds the last finite weights.
        BadOptions: the batch cannot be cut evenly into micro-batches.
    """
    options, accelerator, model = job.options, job.accelerator, job.model
    if options.batch_size % options.accumulate:
        raise BadOptions(f"batch_size {options.batch_size} cannot be cut into {options.accumulate} equal micro-batches.")
    trained = _only_these_train(model, job.params)
    optimizer = _optimizer(options, trained)
    module = _LossStep(model, job.loss)
    module.train(job.normalisation_training)
    # A free optimiser for each fit: Accelerate keeps references to all it prepared, dropped again below.
    stepper, prepared = accelerator.prepare(module, optimizer)
    samplers = job.samplers or {
        role: EpochSampler(len(store), options.batch_size, job.seed, job.number, role) for role, store in job.stores.items()
    }
    step, stop = _resume(job, optimizer) if job.checkpoints else (0, False)
    finished_before = stop
    written = time.monotonic()
    try:
        while not stop:
            rate = learning_rate(options, step, job.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            prepared.zero_grad()
            values: dict[str, float] = {}
            for micro in range(options.accumulate):
                batch = _batch(job, samplers, step, micro)
                last = micro == options.accumulate - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(stepper):
                    terms = stepper(batch)
                    total = torch.stack([term.reshape(()) for term in terms.values()]).sum()
                    if not torch.isfinite(total):
                        raise Diverged(f"The loss is {total.item()} at step {step + 1} of {job.steps}.")
                    if total.requires_grad:  # a hinge that is satisfied everywhere may leave nothing to do
                        accelerator.backward(total / options.accumulate)
                for name, term in terms.items():
                    values[name] = values.get(name, 0.0) + float(term.detach()) / options.accumulate
            if options.clip_norm is not None:
                norm = accelerator.clip_grad_norm_(stepper.parameters(), options.clip_norm)
                if norm is not None and not torch.isfinite(norm) and accelerator.scaler is None:
                    raise Diverged(f"The gradient is {float(norm)} at step {step + 1} of {job.steps}.")
            prepared.step()
            step += 1
            values["lr"] = rate
            _remember(job, step, values)
            stop = bool(job.after_step and job.after_step(step)) or step >= job.steps
            if job.on_step:
                job.on_step(step, job.steps, values)
            if job.checkpoints and not stop and time.monotonic() - written >= job.checkpoints.every_seconds:
                _write_checkpoint(job, optimizer, step, done=False)
                written = time.monotonic()
    finally:
        accelerator.free_memory()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        module.eval()
    if job.checkpoints and not finished_before:
        _write_checkpoint(job, optimizer, step, done=True)
    return step


def _batch(job: Fit, samplers: Mapping[str, EpochSampler], step: int, micro: int) -> Batch:
    parts = {}
    for role, sampler in samplers.items():
        index = sampler.batch(step)
        index = index.tensor_split(job.options.accumulate)[micro]
        job.meter.take(role, len(index))
        parts[role] = Pairs(job.stores[role], index)
    return Batch(parts)


def _only_these_train(model: DualEncoder, params: Iterable[nn.Parameter]) -> dict[str, nn.Parameter]:
    chosen = {id(parameter) for parameter in params}
    trained = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
    if not trained:
        raise BadOptions("None of the parameters to train belongs to the model.")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return trained


def _optimizer(options: FitOptions, trained: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.beta1)
    # Fused: one pass over the weights instead of a dozen, a tenth of the time on a CPU.
    return torch.optim.AdamW(groups, lr=options.lr, betas=(options.beta1, options.beta2), eps=options.eps, fused=True)


def _remember(job: Fit, step: int, values: Mapping[str, float]) -> None:
    stride = max(1, job.steps // HISTORY_POINTS)
    if step == 1 or step % stride == 0 or step == job.steps:
        job.history.append({"fit": job.number, "step": step, **values})


def _write_checkpoint(job: Fit, optimizer: torch.optim.Optimizer, step: int, *, done: bool) -> None:
    """Every process ends each step with the same weights and optimiser state, so the main one writes for all."""
    if job.checkpoints is None or not job.accelerator.is_main_process:
        return
    tensors = {f"model.{name}": tensor for name, tensor in job.model.weights().items()}
    tensors |= {f"method.{name}": tensor for name, tensor in job.extra_state().items()}
    names = {id(parameter): name for name, parameter in job.model.named_parameters()}
    if not done:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"optimizer.{names[id(parameter)]}|{key}"] = torch.as_tensor(value)
    scaler = job.accelerator.scaler
    facts: dict[str, Any] = {
        "step": step,
        "done": done,
        "seen": job.meter.seen,
        "history": job.history,
        "seconds": job.seconds_before_resume + time.monotonic() - job.started,
        "scaler": scaler.state_dict() if scaler is not None and not done else None,
    }
    job.checkpoints.write(job.number, tensors, facts)


def _resume(job: Fit, optimizer: torch.optim.Optimizer) -> tuple[int, bool]:
    """Take back the last checkpoint of this fit. Returns the steps taken and whether the fit was finished."""
    saved: Saved | None = job.checkpoints.read(job.number) if job.checkpoints else None
    if saved is None:
        return 0, False
    job.model.clip.load_state_dict(saved.part("model"))
    job.load_extra_state(saved.part("method"))
    parameters = dict(job.model.named_parameters())
    for key, value in saved.part("optimizer").items():
        name, _, slot = key.rpartition("|")
        parameter = parameters[name]
        optimizer.state[parameter][slot] = value.to(parameter.device)
    if saved.facts["scaler"] and job.accelerator.scaler is not None:
        job.accelerator.scaler.load_state_dict(saved.facts["scaler"])
    job.meter.seen = dict(saved.facts["seen"])
    job.history[:] = saved.facts["history"]
    job.seconds_before_resume = saved.facts["seconds"]
    return int(saved.facts["step"]), bool(saved.facts["done"])
