"""The only training loop. Unlearning methods and benchmarks that train their own pair both go through `fit`.

Model and loss are put into one module, that module is prepared by Accelerate and called once per step. So whatever a loss
does with the encoders is right on several data-parallel processes, and the model itself is never wrapped or patched.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from salmu_core.data.pairs import Batch, Pairs
from salmu_core.data.processes import share_of_batch
from salmu_core.errors import BadOptions, Diverged
from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.fit_job import AfterStep as AfterStep
from salmu_core.runner.fit_job import Fit, Loss
from salmu_core.runner.fit_state import make_optimizer, only_these_train, remember, resume, write_checkpoint
from salmu_core.runner.gradients import gradients_of
from salmu_core.runner.sampling import EpochSampler
from salmu_core.runner.step_values import StepValue, StepValues, reading_lag

_open: list[bool] = []  # uses of `little_garbage`, and whether each froze objects


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


@contextmanager
def little_garbage() -> Iterator[None]:
    """Accelerate collects garbage after each fit, and would look at the half million objects of imported libraries each time. They are
    kept out of collections in here, unless the caller has frozen objects already."""
    _open.append(not _open and gc.get_freeze_count() == 0)  # counting takes as long as collecting
    if _open[-1]:
        gc.freeze()
    try:
        yield
    finally:
        if _open.pop():
            gc.unfreeze()


@little_garbage()
def fit(job: Fit) -> int:
    """Run the loop and return the number of steps that the model has taken.

    Raises:
        Diverged: a loss or gradient stopped being finite; the model then holds the last finite weights.
        BadOptions: the batch cannot be cut evenly into micro-batches, or batch statistics would be those of micro-batches.
    """
    options, accelerator, model = job.options, job.accelerator, job.model
    _check(job)
    trained = only_these_train(model, job.params)
    optimizer = make_optimizer(options, trained)
    module = _LossStep(model, job.loss)
    module.train(job.normalisation_training)
    # A free optimiser for each fit: Accelerate keeps references to all it prepared, dropped again below.
    stepper, prepared = accelerator.prepare(module, optimizer)
    # Without a scaler Accelerate's own step adds nothing but a search of the whole path for a package, twice a step.
    plain = accelerator.scaler is None and model.device.type != "xla"
    update = optimizer.step if plain else prepared.step
    samplers = job.samplers or {
        role: EpochSampler(len(store), job.batch_sizes.get(role, options.batch_size), job.seed, job.number, role)
        for role, store in job.stores.items()
    }
    step, stop = resume(job, optimizer) if job.checkpoints else (0, False)
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
                with nullcontext() if last else accelerator.no_sync(stepper):
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
            update()
            step += 1
            read.put(step, values, total, norm)
            _report(job, read.take())
            stop = bool(job.after_step and job.after_step(step)) or step >= job.steps
            if job.checkpoints and not stop and job.checkpoints.due() and not broken.item():
                _report(job, read.take(everything=True))
                write_checkpoint(job, optimizer, step, done=False)
        _report(job, read.take(everything=True))
    finally:
        accelerator.free_memory()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        module.eval()
    if job.checkpoints and not finished_before:
        write_checkpoint(job, optimizer, step, done=True)
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
        remember(job, item.step, values)
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
