"""NPO and SimNPO: the loss in numbers, where it lets go, the group mask, and what they leave alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, Features
from salmu_core.losses import contrastive_loss, group_mask

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_preference", "beartype.beartype"):
    from salmu_preference import NegativePreference, SimpleNegativePreference, npo_loss, surprise

METHODS = [NegativePreference, SimpleNegativePreference]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def features(seed: int, rows: int = 5, scale: float = 6.0) -> Features:
    return Features(unit_rows(seed, rows), unit_rows(seed + 100, rows), torch.tensor(scale, dtype=torch.double))


ASSOCIATION = torch.tensor([0, 1, 0, 2, -1])

# ---------------------------------------------------------------- how likely a pair is


def test_surprise_by_hand():
    # Three orthogonal pairs that fit, at scale 1: log(e + 2) - 1 = 0.5514447. Where rows 0 and 1 are one association, they
    # have one alternative less: log(e + 1) - 1 = 0.3132617.
    fit = Features(torch.eye(3), torch.eye(3), torch.tensor(1.0))
    apart, together = group_mask(torch.tensor([0, 1, 2])), group_mask(torch.tensor([0, 0, 2]))
    torch.testing.assert_close(surprise(fit, apart), torch.full((3,), 0.5514447))
    torch.testing.assert_close(surprise(fit, together), torch.tensor([0.3132617, 0.3132617, 0.5514447]))


def test_surprise_against_numpy():
    given, same = features(0), group_mask(ASSOCIATION)
    logits = 6.0 * (given.image @ given.text.T).numpy()
    for i in range(5):
        left = [j for j in range(5) if j == i or not same[i, j]]
        row, column = (np.log(np.exp(part[left]).sum()) for part in (logits[i], logits[:, i]))
        assert surprise(given, same)[i].item() == pytest.approx((row + column) / 2 - logits[i, i], rel=1e-12)


def test_its_mean_is_clips_loss_when_all_rows_are_apart():
    given = features(1)
    mean = surprise(given, group_mask(torch.full((5,), -1))).mean()
    assert mean.item() == pytest.approx(contrastive_loss(*given).item(), rel=1e-12)


def test_paraphrases_get_exactly_no_gradient():
    given = features(2)
    text = given.text.clone().requires_grad_()
    # Row 0's own surprise: caption 2 says the same as caption 0.
    surprise(Features(given.image, text, given.scale), group_mask(ASSOCIATION))[0].backward()
    assert torch.equal(text.grad[2], torch.zeros(8, dtype=torch.double))
    assert (text.grad[[0, 1, 3, 4]] != 0).any(dim=1).all()


# ---------------------------------------------------------------- the loss


def test_npo_loss_by_hand():
    # Nothing has changed yet: 2/beta log 2. One pair log 3 more surprising, beta 1: 2 log(1 + 1/3) = 0.5753641.
    same = torch.tensor([0.7, 2.0])
    assert npo_loss(same, same, 0.5).item() == pytest.approx(4 * np.log(2), rel=1e-6)
    assert npo_loss(torch.tensor([np.log(3)]).float(), torch.zeros(1), 1.0).item() == pytest.approx(0.5753641, abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.0])
def test_npo_loss_against_numpy(beta):
    surprises, reference = 3 * torch.rand(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    difference = (surprises - reference).numpy()
    expected = -2 / beta * np.log(1 / (1 + np.exp(-beta * difference))).mean()
    assert npo_loss(surprises, reference, beta).item() == pytest.approx(expected, rel=1e-12)
    expected = -2 / beta * np.log(1 / (1 + np.exp(-beta * (surprises.numpy() - 0.5)))).mean()
    assert npo_loss(surprises, 0.5, beta).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_gradient_is_that_of_ascent_times_a_weight_that_fades(beta):
    surprises = torch.tensor([0.0, 1.0, 5.0, 60.0], dtype=torch.double, requires_grad=True)
    (gradient,) = torch.autograd.grad(npo_loss(surprises, torch.ones(4, dtype=torch.double), beta), surprises)
    weight = 2 / (1 + np.exp(beta * (surprises.detach().numpy() - 1)))
    np.testing.assert_allclose(gradient, -weight / 4, rtol=1e-12)
    assert gradient[1].item() == pytest.approx(-1 / 4)  # as likely as before: gradient ascent
    assert abs(gradient[3]) < 0.01  # forgotten


def test_towards_beta_zero_it_is_gradient_ascent():
    given, reference = features(3), features(4)
    same = group_mask(ASSOCIATION)
    image = given.image.clone().requires_grad_()
    surprises = surprise(Features(image, given.text, given.scale), same)
    (ours,) = torch.autograd.grad(npo_loss(surprises, surprise(reference, same), 1e-9), image, retain_graph=True)
    (ascent,) = torch.autograd.grad(-surprises.mean(), image)
    torch.testing.assert_close(ours, ascent)


def test_the_loss_is_bounded_and_finite_at_both_ends():
    assert npo_loss(torch.tensor([1e6]), torch.zeros(1), 10.0).item() == 0
    assert npo_loss(torch.tensor([-1e6]), torch.zeros(1), 10.0).item() == pytest.approx(2e6)


# ---------------------------------------------------------------- the methods


def test_the_first_losses_on_the_toy_benchmark():
    """The reference still is the model, so NPO begins at 2/beta log 2; SimNPO compares with delta."""
    for method in (
        NegativePreference(NegativePreference.Options(beta=0.5, retain_weight=2)),
        SimpleNegativePreference(SimpleNegativePreference.Options(beta=0.5, delta=0.7, retain_weight=2)),
    ):
        with toy_context(method) as ctx:
            method.prepare(ctx)
            batch = Batch({role: next(ctx.batches(role, 12)) for role in ("forget", "retain")})
            with torch.no_grad():
                terms = method.loss(ctx.model, batch)
                image, text, scale = ctx.model(batch.forget)
                retain = contrastive_loss(*ctx.model(batch.retain)).item()
            people, fields = ctx.columns("forget")["identity_id"], ctx.columns("forget")["data_field"]
        logits = (scale * image @ text.T).double().numpy()
        surprises = []
        for i in range(12):
            left = [j for j in range(12) if j == i or (people[i], fields[i]) != (people[j], fields[j])]
            row, column = (np.log(np.exp(part[left]).sum()) for part in (logits[i], logits[:, i]))
            surprises.append((row + column) / 2 - logits[i, i])
        start = np.zeros(12) if method.name == "npo" else np.array(surprises) - 0.7
        assert terms["forget"].item() == pytest.approx(4 * np.log1p(np.exp(-0.5 * start)).mean(), rel=1e-4)
        assert terms["retain"].item() == pytest.approx(2 * retain, rel=1e-5)


def test_the_reference_stays_as_it_was():
    method = NegativePreference()
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() != before
        assert method._reference.fingerprint() == before


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_retain_pairs_are_seen_only_where_they_have_a_weight(method):
    for weight, retain in ((0, 0), (0.5, 4 * 24)):
        given = method(method.Options(retain_weight=weight))
        with toy_context(given) as ctx:
            given.unlearn(ctx)
            assert ctx.samples == {"forget": 4 * 36, "retain": retain}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_forget_pairs_become_less_likely_on_the_toy_benchmark(method):
    given = method(method.Options(lr=1e-3, retain_weight=0, schedule="constant"))
    with toy_context(given) as ctx:
        given.unlearn(ctx)
        losses = [point["forget"] for point in ctx.history]
    assert losses[-1] < losses[0] - 0.01


def test_pairs_that_are_forgotten_already_change_nothing():
    """Far beyond delta the weight of the gradient is 0."""
    options = SimpleNegativePreference.Options(delta=-1000, beta=10, retain_weight=0)
    given = SimpleNegativePreference(options)
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        assert ctx.model.fingerprint() == before


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(method, tower, frozen):
    given = method(method.Options(tower=tower, epochs=1))
    with toy_context(given) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]
