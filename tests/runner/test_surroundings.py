"""What other programs set in the environment changes no numbers without a word."""

import contextlib
import os

import pytest
import torch

from salmu_core.data.processes import processes_here
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.surroundings import own_surroundings, rounding_variables

LAUNCHED = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


def put(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 .*--set accumulate="),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "ACCELERATE_MIXED_PRECISION=bf16 .*--precision"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "ACCELERATE_DYNAMO_BACKEND=INDUCTOR .*--compile"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED=true"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_OFFLOAD_PARAMS": "true"}, "ACCELERATE_USE_FSDP=true"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "ACCELERATE_USE_PARALLELISM_CONFIG=true"),
        ({"WORLD_SIZE": "4"}, r"WORLD_SIZE=4\. No launcher"),
        ({"PMI_SIZE": "8"}, "PMI_SIZE=8"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, "OMPI_COMM_WORLD_SIZE=2"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0"),
        ({"LOCAL_RANK": "gpu0"}, "LOCAL_RANK=gpu0"),
        ({**LAUNCHED, "RANK": "4"}, "WORLD_SIZE=4, RANK=4"),
    ],
)  # fmt: skip
def test_variables_that_would_change_a_run_are_put_aside_and_named(monkeypatch, values, said):
    put(monkeypatch, values)
    with contextlib.ExitStack() as stack:
        with pytest.warns(UserWarning, match=said) as told:
            accelerator = stack.enter_context(open_accelerator(cpu=True))
        assert "salmu_core" in told[0].filename  # the command line shows it as a sentence of ours
        assert accelerator.num_processes == 1
        assert accelerator.gradient_accumulation_steps == 1
        assert accelerator.mixed_precision == "no"
        assert str(accelerator.distributed_type) == "DistributedType.NO"
    assert values.items() <= os.environ.items()  # other programs' business afterwards


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        # What `accelerate launch` sets for a plain run.
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default",
         "ACCELERATE_USE_CPU": "True"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
        {"WORLD_SIZE": "1"},
    ],
)  # fmt: skip
def test_variables_that_ask_for_nothing_else_are_no_reason_to_warn(monkeypatch, values):
    put(monkeypatch, values)
    with open_accelerator(cpu=True) as accelerator:
        assert accelerator.num_processes == 1


@pytest.mark.filterwarnings("error")
def test_a_launchers_own_variables_stay_while_the_accelerator_is_made(monkeypatch):
    put(monkeypatch, LAUNCHED)
    with own_surroundings("no"):
        assert LAUNCHED.items() <= os.environ.items()


def test_a_launcher_that_is_gone_takes_no_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert processes_here() == 1


def test_what_changes_rounding_is_set_or_told(monkeypatch):
    assert not rounding_variables()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert rounding_variables() == {"NVIDIA_TF32_OVERRIDE": "1"}
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    try:
        with open_accelerator(cpu=True):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
