"""SLUG: its choices in numbers, its search, what it leaves alone, and its card."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import SalmuError
from salmu_core.builtin.toy import Toy, ToyOptions
from salmu_core.losses import pair_cosine
from salmu_core.runner.budget import SampleMeter

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_slug", "beartype.beartype"):
    from salmu_slug import (
        LEFT_OUT,
        Slug,
        Trial,
        _Watched,
        alignment,
        best_trial,
        importance,
        pareto_set,
        search_size,
    )

METHODS = [Slug]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


def test_keeps_the_contract():
    check_method(Slug)


# ---------------------------------------------------------------- formulas


def test_importance_by_hand():
    assert importance(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])) == pytest.approx(2.5)
    assert importance(torch.zeros(2), torch.ones(2)) == 0
    assert importance(torch.ones(2), torch.zeros(2)) == math.inf
    assert importance(torch.zeros(2), torch.zeros(2)) == 0


def test_alignment_by_hand():
    assert alignment(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert alignment(torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]])) == pytest.approx(1)  # the sign does not count
    assert alignment(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])) == 0
    assert alignment(torch.tensor([1.0, 0.0]), torch.zeros(2)) == 0
    tiny = 1e-9 * torch.tensor([3.0, 4.0])
    assert alignment(tiny, tiny) == pytest.approx(1)


def test_pareto_set_by_hand():
    # A: aligned 0.1, important 1.  B: 0.2, 3.  C: 0.3, 2, beaten by B.  D: 0.05, 0.5.  E: as B.  F: 0.2, 1, beaten by nobody
    # in both: A is as important, B as aligned.
    assert pareto_set([0.1, 0.2, 0.3, 0.05, 0.2, 0.2], [1.0, 3.0, 2.0, 0.5, 3.0, 1.0]) == [0, 1, 3, 4, 5]


def test_pareto_set_against_a_loop():
    draw = np.random.default_rng(0)
    aligned, important = draw.uniform(size=(2, 60)).round(1).tolist()
    expected = []
    for i in range(60):
        beaten = False
        for j in range(60):
            beaten |= aligned[j] < aligned[i] and important[j] > important[i]
        if not beaten:
            expected.append(i)
    assert pareto_set(aligned, important) == expected
    assert 0 < len(expected) < 60


def falling(size: float) -> Trial:
    return Trial(size, 1 - size, size)


def test_the_search_doubles_and_then_halves():
    trials = search_size(falling, 0.25, 0.4, 6)  # the target is reached from a size of 0.6 on
    assert [trial.size for trial in trials] == [0.25, 0.5, 1.0, 0.75, 0.625, 0.5625]
    assert trials[best_trial(trials, 0.4)].size == 0.625


def test_the_search_closes_in_on_the_smallest_step_that_suffices():
    for target in (0.9, 0.5, -3.0):
        trials = search_size(falling, 0.3, target, 25)
        assert trials[best_trial(trials, target)].size == pytest.approx(1 - target, rel=1e-4)


def test_a_step_that_breaks_the_model_is_too_far():
    trials = search_size(lambda size: Trial(size, 1 - size if size < 1 else math.nan, 0.0), 1.0, 0.4, 8)
    assert [trial.size for trial in trials][:3] == [1.0, 0.5, 0.75]
    assert trials[best_trial(trials, 0.4)].similarity <= 0.4


def test_the_best_trial_by_hand():
    trials = [falling(0.5), Trial(2.0, 0.3, 0.9), Trial(3.0, 0.2, 0.4), Trial(4.0, 0.1, 0.7), Trial(5.0, math.nan, 0.0)]
    assert best_trial(trials, 0.35) == 2  # of those that reach it the one that costs least
    assert best_trial(trials, 0.0) == 3  # none reaches it
    assert best_trial([Trial(1.0, math.nan, 0.0), Trial(1.0, 0.1, math.inf)], 0.5) is None


# ---------------------------------------------------------------- on the toy benchmark


def ran(**options):
    method = Slug(Slug.Options(**options))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


def test_one_tensor_is_moved_against_the_gradient_and_the_rest_is_bit_equal():
    before, after, ctx = ran(slice_rows=4, candidates=2, evaluations=5)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == 1
    assert not any(part in moved[0] for part in LEFT_OUT)

    def forget_cosine(model, pairs):
        return pair_cosine(*model(pairs)[:2]).mean()

    with toy_context(Slug()) as fresh:
        parameter = dict(fresh.model.named_parameters())[f"clip.{moved[0]}"]
        gradient = fresh.mean_gradients(forget_cosine, "forget", 64, params={"it": parameter})["it"]
    size = ctx.history[-1]["step_size"]
    torch.testing.assert_close(after[moved[0]], before[moved[0]] - size * gradient, rtol=1e-4, atol=1e-6)


def test_the_target_is_reached_and_is_that_of_other_peoples_captions():
    with toy_context(method := Slug()) as ctx, torch.no_grad():
        image, text, _ = ctx.model(next(ctx.batches("forget", 36)))
        people = np.array(ctx.columns("forget")["identity_id"])
        expected = (image @ text.T).numpy()[people[:, None] != people[None, :]].mean()
        ctx._meter.seen = {"forget": 0, "retain": 0}
        with torch.enable_grad():
            method.unlearn(ctx)
    logged = ctx.history[-1]
    assert logged["target"] == pytest.approx(expected, abs=1e-5)
    assert logged["similarity"] <= logged["target"]


def test_the_whole_split_follows_the_slice():
    for target in (0.0, -0.2):
        method = Slug(Slug.Options(target=target, slice_rows=36, candidates=1, evaluations=3, tower="image"))
        with toy_context(method, budget=3) as ctx:
            method.unlearn(ctx)
            with torch.no_grad():
                image, text, _ = ctx.model(next(ctx.batches("forget", 36)))
        assert pair_cosine(image, text).mean().item() == pytest.approx(ctx.history[-1]["similarity"], abs=1e-5)
        assert ctx.history[-1]["similarity"] <= target


def test_the_step_kept_is_the_one_tried_that_costs_retain_least():
    _, _, ctx = ran(slice_rows=3, candidates=2, evaluations=4)
    kept = ctx.history[-1]["retain_loss"]
    alone = [ran(slice_rows=3, candidates=2, evaluations=4, tower=tower)[2].history[-1] for tower in ("image", "text")]
    reached = [logged["retain_loss"] for logged in alone if logged["similarity"] <= logged["target"]]
    assert kept == pytest.approx(min(reached), rel=1e-5)


def test_every_evaluation_is_counted():
    _, _, ctx = ran(slice_rows=2, candidates=1, evaluations=5)
    tried = ctx.history[-1]["tried_tensors"]
    assert tried == 2
    assert ctx.samples == {"forget": 36 + 2 * 5 * 2, "retain": 24 + 2 * 5 * 2}


def test_slices_shrink_to_what_the_budget_holds():
    _, _, ctx = ran(slice_rows=1000, candidates=1, evaluations=10)
    assert ctx.samples == {"forget": 36 + 20 * 5, "retain": 24 + 20 * 6}


def test_a_budget_too_small_to_search_is_refused():
    method = Slug(Slug.Options(evaluations=40))
    with toy_context(method) as ctx, pytest.raises(SalmuError, match="forget budget holds 108 more") as found:
        method.unlearn(ctx)
    assert "evaluations" in str(found.value)


def test_the_target_of_one_person_is_measured_by_captions_of_retain():
    with toy_context(Slug(), benchmark=Toy(ToyOptions(identities=1))) as ctx:
        watched, pairs = _Watched(), next(ctx.batches("forget", 6))
        with torch.no_grad():
            watched.forget_cosine(ctx.model, pairs)
            image, _, _ = ctx.model(pairs)
        assert watched.unrelated(ctx) == pytest.approx(ctx.similarity_to_retain(image), abs=1e-6)


def test_a_plan_refuses_what_the_budget_cannot_search():
    def planned(forget, retain, **options):
        meter = SampleMeter({"forget": forget, "retain": retain}, "slug")
        return Slug(Slug.Options(**options)).planned_steps({"forget": 1, "retain": 8}, meter, lambda name, options: Slug())

    assert planned(49, 8 + 96) is None  # both encoders, three tensors, eight sizes
    for forget, retain in ((48, 104), (49, 103)):
        with pytest.raises(SalmuError, match="too few for the 48 evaluations"):
            planned(forget, retain)
    assert planned(9, 104, candidates=1, evaluations=4) is None


@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(tower, frozen):
    method = Slug(Slug.Options(tower=tower, candidates=1, evaluations=3))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]
