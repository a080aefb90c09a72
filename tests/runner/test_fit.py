"""The one training loop: batches, schedule, precision, resuming, divergence."""

import gc
import itertools

import pytest
import torch

from salmu_core import FitOptions
from salmu_core.builtin.toy import Toy
from salmu_core.data.pixels import PairStore
from salmu_core.errors import BadOptions, BudgetExceeded, Diverged, OutputError
from salmu_core.losses import contrastive_loss, pair_cosine
from salmu_core.runner import fit as fit_module
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.fit import fit, learning_rate, little_garbage
from salmu_core.runner.fit_job import Fit
from salmu_core.runner.sampling import EpochSampler


class Cut(Exception):
    """Stands for a kill."""


def _fit(
    options=None,
    *,
    steps=12,
    loss=None,
    tower="both",
    after_step=None,
    checkpoints=None,
    model=None,
    precision="no",
    on_step=None,
):
    benchmark = Toy()
    model = model or benchmark.load_model("compromised")
    stores = {role: PairStore(benchmark.split_for(role), model.processor) for role in ("forget", "retain")}
    meter = SampleMeter({"forget": 1000, "retain": 1000}, "test")
    loss = loss or (lambda m, b: {"f": -contrastive_loss(*m(b.forget)), "r": contrastive_loss(*m(b.retain))})
    with open_accelerator(precision, cpu=True) as accelerator:
        job = Fit(
            accelerator, model, loss, stores, options or FitOptions(lr=1e-3, batch_size=12), steps,
            model.tower_parameters(tower), meter, seed=0, after_step=after_step, checkpoints=checkpoints, on_step=on_step,
        )  # fmt: skip
        fit(job)
    return model, job


def test_every_epoch_meets_every_row_once_in_another_order():
    sampler = EpochSampler(10, 5, 0, "x")
    first = torch.cat([sampler.batch(0), sampler.batch(1)])
    second = torch.cat([sampler.batch(2), sampler.batch(3)])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_a_split_smaller_than_the_batch_is_one_batch():
    assert EpochSampler(1, 64, 0).batch(7).tolist() == [0]


def test_rows_shared_by_two_splits_come_in_the_same_order():
    all_rows = torch.cat([EpochSampler(30, 5, 0, "x").batch(i) for i in range(6)])
    part = torch.cat([EpochSampler(20, 5, 0, "x", drawn_from=30).batch(i) for i in range(4)])
    assert part.tolist() == [row for row in all_rows.tolist() if row < 20]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.5]), ("cosine", [0.5, 1, 1, 0.5])],
)
def test_schedules(schedule, expected):
    options = FitOptions(lr=1.0, warmup=0.5, schedule=schedule)
    # 4 steps: two of warm-up, then progress 0 and 1/2.
    assert [learning_rate(options, step, 4) for step in range(4)] == pytest.approx(expected)


def test_steps_follow_epochs_or_the_budget():
    meter = SampleMeter({"forget": 100, "retain": 50}, "m")
    rows = {"forget": 30, "retain": 60}
    assert meter.steps(FitOptions(batch_size=10), rows) == 5
    assert meter.steps(FitOptions(batch_size=10, epochs=1), rows) == 3
    with pytest.raises(BudgetExceeded, match="60 more retain samples, and 50 of 50 are left"):
        meter.steps(FitOptions(batch_size=10, epochs=2), rows)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_what_is_not_trained_stays_bit_equal(tower):
    before = Toy().load_model("compromised").fingerprint()
    model, _ = _fit(tower=tower)
    after = model.fingerprint()
    other = "text" if tower == "image" else "image"
    assert after[other] == before[other]
    assert after[tower] != before[tower]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_accumulation_of_a_mean_loss_equals_the_whole_batch():
    def loss(model, batch):
        return pair_cosine(*model(batch.forget)[:2]).mean()

    whole, _ = _fit(FitOptions(lr=1e-3, batch_size=12, optimizer="sgd"), loss=loss)
    cut, job = _fit(FitOptions(lr=1e-3, batch_size=12, optimizer="sgd", accumulate=3), loss=loss)
    for name, tensor in whole.weights().items():
        torch.testing.assert_close(cut.weights()[name], tensor, atol=1e-5, rtol=1e-5)
    assert job.meter.seen["forget"] == 12 * 12


def test_uneven_micro_batches_are_refused():
    with pytest.raises(BadOptions, match="5 equal micro-batches"):
        _fit(FitOptions(batch_size=12, accumulate=5))


