"""The only training loop. Unlearning methods and benchmarks that train their own pair both go through `fit`.

Model and loss are put into one module, that module is prepared by Accelerate and called once per step. So whatever a loss
does with the encoders is right on several data-parallel processes, and the model itself is never wrapped or patched.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from salmu_core.data.pairs import Batch, Pairs
from salmu_core.data.pixels import PairStore
from salmu_core.data.processes import share_of_batch
from salmu_core.errors import BadOptions, Diverged, OutputError
from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints, Saved
from salmu_core.runner.gradients import Combine, OnGradients, gradients_of
from salmu_core.runner.sampling import EpochSampler
from salmu_core.runner.step_values import StepValue, StepValues, reading_lag

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
        BadOptions: the batch cannot be cut evenly into micro-batches, or batch statistics would be those of micro-batches.
    """
    options, accelerator, model = job.options, job.accelerator, job.model
    _check(job)
    trained = _only_these_train(model, job.params)
    optimizer = _optimizer(options, trained)
    module = _LossStep(model, job.loss)
    module.train(job.normalisation_training)
    # A free optimiser for each fit: Accelerate keeps references to all it prepared, dropped again below.
    stepper, prepared = accelerator.prepare(module, optimizer)
    samplers = job.samplers or {
        role: EpochSampler(len(store), job.batch_sizes.get(role, options.batch_size), job.seed, job.number, role)
        for role, store in job.stores.items()
    }
    step, stop = _resume(job, optimizer) if job.checkpoints else (0, False)
    finished_before = stop
    # Nothing below waits for the device: whether a step was finite is decided on it, and numbers are read a step later.
    read = StepValues(reading_lag(model.device) if accelerator.scaler is None else 0)
    broken = torch.zeros((), device=model.device)  # 1 from the first step on whose loss or gradient is not finite
    try:
        while not stop:
            rate = learning_rate(options, step, job.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            prepared.zero_grad()
            values: dict[str, Tensor] = {}
            apart: dict[str, dict[str, Tensor]] = {}
            for micro in range(options.accumulate):
                batch = _batch(job, samplers, step, micro)
                _prefetch(job, samplers, step, micro + 1)
                last = micro == options.accumulate - 1
                with contextlib.nullcontext() if last else accelerator.no_sync(stepper):
                    # Apart from each other, terms have gradients of their own; the wrapper knows only their sum.
                    terms = stepper(batch) if job.combine is None else module(batch)
                    total = torch.stack([term.reshape(()) for term in terms.values()]).sum()
                    if job.combine is not None:
                        _add_gradients(job, apart, terms, trained)
                    elif total.requires_grad:  # a hinge that is satisfied everywhere may leave nothing to do
                        accelerator.backward(total / options.accumulate)
                for name, term in {**terms, _TOTAL: total}.items():
                    share = term.detach() / options.accumulate
                    values[name] = values[name] + share if name in values else share
            total = values.pop(_TOTAL)
            _take_gradients(job, apart, trained)
            norm = _clip(job, list(trained.values()), total)
            finite = torch.isfinite(total) & torch.isfinite(norm)
            if accelerator.scaler is None:
                # The fused optimisers skip their update where this is 1, as they do for a gradient scaler.
                broken = torch.maximum(broken, (~finite).float())
                optimizer.found_inf = broken  # type: ignore[attr-defined]
            elif not torch.isfinite(total):  # an infinite gradient is the scaler's own business
                raise _diverged(job, step + 1, float(total), 0.0)
            prepared.step()
            step += 1
            read.put(step, values, total, norm)
            _report(job, read.take())
            stop = bool(job.after_step and job.after_step(step)) or step >= job.steps
            if job.checkpoints and not stop and job.checkpoints.due() and not broken.item():
                _report(job, read.take(everything=True))
                _write_checkpoint(job, optimizer, step, done=False)
        _report(job, read.take(everything=True))
    finally:
        accelerator.free_memory()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        module.eval()
    if job.checkpoints and not finished_before:
        _write_checkpoint(job, optimizer, step, done=True)
    return step


_TOTAL = "the sum of all terms"  # no method names a term so


def _check(job: Fit) -> None:
    options, model = job.options, job.model
    if options.batch_size % options.accumulate:
        raise BadOptions(f"batch_size {options.batch_size} cannot be cut into {options.accumulate} equal micro-batches.")
    if (job.combine or job.on_gradients) and job.accelerator.scaler is not None:
        raise BadOptions(
            "Gradients that a method changes must not be scaled, as fp16 needs it.", "Use --precision bf16 or no."
        )
    if job.normalisation_training and model.micro_batch is not None:
        batch_norms = (nn.modules.batchnorm._BatchNorm,)
        if any(isinstance(module, batch_norms) for module in model.modules()):
            raise BadOptions(
                "Training batch-norm statistics needs whole batches, and a micro-batch is set.", "Leave --micro-batch out."
            )


def _add_gradients(
    job: Fit, apart: dict[str, dict[str, Tensor]], terms: Mapping[str, Tensor], trained: Mapping[str, nn.Parameter]
) -> None:
    """Add the gradients of a micro-batch's terms, each apart, to those of the micro-batches before."""
    names = list(terms)
    for name in names:
        share = terms[name].reshape(()) / job.options.accumulate
        found = gradients_of(share, trained, job.accelerator.num_processes, keep=name != names[-1])
        if name in apart:
            torch._foreach_add_(list(apart[name].values()), list(found.values()))
        else:
            apart[name] = found


def _take_gradients(job: Fit, apart: Mapping[str, Mapping[str, Tensor]], trained: Mapping[str, nn.Parameter]) -> None:
    """Put the combined gradient in place, and let the method change what is there."""
    if job.combine is not None:
        chosen = job.combine(apart)
        for name, parameter in trained.items():
            parameter.grad = chosen[name].clone() if name in chosen else None
    if job.on_gradients is not None:
        job.on_gradients({name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None})


def _clip(job: Fit, trained: Sequence[nn.Parameter], total: Tensor) -> Tensor:
    """Clip the gradients where that is asked for. Returns their global norm; 0 where a gradient scaler has the last word."""
    clip_norm, scaler = job.options.clip_norm, job.accelerator.scaler
    norm = None
    if clip_norm is not None:
        norm = job.accelerator.clip_grad_norm_(trained, clip_norm)
    elif scaler is None:
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    return torch.zeros_like(total) if norm is None or scaler is not None else norm.detach().to(total.device)


def _report(job: Fit, found: Iterable[StepValue]) -> None:
    """Remember and tell what steps found.

    Raises:
        Diverged: one of them was not finite.
    """
    for item in found:
        if not math.isfinite(item.total) or not math.isfinite(item.norm):
            raise _diverged(job, item.step, item.total, item.norm)
        values = {**item.terms, "lr": learning_rate(job.options, item.step - 1, job.steps)}
        _remember(job, item.step, values)
        if job.on_step:
            job.on_step(item.step, job.steps, values)


def _diverged(job: Fit, step: int, total: float, norm: float) -> Diverged:
    what = f"gradient is {norm}" if math.isfinite(total) else f"loss is {total}"
    return Diverged(f"The {what} at step {step} of {job.steps}.")


def _batch(job: Fit, samplers: Mapping[str, EpochSampler], step: int, micro: int) -> Batch:
    parts = {}
    for role, sampler in samplers.items():
        index = sampler.batch(step).tensor_split(job.options.accumulate)[micro]
        job.meter.take(role, len(index))
        parts[role] = Pairs(job.stores[role], index)
    return Batch(parts, step)


def _prefetch(job: Fit, samplers: Mapping[str, EpochSampler], step: int, micro: int) -> None:
    """Tell the stores what this process reads next, while the device is busy."""
    if micro == job.options.accumulate:
        step, micro = step + 1, 0
    if step < job.steps:
        for role, sampler in samplers.items():
            index = sampler.batch(step).tensor_split(job.options.accumulate)[micro]
            job.stores[role].prefetch(index[share_of_batch(len(index))])


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
    # Fused: one pass over the weights instead of a dozen, a tenth of the time on a CPU; and it can skip an update unasked.
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.beta1, fused=True)
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
                if value is None:  # momentum that sgd has not begun
                    continue
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
    try:
        job.checkpoints.write(job.number, tensors, facts)
    except OutputError as error:  # hours of training are worth more than their checkpoint; the one before is still there
        warnings.warn(f"Training goes on without a new checkpoint. {error}", stacklevel=2)


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
