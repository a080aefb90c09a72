"""`accelerate launch --num_processes 2 -m salmu_core run ...` on a machine with CPUs only."""

import subprocess
import sys

import pytest

from salmu_core.records.store import read_record

pytest.importorskip("salmu_gradient_ascent")
pytest.importorskip("salmu_metrics")


def test_accelerate_launch_with_two_processes_gives_the_metrics_of_one(tmp_path):
    run = ["-m", "salmu_core", "run", "gradient-ascent-retain", "--benchmark", "toy", "--cpu", "--set", "batch_size=12"]
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2"]
    for name, command in (("one", run), ("two", [*launch, *run])):
        done = subprocess.run(
            [sys.executable, *command, "--out", str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_record(tmp_path / name) for name in ("one", "two"))
    assert (one.provenance.processes, two.provenance.processes) == (1, 2)
    assert two.cost.samples == one.cost.samples
    assert len(one.scores) == 10
    for name, score in one.scores.items():
        assert two.scores[name].value == pytest.approx(score.value, abs=1e-3)