def test_bf16_keeps_fp32_weights_and_small_updates():
    model = Toy().load_model("compromised")
    model.autocast = torch.bfloat16
    before = {name: tensor.clone() for name, tensor in model.weights().items()}
    _fit(FitOptions(lr=1e-6, batch_size=12), steps=3, model=model, precision="bf16")
    assert all(tensor.dtype == torch.float32 for tensor in model.weights().values())
    moved = (model.weights()["visual.proj"] != before["visual.proj"]).float().mean()
    assert moved > 0.9  # in pure bf16 nearly every update of this size would be lost


def test_gradients_are_clipped():
    steps = []

    def loss(model, batch):
        return 1e6 * pair_cosine(*model(batch.forget)[:2]).mean()

    before = Toy().load_model("compromised").weights()
    model, _ = _fit(FitOptions(lr=1.0, optimizer="sgd", beta1=0, clip_norm=0.01, schedule="constant"), steps=1, loss=loss)
    change = sum((model.weights()[n] - t).square().sum() for n, t in before.items()) ** 0.5
    assert change.item() == pytest.approx(0.01, rel=1e-3)
    assert not steps


def test_a_cut_fit_resumes_to_the_same_weights(tmp_path):
    whole, _ = _fit()

    def cut(step):
        if step == 7:
            raise Cut

    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    with pytest.raises(Cut):
        _fit(after_step=cut, checkpoints=checkpoints)
    resumed, job = _fit(checkpoints=checkpoints)
    assert resumed.fingerprint() == whole.fingerprint()
    assert job.meter.seen == {"forget": 144, "retain": 144}
    assert [point["step"] for point in job.history] == list(range(1, 13))
    again, _ = _fit(checkpoints=checkpoints)  # finished before: the weights are handed back
    assert again.fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("whose", [("another", 0), ("run", 1)])
def test_a_checkpoint_of_another_run_or_fit_is_not_taken_for_this_ones(tmp_path, whose):
    run, fit = whose
    Checkpoints(tmp_path, run=run).write(fit, {"w": torch.zeros(2)}, {"step": 3})
    assert Checkpoints(tmp_path, run=run).read(fit).facts == {"step": 3}
    (tmp_path / f"fit-{fit:03d}.safetensors").rename(tmp_path / "fit-000.safetensors")
    with pytest.raises(OutputError, match="another run, or by another fit"):
        Checkpoints(tmp_path, run="run").read(0)


def test_a_loss_that_is_not_finite_ends_the_fit_with_finite_weights():
    calls = []

    def loss(model, batch):
        calls.append(1)
        return pair_cosine(*model(batch.forget)[:2]).mean() * (float("nan") if len(calls) > 3 else 1.0)

    model = Toy().load_model("compromised")
    with pytest.raises(Diverged, match="step 4 of 12"):
        _fit(loss=loss, model=model)
    assert all(torch.isfinite(tensor).all() for tensor in model.weights().values())


def test_values_read_late_change_neither_the_weights_nor_where_a_fit_diverges(monkeypatch):
    """As on a GPU, where a step is launched before the last one's loss is read."""

    def loss(model, batch):
        calls.append(1)
        return pair_cosine(*model(batch.forget)[:2]).mean() * (float("inf") if len(calls) == 4 else 1.0)

    ends, histories = [], []
    for lag in (0, 1):
        monkeypatch.setattr(fit_module, "reading_lag", lambda device, lag=lag: lag)
        calls, model, shown = [], Toy().load_model("compromised"), []
        with pytest.raises(Diverged, match=r"loss is -?(inf|nan) at step 4 of 12"):
            _fit(
                loss=loss, model=model, on_step=lambda step, steps, values, shown=shown: shown.append((step, values["loss"]))
            )
        assert len(calls) == 4 + lag
        ends.append(model.fingerprint())
        histories.append(shown)
    assert ends[0] == ends[1]
    assert histories[0] == histories[1]
    assert [step for step, _ in histories[0]] == [1, 2, 3]
    monkeypatch.setattr(fit_module, "reading_lag", lambda device: 1)
    model, job = _fit()
    assert [point["step"] for point in job.history] == list(range(1, 13))
    assert model.fingerprint() == _fit()[0].fingerprint()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_a_gradient_that_is_not_finite_leaves_the_last_finite_weights(optimizer, clip_norm):
    def loss(model, batch):
        calls.append(1)
        cosine = pair_cosine(*model(batch.forget)[:2]).mean()
        # The value stays finite; the slope of a square root at 0 is not.
        return cosine if len(calls) < 3 else cosine + (cosine - cosine.detach()).abs().sqrt()

    calls, weights = [], []
    model = Toy().load_model("compromised")
    with pytest.raises(Diverged, match=r"The gradient is .* at step 3 of 12"):
        _fit(
            FitOptions(lr=1e-3, batch_size=12, optimizer=optimizer, clip_norm=clip_norm), loss=loss, model=model,
            after_step=lambda step: weights.append(model.fingerprint()) and None,
        )  # fmt: skip
    assert model.fingerprint() == weights[1]
    assert len(weights) == 2


