"""`accelerate launch --num_processes 2 -m salmu_core run ...` on a machine with CPUs only."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from salmu_core.builtin.toy import Toy
from salmu_core.cli.main import cli
from salmu_core.records.store import read_record

pytest.importorskip("salmu_gradient_ascent")
pytest.importorskip("salmu_metrics")


def test_two_processes_in_micro_batches_give_the_weights_and_metrics_of_one_without(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMU_PLUGINS", "salmu-gradient-ascent,salmu-metrics")  # what both processes import
    run = ["run", "gradient-ascent-retain", "--benchmark", "toy", "--cpu", "--set", "batch_size=12", "--out"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "-m", "salmu_core"]
    # Each of the two encodes 6 of 12 rows, in parts of 2.
    command = [*launch, *run, str(tmp_path / "two"), "--micro-batch", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert CliRunner().invoke(cli, [*run, str(tmp_path / "one")], catch_exceptions=False).exit_code == 0
    one, two = (read_record(tmp_path / name) for name in ("one", "two"))
    assert (one.provenance.processes, two.provenance.processes) == (1, 2)
    assert (one.provenance.execution, two.provenance.execution) == ({}, {"micro_batch": 2})
    assert two.id == one.id  # how a run is carried out is no part of what it is
    assert two.cost.samples == one.cost.samples
    assert len(one.scores) == 11  # the ten of SALMUBench, and PrivPref
    for name, score in one.scores.items():
        assert two.scores[name].value == pytest.approx(score.value, abs=1e-3)
    start = Toy().load_model("compromised").weights()
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    first, second = (torch.cat([(found[name] - start[name]).flatten() for name in start]) for found in weights)
    assert first.norm() > 0.01
    assert (second - first).norm() < 0.01 * first.norm()
