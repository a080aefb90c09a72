"""What the training loop keeps: the optimizer, the curve, and checkpoints from which a killed run goes on."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from salmu_core.errors import BadOptions, OutputError
from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.checkpoints import Saved
from salmu_core.runner.fit_job import Fit

HISTORY_POINTS = 200  # a training curve needs no more


def only_these_train(model: DualEncoder, params: Iterable[nn.Parameter]) -> dict[str, nn.Parameter]:
    chosen = {id(parameter) for parameter in params}
    trained = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}
    if not trained:
        raise BadOptions("None of the parameters to train belongs to the model.")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return trained


def make_optimizer(options: FitOptions, trained: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused: one pass over the weights instead of a dozen, a tenth of the time on a CPU; and it can skip an update unasked.
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.beta1, fused=True)
    return torch.optim.AdamW(groups, lr=options.lr, betas=(options.beta1, options.beta2), eps=options.eps, fused=True)


def remember(job: Fit, step: int, values: Mapping[str, float]) -> None:
    stride = max(1, job.steps // HISTORY_POINTS)
    if step == 1 or step % stride == 0 or step == job.steps:
        job.history.append({"fit": job.number, "step": step, **values})


def write_checkpoint(job: Fit, optimizer: torch.optim.Optimizer, step: int, *, done: bool) -> None:
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


def resume(job: Fit, optimizer: torch.optim.Optimizer) -> tuple[int, bool]:
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