def test_a_budget_of_1x_and_5x_over_thirty_thousand_pairs_in_batches_of_2048():
    rows = {"forget": 30_000, "retain": 60_000}
    for times, steps in ((1, 146), (5, 732)):  # 300,000 and 1,500,000 samples of each role
        meter = SampleMeter({"forget": times * 300_000, "retain": times * 300_000}, "m")
        assert meter.steps(FitOptions(batch_size=2048), rows) == steps
    sampler = EpochSampler(30_000, 2048, 0)
    assert sampler.per_epoch == 14
    assert len(torch.cat([sampler.batch(step) for step in range(14)]).unique()) == 14 * 2048


def test_the_store_is_told_what_comes_next():
    told, asked = [], []

    class Watched(PairStore):
        def prefetch(self, index):
            told.append(index.tolist())

        def pixels(self, index):
            asked.append(index.tolist())
            return super().pixels(index)

    benchmark = Toy()
    model = benchmark.load_model("compromised")
    store = Watched(benchmark.split_for("forget"), model.processor)
    with open_accelerator(cpu=True) as accelerator:
        options = FitOptions(batch_size=12, accumulate=2)
        loss = lambda m, b: pair_cosine(*m(b.forget)[:2]).mean()  # noqa: E731
        params = model.tower_parameters()
        fit(Fit(accelerator, model, loss, {"forget": store}, options, 3, params, SampleMeter({}, "m"), seed=0))
    assert len(asked) == 6
    assert told == asked[1:]


def test_checkpoints_that_take_long_to_write_come_less_often(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("salmu_core.runner.checkpoints.time.monotonic", lambda: clock[0])

    def write(path, tensors, metadata):
        clock[0] += 4.0

    monkeypatch.setattr("salmu_core.runner.checkpoints.write_tensors", write)
    checkpoints = Checkpoints(tmp_path, every_seconds=30)
    writing = []
    while clock[0] < 1000:
        clock[0] += 1.0
        if checkpoints.due():
            checkpoints.write(0, {}, {})
            writing.append(clock[0])
    assert writing[0] == 34
    # 4 of every 80 seconds, a twentieth, from then on.
    assert {after - before for before, after in itertools.pairwise(writing)} == {80}


def test_a_full_disk_costs_a_checkpoint_and_neither_the_last_one_nor_the_run(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, every_seconds=0)
    write = Checkpoints.write

    def full(self, fit, tensors, facts):
        if not facts["done"] and facts["step"] > 5:
            raise OutputError("'fit-000.safetensors' cannot be written: No space left on device.")
        write(self, fit, tensors, facts)

    def cut(step):
        if step == 9:
            raise Cut

    monkeypatch.setattr(Checkpoints, "write", full)
    (tmp_path / ".fit-000.safetensors.abc.part").write_text("half of one, by a process that was killed")
    with pytest.warns(UserWarning, match="goes on without a new checkpoint"), pytest.raises(Cut):
        _fit(checkpoints=checkpoints, after_step=cut)
    assert [path.name for path in tmp_path.iterdir()] == ["fit-000.safetensors"]
    assert checkpoints.read(0).facts["step"] == 5
    with pytest.warns(UserWarning, match="No space left"):
        resumed, _ = _fit(checkpoints=checkpoints)
    assert resumed.fingerprint() == _fit()[0].fingerprint()


def test_after_step_ends_the_fit():
    _, job = _fit(after_step=lambda step: step == 3)
    assert job.meter.seen["forget"] == 36


@pytest.mark.parametrize("frozen", [False, True])
def test_what_the_caller_froze_stays_frozen_and_nothing_else(frozen, monkeypatch):
    monkeypatch.setattr(fit_module, "_open", [])  # the tests themselves are run in one
    before = gc.get_freeze_count()
    gc.freeze() if frozen else gc.unfreeze()
    try:
        with little_garbage():
            assert gc.get_freeze_count() > 0
        assert (gc.get_freeze_count() > 0) is frozen
    finally:
        gc.freeze() if before else gc.unfreeze()
