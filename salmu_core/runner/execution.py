"""Putting an execution in force on a model while a method runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.spec.execution import Execution as Execution


@contextmanager
def carried_out(model: DualEncoder, execution: Execution) -> Iterator[dict[str, Any]]:
    """Put an execution in force on a model and on the frozen copies made of it, and take it back at the end.

    Yields:
        What is in force, for the record: only what differs from the plain way, and why a compiler was not used.

    Raises:
        BadOptions: the architecture cannot checkpoint its activations.
    """
    in_force: dict[str, Any] = {}
    try:
        if execution.micro_batch is not None:
            model.micro_batch = in_force["micro_batch"] = execution.micro_batch
        if execution.checkpoint_activations:
            model.checkpoint_activations()
            in_force["checkpoint_activations"] = True
        if execution.compile:
            problem = compiler_problem(model.device)
            if problem is None:
                model.compile_encoders()
                in_force["compile"] = True
            else:
                warnings.warn(
                    f"The encoders run as they are written: torch.compile does not work here. {problem}", stacklevel=1
                )
                in_force["compile"] = f"not available: {problem}"
        yield in_force
    finally:
        model.micro_batch = None
        if in_force.get("checkpoint_activations"):
            model.checkpoint_activations(False)
        model.compile_encoders(False)


def compiler_problem(device: torch.device) -> str | None:
    """Why `torch.compile` does not work on a device, in one line; None where it does. Found by compiling one line of code."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:  # each backend fails in its own way: no C++ compiler, no Triton, an unknown device
        text = str(error).strip() or type(error).__name__
        return text.splitlines()[0][:300]
    return None
