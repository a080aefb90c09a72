"""What a method made of the model that it was handed: taken back, put into a fresh model, compared with the start, saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from salmu_core.errors import SalmuError
from salmu_core.models.adapters import ADAPTER_FILE, Added, apply_added, write_adapter
from salmu_core.models.dual_encoder import DualEncoder, Tower
from salmu_core.models.processor import forget_tokenizers
from salmu_core.records.schema import Status
from salmu_core.runner.context import UnlearnContext
from salmu_core.runner.handover import Handed


@dataclass
class MadeModel:
    """A model after the method.

    Attributes:
        model: the one that is scored; None where the method failed.
        weights: by open_clip's names; empty where the method failed.
        usable: it can be saved and scored.
        error: why it did not end well.
    """

    model: DualEncoder | None
    status: Status
    error: str | None
    usable: bool = False
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    fingerprint: Mapping[Tower, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def take_back(
    handed: Handed,
    left: DualEncoder,
    fresh: Callable[[Mapping[str, torch.Tensor]], DualEncoder],
    accelerator: Accelerator,
    who: str,
    status: Status,
    error: str | None,
) -> MadeModel:
    """Look at what the method left and make the model that is scored.

    Args:
        left: what stands in the context after the method.
        fresh: a model that nobody has touched, with these weights, on the run's device.
        who: the method, for messages.
        status, error: how the method ended.
    """
    made = MadeModel(None, status, error)  # nothing keeps hold of what the method left
    if status == "failed":
        forget_tokenizers()  # it may have written into the one that all models share
        return made
    try:
        weights = handed.taken_back(left)
        made.warnings = handed.warnings(who, weights)
        odd = [name for name, t in weights.items() if t.is_floating_point() and not torch.isfinite(t).all()]
        scored = fresh(weights)
        made.model, made.weights, made.fingerprint = scored, weights, scored.fingerprint()
        _same_on_all_processes(made.fingerprint, accelerator)
    except Exception as problem:  # whatever the method made of the model
        forget_tokenizers()
        return MadeModel(None, "failed", f"{who} left a model that cannot be scored. {problem}", warnings=made.warnings)
    if odd and status == "ok":
        made.status, made.error = "diverged", f"{who} left weights that are not finite: {', '.join(odd[:3])}."
    made.usable = not odd
    return made


def _same_on_all_processes(fingerprint: Mapping[Tower, str], accelerator: Accelerator) -> None:
    if accelerator.num_processes > 1:
        found = gather_object([json.dumps(fingerprint, sort_keys=True)])
        if len(set(found)) > 1:
            raise SalmuError(
                "The processes ended with different weights.",
                "A method must not draw from unseeded randomness or depend on the process it runs in.",
            )


def trained_parameters(ctx: UnlearnContext, weights: Mapping[str, int], changed: Set[str]) -> int:
    """How many numbers training could change or something else changed. Of a weight that had an adapter, those of the adapter
    count.

    Args:
        weights: name -> numbers of each parameter, before the method.
    """
    factors: dict[str, int] = {}
    for stage in ctx.added:
        for name, (up, down, _) in stage.items():
            factors[f"clip.{name}"] = factors.get(f"clip.{name}", 0) + up.numel() + down.numel()
    return sum(min(weights[name], factors.get(name, weights[name])) for name in (ctx.trained | changed) & set(weights))


def changed_parameters(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that have other values now."""
    return {f"clip.{name}" for name, tensor in after.items() if not torch.equal(tensor.detach().cpu(), before[name].cpu())}


def relative_change(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float:
    """L2 norm of the change of all weights over the L2 norm of the start weights; 0.0 exactly when nothing changed."""
    change = total = 0.0
    for name, tensor in after.items():
        if tensor.is_floating_point():
            old = before[name].double()
            change += float((tensor.detach().cpu().double() - old).square().sum())
            total += float(old.square().sum())
    return (change / total) ** 0.5 if total else 0.0


def save_made(folder: Path, made: MadeModel, handed: Handed, stages: Sequence[Added], start: Mapping[Tower, str]) -> None:
    """Save a model that can be scored, and what adapters added to it."""
    if made.usable and made.model is not None:
        made.model.save(folder)
        save_adapter(folder, handed.weights, stages, made.model, start)


def save_adapter(
    folder: Path,
    start: Mapping[str, torch.Tensor],
    stages: Sequence[Added],
    model: DualEncoder,
    fingerprint: Mapping[Tower, str],
) -> None:
    """Keep what adapters added as a file of its own, where it is all that the run changed."""
    if not stages:
        return
    made, weights = apply_added(start, stages), model.weights()
    if all(torch.equal(tensor, weights[name].cpu()) for name, tensor in made.items()):
        write_adapter(folder / ADAPTER_FILE, stages, fingerprint)
