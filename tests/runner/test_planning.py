"""What runs would take, said before they start."""

import json

import pytest
import torch
from click.testing import CliRunner
from peak_memory import peak_bytes

from salmu_core import FitOptions
from salmu_core.builtin.toy import Toy
from salmu_core.cli.main import cli
from salmu_core.errors import OutputError
from salmu_core.records.schema import RunSpec
from salmu_core.runner.execution import Execution
from salmu_core.runner.memory import ModelCost, model_cost, training_bytes
from salmu_core.runner.planning import plan_run
from salmu_core.runner.run import Settings, run
from salmu_core.spec.resolve import resolve
from toy_methods import toy_plugins


def test_the_estimate_of_activations_is_near_what_a_pass_holds():
    model = Toy().load_model("compromised")
    held = []

    def work():  # what goes in is kept as well
        images = torch.rand(64, *model.processor.image_shape)
        held.append(model.clip.encode_image(images))

    measured = peak_bytes(work)
    assert model_cost(model).image_row * 64 == pytest.approx(measured, rel=0.3)
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def test_memory_grows_with_batches_or_with_micro_batches_only():
    cost = ModelCost(weights=100, image_row=30, text_row=10, image_row_checkpointed=6, text_row_checkpointed=2)
    rows = {"forget": 1000, "retain": 1000}

    def needed(execution=None, processes=1, precision="no", **options):
        return training_bytes(cost, FitOptions(**options), rows, precision, execution or Execution(), processes)

    assert needed(batch_size=64) == 400 + 128 * 40  # weights, gradients and two moments; both roles' activations
    assert needed(batch_size=64, optimizer="sgd") == 300 + 128 * 40
    assert needed(batch_size=64, accumulate=4) == 400 + 32 * 40
    assert needed(batch_size=64, processes=2) == 400 + 64 * 40
    assert needed(Execution(checkpoint_activations=True), batch_size=64) == 400 + 128 * 8
    assert needed(Execution(micro_batch=8), batch_size=64) == 400 + 8 * 30
    assert needed(Execution(micro_batch=8), batch_size=1000) == 400 + 8 * 30
    assert needed(batch_size=64, precision="bf16") < needed(batch_size=64)


def test_a_plan_counts_steps_samples_and_disk(tmp_path):
    plugins, settings = toy_plugins(), Settings(cache=tmp_path, cpu=True, micro_batch=6)
    plan = plan_run(resolve(RunSpec(method="ascent", benchmark="toy"), plugins), tmp_path / "run", settings, plugins)
    weights = 4 * sum(parameter.numel() for parameter in Toy().load_model("compromised").parameters())
    assert plan.samples == {"forget": 144, "retain": 144}
    assert (plan.kept_bytes, plan.disk_bytes) == (weights, 7 * weights)
    assert plan.memory_bytes > 4 * weights
    edit = plan_run(resolve(RunSpec(method="weight-edit", benchmark="toy"), plugins), tmp_path / "edit", settings, plugins)
    assert (edit.memory_bytes, edit.disk_bytes, edit.most_steps) == (None, weights, None)


def test_a_disk_without_room_for_checkpoints_is_found_before_training(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 70_000_000})  # room for a record, not for seven times the weights
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    monkeypatch.setattr("salmu_core.runner.unlearning.disk_for_training", lambda weight_bytes: 80_000_000)
    with pytest.raises(OutputError, match="has 70 MB free; this needs 80 MB"):
        run("ascent", benchmark="toy", out=tmp_path, settings=Settings(cache=tmp_path, cpu=True), plugins=toy_plugins())


def test_a_dry_run_of_a_comparison_lists_its_runs_and_starts_none(tmp_path, monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", toy_plugins)
    command = ["compare", "ascent", "weight-edit", "--benchmark", "toy", "--cpu", "--seeds", "0,1", "--out", str(tmp_path)]
    CliRunner().invoke(cli, [*command[:1], "none", *command[3:]], catch_exceptions=False, standalone_mode=False)
    done = CliRunner().invoke(cli, [*command, "--dry-run", "--json"], catch_exceptions=False, standalone_mode=False)
    plans = json.loads(done.stdout)
    assert [(plan["title"], plan["done"]) for plan in plans] == [
        ("clean", True), ("compromised", True), ("ascent seed 0", False), ("weight-edit seed 0", False),
        ("ascent seed 1", False), ("weight-edit seed 1", False),
    ]  # fmt: skip
    table = CliRunner().invoke(cli, [*command, "--dry-run"], catch_exceptions=False, standalone_mode=False)
    assert "6 runs, 4 to do" in table.output
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_launcher_options_without_a_launcher_are_refused(tmp_path):
    from salmu_core.errors import BadOptions

    with pytest.raises(BadOptions, match="say how jobs are launched"):
        CliRunner().invoke(
            cli, ["compare", "--benchmark", "toy", "--no-wait"], catch_exceptions=False, standalone_mode=False
        )
