"""One Accelerator per run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs

from salmu_core.errors import SalmuError
from salmu_core.runner.surroundings import own_surroundings

AUTOCAST = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def open_accelerator(
    precision: str = "no", log_with: str | None = None, log_folder: Path | None = None, cpu: bool = False
) -> Iterator[Accelerator]:
    """An Accelerator for the length of a run; its trackers are closed at the end.

    What environment variables ask Accelerate for is put aside (see `surroundings`), and fp32 products are computed in fp32.
    Unused parameters are looked for, since losses on one encoder and distillation losses leave some out by design.

    Raises:
        SalmuError: the precision or the tracker is not available here.
    """
    # Accelerate keeps precision in process-wide state; runs of one process may differ in it.
    AcceleratorState._reset_state(False)
    GradientState._reset_state()
    settings: dict[str, Any] = {}
    if log_with is not None:
        settings = {"log_with": log_with, "project_dir": str(log_folder)}
    try:
        with own_surroundings(precision):
            accelerator = Accelerator(
                mixed_precision=precision,
                gradient_accumulation_steps=1,  # the loop counts micro-batches itself
                # Without this Accelerate joins no process group on machines that have only CPUs.
                cpu=cpu or not torch.accelerator.is_available(),
                kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
                **settings,
            )
    except (ValueError, ImportError) as error:
        raise SalmuError(
            f"This run cannot be set up: {error}",
            "fp16 needs a GPU; trackers need their package (pip install 'salmu[trackers]' for tensorboard).",
        ) from error
    if log_with is not None and not accelerator.trackers and not accelerator.log_with:
        raise SalmuError(
            f"The tracker '{log_with}' is not installed.",
            "pip install 'salmu[trackers]' for tensorboard, or wandb, or trackio.",
        )
    rounding = torch.get_float32_matmul_precision()
    try:
        # TF32 is never used unasked, whatever the environment made of it.
        torch.set_float32_matmul_precision("highest")
        yield accelerator
    finally:
        # Not `end_training`: it takes the process group down, and a comparison has more runs to come.
        for tracker in accelerator.trackers:
            tracker.finish()
        if accelerator.device.type != "cpu":  # there it would only search all that is imported for garbage
            accelerator.free_memory()
        torch.set_float32_matmul_precision(rounding)


def leave_process_group() -> None:
    """At the end of the program: tell the other processes that this one is done."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
