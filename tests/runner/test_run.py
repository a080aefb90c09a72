"""Runs: what they leave, what they refuse, and that nothing is lost when they are killed."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import forked
from salmu_core import UnlearningMethod, load_model
from salmu_core.benchmark import Budget
from salmu_core.builtin.toy import Toy
from salmu_core.errors import BadOptions, BadRecord, EvaluationLocked, OutputError, SalmuError, UnknownName
from salmu_core.records.schema import RunSpec
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings, run
from toy_methods import Ascent, Hooks, toy_plugins


@pytest.fixture
def settings(tmp_path):
    return Settings(cache=tmp_path / "cache", cpu=True)


def _run(method, out, settings, plugins=None, **more):
    return run(method, benchmark="toy", out=out, settings=settings, plugins=plugins or toy_plugins(), **more)


def test_a_run_leaves_a_record_a_model_rows_and_its_options(tmp_path, settings):
    record = _run("ascent", tmp_path / "run", settings, options={"lr": "1e-4"})
    assert record.status == "ok"
    assert read_record(tmp_path / "run") == record
    assert record.options["lr"] == 1e-4
    assert record.options["batch_size"] == 12  # defaults are written out
    assert record.spec.seed == 0
    assert record.cost.samples == {"forget": 144, "retain": 144}
    assert record.cost.allowed == {"forget": 144, "retain": 144}
    assert record.cost.encoded == {"image": 288, "text": 288}
    assert record.cost.steps == 12
    assert 0 < record.cost.trainable_parameters < record.cost.total_parameters
    assert record.cost.peak_memory_bytes > 0
    assert record.weight_change > 0
    assert record.provenance.method_package.name == "toy-methods"
    assert record.provenance.packages["torch"] == torch.__version__.split("+")[0]
    assert record.provenance.model_fingerprint == load_model(tmp_path / "run").fingerprint()
    assert record.provenance.start_fingerprint == Toy().load_model("compromised").fingerprint()
    kept = load_file(tmp_path / "run" / "rows.safetensors")
    rows = kept["MeanCosine/rows"]
    # Which rows are one person's is kept as numbers: paired tests need it, and nobody's name.
    assert kept["MeanCosine/cluster"].unique(return_counts=True)[1].tolist() == [6] * 6
    assert rows.mean().item() == pytest.approx(record.scores["MeanCosine"].value)
    score = record.scores["MeanCosine"]
    assert score.low <= score.value <= score.high
    assert (score.n, score.clusters) == (36, 6)
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [point["step"] for point in history] == list(range(1, 13))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_more_goes_through_an_encoder_than_the_budget_allows(tmp_path, settings):
    """Captions are not pairs: without this limit a method could train on them alone for as long as it likes."""
    from salmu_core.runner.budget import rows_to_encode
    from toy_methods import ManyCaptions

    record = _run("many-captions", tmp_path, settings)
    allowed = rows_to_encode(record.cost.allowed)
    assert record.status == "failed"
    assert f"its budget allows {allowed:,}" in record.error
    assert allowed - ManyCaptions.rows < record.cost.encoded["text"] <= allowed


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, settings):
    prints = [
        _run("two-stages", tmp_path / str(i), settings, seed=seed).provenance.model_fingerprint
        for i, seed in enumerate([0, 0, 1])
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_finished_run_is_read_back_and_overwrite_repeats_it(tmp_path, settings):
    first = _run("ascent", tmp_path / "run", settings)
    again = _run("ascent", tmp_path / "run", settings)
    assert again.created_at == first.created_at
    repeated = _run("ascent", tmp_path / "run", Settings(cache=settings.cache, cpu=True, overwrite=True))
    assert repeated.created_at > first.created_at
    assert repeated.provenance.model_fingerprint == first.provenance.model_fingerprint


def test_a_finished_run_whose_rows_are_another_runs_is_not_read_back(tmp_path, settings):
    for seed in (0, 1):
        _run("ascent", tmp_path / str(seed), settings, seed=seed)
    shutil.copy(tmp_path / "0" / "rows.safetensors", tmp_path / "1" / "rows.safetensors")
    with pytest.raises(BadRecord, match="does not belong to its record: the rows of MeanCosine have the mean"):
        _run("ascent", tmp_path / "1", settings, seed=1)


def test_options_equal_to_the_defaults_are_the_same_run():
    from salmu_core.spec.resolve import resolve

    plugins = toy_plugins()
    bare = resolve(RunSpec(method="ascent", benchmark="toy"), plugins)
    spelt = resolve(RunSpec(method="ascent", benchmark="toy", method_options={"lr": "1e-3"}), plugins)
    other = resolve(RunSpec(method="ascent", benchmark="toy", method_options={"lr": "2e-3"}), plugins)
    assert bare.id == spelt.id != other.id


@pytest.mark.parametrize("built", [True, False])
def test_a_plan_can_be_read_whether_the_benchmark_is_built_or_not(tmp_path, settings, monkeypatch, built):
    from salmu_core.runner.planning import plan_run
    from salmu_core.spec.resolve import resolve

    monkeypatch.setattr(Toy, "ready", lambda self: built)
    plugins = toy_plugins()
    plan = plan_run(resolve(RunSpec(method="ascent", benchmark="toy"), plugins), tmp_path / "run", settings, plugins)
    lines = dict(plan.lines())
    assert lines["samples it may see"] == ("forget 144, retain 144" if built else "known once the benchmark is built")
    assert plan.most_steps == (12 if built else None)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_not_overwritten(tmp_path, settings):
    _run("ascent", tmp_path / "run", settings)
    with pytest.raises(OutputError, match="holds another run"):
        _run("two-stages", tmp_path / "run", settings)
    assert read_record(tmp_path / "run").spec.method == "ascent"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"method": "ascend"}, UnknownName, "Did you mean ascent"),
        ({"method": "ascent", "options": {"lr": "-1"}}, BadOptions, "'lr' of ascent"),
        ({"method": "ascent", "benchmark_options": {"sed": 1}}, BadOptions, "Did you mean seed"),
        ({"method": "ascent", "start": "clean"}, BadOptions, "holds nothing to forget"),
    ],
)
def test_bad_names_and_options_are_found_before_anything_is_written(tmp_path, settings, arguments, error, words):
    with pytest.raises(error) as caught:
        _run(arguments.pop("method"), tmp_path / "run", settings, **arguments)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_output_place_that_is_a_file_or_full_is_found_before_training(tmp_path, settings, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        _run("ascent", tmp_path / "file", settings)
    with pytest.raises(OutputError, match="cannot be written"):
        _run("ascent", Path("/proc/no-such-place/run"), settings)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match="MB free"):
        _run("ascent", tmp_path / "full", settings)


def test_a_diverging_run_is_a_result_with_the_last_finite_weights(tmp_path, settings):
    record = _run("explodes", tmp_path / "run", settings)
    assert record.status == "diverged"
    assert "step 4" in record.error
    assert record.scores
    assert load_model(tmp_path / "run").fingerprint() == record.provenance.model_fingerprint


def test_a_method_with_a_bug_is_a_failed_record_that_says_why_and_is_tried_again(tmp_path, settings):
    record = _run("raises", tmp_path / "run", settings)
    assert record.status == "failed"
    assert "ZeroDivisionError: a bug of the method" in record.error
    assert _run("raises", tmp_path / "run", settings).created_at > record.created_at


@pytest.mark.parametrize("factor", [1e300, 1e12, float(2**1023)])
def test_a_budget_that_no_run_comes_to_the_end_of_is_refused(factor):
    with pytest.raises(BadOptions, match="no run comes to the end of"):
        Budget(forget=100, retain=0).times(factor)
    assert Budget(forget=100, retain=7).times(2.5) == {"forget": 250, "retain": 17}


def test_the_budget_is_enforced(tmp_path, settings):
    record = _run("greedy", tmp_path / "run", settings)
    assert record.status == "failed"
    assert "greedy asks for 36 more forget samples, and 0 of 144 are left" in record.error
    assert record.cost.samples["forget"] == 144
    assert _run("greedy", tmp_path / "more", settings, budget=2.5).cost.samples["forget"] == 360


def test_evaluation_data_and_undeclared_splits_are_out_of_reach(tmp_path, settings):
    benchmark = Toy()
    caught = []

    class Peeks(UnlearningMethod):
        """Tries to look."""

        name, summary, family, data = "peeks", "Peeks.", "baseline", ("forget",)

        def unlearn(self, ctx):
            for look in (
                lambda: benchmark.split("holdout_identity"),
                lambda: ctx.captions("retain"),
                lambda: ctx.captions("genknow"),
                ctx.clean_model,
            ):
                with pytest.raises(SalmuError) as error:
                    look()
                caught.append(error.value)

    assert _run("peeks", tmp_path / "run", settings, toy_plugins(Peeks)).status == "ok"
    assert len(caught) == 4
    assert isinstance(caught[0], EvaluationLocked)


def test_an_oracle_sees_the_clean_model_and_is_marked(tmp_path, settings):
    class Oracle(UnlearningMethod):
        """Copies Clean."""

        name, summary, family, data, oracle = "oracle", "Copies Clean.", "baseline", ("forget",), True

        def unlearn(self, ctx):
            ctx.model.clip.load_state_dict(ctx.clean_model().weights())

    record = _run("oracle", tmp_path / "run", settings, toy_plugins(Oracle))
    assert record.oracle
    assert record.provenance.model_fingerprint == Toy().load_model("clean").fingerprint()


def test_observers_see_start_steps_and_end(tmp_path, settings):
    seen = []
    plugins = toy_plugins()
    plugins.watch(
        Hooks(
            run_started=lambda spec: seen.append(("started", spec.method)),
            run_progress=lambda event: seen.append((event.stage, event.done)),
            run_finished=lambda record: seen.append(("finished", record.status)),
        )
    )
    _run("ascent", tmp_path / "run", settings, plugins)
    assert seen[0] == ("started", "ascent")
    assert seen[-1] == ("finished", "ok")
    assert [done for stage, done in seen if stage == "unlearn"] == list(range(1, 13))


@pytest.mark.parametrize(("method", "last_step"), [("ascent", 5), ("two-stages", 4)])
def test_a_run_killed_with_sigkill_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path, settings, method, last_step):
    expected = _run(method, tmp_path / "whole", settings)
    steps, told = forked.pipe()
    process = forked.start(forked.run_toy, [method], tmp_path / "cut", told, 0.2)
    told.close()
    for _ in range(last_step):
        steps.recv()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = tmp_path / "cut" / method
    assert not (folder / "record.json").exists()
    assert list((folder / "checkpoints").iterdir())

    done = []
    plugins = toy_plugins()
    plugins.watch(Hooks(run_progress=lambda event: done.append(event.done) if event.stage == "unlearn" else None))
    record = _run(method, folder, settings, plugins)
    assert 0 < len(done) <= expected.cost.steps - last_step + 1
    assert read_record(folder) == record
    assert record.provenance.model_fingerprint == expected.provenance.model_fingerprint
    assert record.cost.samples == expected.cost.samples
    assert record.cost.steps == expected.cost.steps
    assert record.scores == expected.scores


def test_a_key_pressed_while_it_trains_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path, settings, request):
    class Pressed(Ascent):
        """Presses Ctrl-C in its sixth step, once."""

        name = "pressed"
        to_press = False

        def loss(self, model, batch):
            if Pressed.to_press and batch.step == 5:
                Pressed.to_press = False
                signal.raise_signal(signal.SIGINT)
            return super().loss(model, batch)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background keys are ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    plugins, often = toy_plugins(Pressed), replace(settings, checkpoint_seconds=0)
    expected = _run("pressed", tmp_path / "whole", often, plugins)
    Pressed.to_press = True
    with pytest.raises(KeyboardInterrupt):
        _run("pressed", tmp_path / "cut", often, plugins)
    left = sorted(place.name for place in (tmp_path / "cut").rglob("*") if place.is_file())
    assert left == ["fit-000.safetensors", "spec.json"]
    seen = []
    plugins.watch(Hooks(run_progress=lambda event: seen.append(event.done) if event.stage == "unlearn" else None))
    record = _run("pressed", tmp_path / "cut", often, plugins)
    assert seen[0] == 6
    assert record.provenance.model_fingerprint == expected.provenance.model_fingerprint
    assert record.cost.samples == expected.cost.samples


def test_two_processes_give_the_metrics_of_one(tmp_path, settings):
    methods = ["ascent", "two-stages", "combined", "weight-edit"]
    two = forked.start_ranks(2, tmp_path / "meeting", forked.run_toy, methods, tmp_path / "two")
    singles = {method: _run(method, tmp_path / "one" / method, settings) for method in methods}
    for process in two:
        process.join(600)
    assert [process.exitcode for process in two] == [0, 0]
    for method, single in singles.items():
        double = read_record(tmp_path / "two" / method)
        assert double.provenance.processes == 2
        assert double.cost.samples == single.cost.samples
        for name, score in single.scores.items():
            assert double.scores[name].value == pytest.approx(score.value, abs=1e-3)


def test_bf16_runs_and_is_recorded(tmp_path, settings):
    record = _run("ascent", tmp_path / "run", settings, precision="bf16")
    assert record.status == "ok"
    assert record.spec.precision == "bf16"


def test_an_unavailable_tracker_is_one_clear_error(tmp_path, settings):
    with pytest.raises(SalmuError):
        _run("ascent", tmp_path / "run", Settings(cache=settings.cache, cpu=True, log_with="no-such-tracker"))


def test_tensorboard_gets_the_curves(tmp_path, settings):
    pytest.importorskip("tensorboard")
    _run("ascent", tmp_path / "run", Settings(cache=settings.cache, cpu=True, log_with="tensorboard"))
    assert list((tmp_path / "run" / "logs").rglob("events*"))


def test_weights_that_were_edited_without_a_fit_count_as_trained(tmp_path, settings):
    record = _run("weight-edit", tmp_path / "run", settings)
    assert record.cost.steps == 0
    assert 0 < record.cost.trainable_parameters < record.cost.total_parameters


@pytest.mark.parametrize("names", [["model.safetensors"], ["unlearned.json", "model.safetensors"], []])
def test_weights_of_another_run_are_not_scored_as_this_ones(tmp_path, settings, monkeypatch, names):
    with monkeypatch.context() as patch:
        patch.setattr("salmu_core.runner.run._evaluate_and_record", lambda *given: 1 / 0)  # killed before it was scored
        for seed in (0, 1):
            with pytest.raises(ZeroDivisionError):
                _run("ascent", tmp_path / str(seed), settings, seed=seed)
    for name in names:
        shutil.copy(tmp_path / "1" / name, tmp_path / "0" / name)
    if not names:
        (tmp_path / "0" / "model.safetensors").unlink()
    with pytest.raises(OutputError, match=r"holds an unlearned\.json of another run, or not the model\.safetensors"):
        _run("ascent", tmp_path / "0", settings, seed=0)
