"""What the environment says about training. Numbers follow from a run's spec; a variable that another program set must not change
them without a word, so each is answered here: taken, put aside with a warning, or written into the record.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

#: Accelerate's own variables that only choose a device or what is printed; the device is in the record.
_TAKEN = {
    "ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE",
    "ACCELERATE_USE_SAGEMAKER", "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE",
}  # fmt: skip
_ACCELERATE = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "XLA_USE_BF16", "XLA_DOWNCAST_BF16")
_PLAIN = ({"false", "0"}, "data parallelism alone")
#: Of those that are put aside, the ones that would have decided numbers -> values that ask for nothing; and what salmu has instead.
_DECIDING = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ({"1"}, "--set accumulate="),
    "ACCELERATE_DYNAMO_BACKEND": ({"no"}, "--compile"),
    "ACCELERATE_MIXED_PRECISION": ({"no"}, "--precision"),
    "ACCELERATE_USE_DEEPSPEED": _PLAIN,
    "ACCELERATE_USE_FSDP": _PLAIN,
    "ACCELERATE_USE_MEGATRON_LM": _PLAIN,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _PLAIN,
}
_WORLD = {  # variable of the size -> those that come with it when a launcher started the process
    "WORLD_SIZE": ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "PMI_SIZE": ("PMI_RANK",),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_COMM_WORLD_RANK",),
    "MV2_COMM_WORLD_SIZE": ("MV2_COMM_WORLD_RANK",),
}
#: Variables that libraries read when they are loaded, and that change how numbers are rounded.
_ROUNDING = (
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "CUBLAS_WORKSPACE_CONFIG", "TORCH_BLAS_PREFER_CUBLASLT",
)  # fmt: skip


@contextmanager
def own_surroundings(precision: str) -> Iterator[None]:
    """Put variables aside for a while that would change what Accelerate does. One warning names those that asked for something.

    Args:
        precision: of the run; a launcher that names the same asks for nothing else.
    """
    aside = {name: value for name, value in os.environ.items() if name.startswith(_ACCELERATE) and name not in _TAKEN}
    ignored = []
    for name, value in sorted(aside.items()):
        silent, ours = _DECIDING.get(name, (None, ""))
        if silent is not None and value.lower() not in {*silent, "", precision if name.endswith("PRECISION") else ""}:
            ignored.append(f"{name}={value} (salmu has {ours})")
    if ignored:
        warnings.warn(f"Set in the environment and not used: {', '.join(ignored)}.", stacklevel=1)
    leftover = _leftover_world()
    if leftover:
        said = ", ".join(f"{name}={os.environ[name]}" for name in leftover)
        warnings.warn(
            f"Set in the environment and not used: {said}. No launcher started this process: one that does sets all of"
            f" {', '.join(('WORLD_SIZE', *_WORLD['WORLD_SIZE']))}. It runs alone.",
            stacklevel=1,
        )
    aside |= {name: os.environ[name] for name in leftover}
    for name in aside:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(aside)


def _leftover_world() -> list[str]:
    """Variables that speak of several processes where no launcher started this one; none of them when one did."""
    if dist.is_available() and dist.is_initialized():
        return []
    if any(_complete(size, others) for size, others in _WORLD.items()):
        return []
    names = [name for size, others in _WORLD.items() for name in (size, *others) if not name.startswith("MASTER_")]
    there = [name for name in (*names, "LOCAL_WORLD_SIZE") if name in os.environ]
    # A world of one, as interactive shells of clusters have it, says nothing.
    return there if any(os.environ[name] not in ("0", "1") or name == "LOCAL_RANK" for name in there) else []


def _complete(size: str, others: tuple[str, ...]) -> bool:
    if any(not os.environ.get(name) for name in (size, *others)):
        return False
    rank = os.environ[others[0]]
    return os.environ[size].isdigit() and rank.isdigit() and int(rank) < int(os.environ[size])


def rounding_variables() -> dict[str, str]:
    """For the record: variables in force that change how numbers are rounded."""
    return {name: os.environ[name] for name in _ROUNDING if name in os.environ}
