"""Weights of a submission: whole, or only the tensors that the method changed. Both give the run's model back bit for bit."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from salmu_core.errors import BadCheckpoint
from salmu_core.files.writing import read_tensors, write_tensors
from salmu_core.models.dual_encoder import WEIGHTS_FILE, DualEncoder
from salmu_core.models.loading import load_model
from salmu_share.board.submission import DELTA_FILE, HUB, SubmittedRun


def changed_tensors(model: DualEncoder, start: DualEncoder) -> dict[str, Tensor]:
    """Tensors of `model` that are not bit for bit those of `start`, by open_clip's names. Not their differences: adding those again
    would round."""
    before = start.weights()
    return {name: tensor for name, tensor in model.weights().items() if not _equal(tensor, before[name])}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


def write_delta(folder: Path, changed: dict[str, Tensor]) -> None:
    """Write `delta.safetensors`."""
    write_tensors(folder / DELTA_FILE, changed)


def submitted_model(folder: Path, run: SubmittedRun, start: DualEncoder) -> DualEncoder:
    """The model of a submitted run.

    Args:
        folder: the run's, in the submission.
        start: the model that its method began with.

    Raises:
        BadCheckpoint: the weights are not there, or are not those of this architecture.
        DamagedFile: the file is damaged.
        HubError: they are on the hub, and cannot be fetched.
    """
    if run.weights.startswith(HUB):
        tensors, where = load_model(run.weights).weights(), run.weights
    elif run.weights == "whole":
        tensors, where = load_model(folder / WEIGHTS_FILE, like=start.config).weights(), WEIGHTS_FILE
    else:
        tensors, where = read_tensors(folder / DELTA_FILE, sealed=True)[0], DELTA_FILE
    # Architecture and preprocessing are the starting model's, whatever a submission says of them.
    model = copy.deepcopy(start)
    held = model.clip.state_dict()
    for name, tensor in tensors.items():
        if name not in held or held[name].shape != tensor.shape or held[name].dtype != tensor.dtype:
            raise BadCheckpoint(
                f"'{where}' holds {name} as {tuple(tensor.shape)} {tensor.dtype}, which the model does not have."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BadCheckpoint(f"'{where}' holds weights that are not finite: {name}.")
    model.clip.load_state_dict({**held, **tensors})
    return model.eval()
