"""The one training loop: batches, schedule, precision, resuming, divergence."""

import pytest
import torch

from salmu_core import FitOptions
from salmu_core.errors import BadOptions, BudgetExceeded, Diverged
from salmu_core.losses import contrastive_loss, pair_cosine
from salmu_core.pixels import PairStore
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.fit import Fit, fit, learning_rate, plan_steps
from salmu_core.runner.sampling import EpochSampler
from salmu_core.toy import Toy


class Cut(Exception):
    """Stands for a kill."""


def _fit(options=None, *, steps=12, loss=None, tower="both", after_step=None, checkpoints=None, model=None, precision="no"):
    benchmark = Toy()
    model = model or benchmark.load_model("compromised")
    stores = {role: PairStore(benchmark.split_for(role), model.processor) for role in ("forget", "retain")}
    meter = SampleMeter({"forget": 1000, "retain": 1000}, "test")
    loss = loss or (lambda m, b: {"f": -contrastive_loss(*m(b.forget)), "r": contrastive_loss(*m(b.retain))})
    with open_accelerator(precision, cpu=True) as accelerator:
        job = Fit(
            accelerator, model, loss, stores, options or FitOptions(lr=1e-3, batch_size=12), steps,
            model.tower_parameters(tower), meter, seed=0, after_step=after_step, checkpoints=checkpoints,
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
    assert plan_steps(FitOptions(batch_size=10), rows, meter) == 5
    assert plan_steps(FitOptions(batch_size=10, epochs=1), rows, meter) == 3
    with pytest.raises(BudgetExceeded, match="60 more retain samples, and 50 of 50 are left"):
        plan_steps(FitOptions(batch_size=10, epochs=2), rows, meter)


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


def test_a_loss_that_is_not_finite_ends_the_fit_with_finite_weights():
    calls = []

    def loss(model, batch):
        calls.append(1)
        return pair_cosine(*model(batch.forget)[:2]).mean() * (float("nan") if len(calls) > 3 else 1.0)

    model = Toy().load_model("compromised")
    with pytest.raises(Diverged, match="step 4 of 12"):
        _fit(loss=loss, model=model)
    assert all(torch.isfinite(tensor).all() for tensor in model.weights().values())


def test_after_step_ends_the_fit():
    _, job = _fit(after_step=lambda step: step == 3)
    assert job.meter.seen["forget"] == 36
