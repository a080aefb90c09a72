"""RAZOR: score and drift by hand, which layers are edited, rounds and their end, and the card."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_razor", "beartype.beartype"):
    from salmu_razor import Razor, layer_of, ranked_layers, ratio_score, relative_drift

FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [Razor])


def test_keeps_the_contract():
    check_method(Razor)


# ---------------------------------------------------------------- formulas


def test_the_score_is_that_of_the_layers_tensors_as_one_vector():
    rng = np.random.default_rng(0)
    forget, retain, weight = ([rng.normal(size=(3, 4)), rng.normal(size=5)] for _ in range(3))
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in (forget, retain, weight)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    expected = np.linalg.norm(flat[0]) / np.linalg.norm(flat[2]) * (1 - cosine) ** 1.7
    given = [[torch.from_numpy(part) for part in parts] for parts in (forget, retain, weight)]
    assert ratio_score(*given, 1.7) == pytest.approx(expected, rel=1e-12)


def test_gradients_that_agree_cost_a_layer_everything_and_edge_cases_are_finite_or_first():
    g, zero = [torch.tensor([1.0, 2.0])], [torch.zeros(2)]
    assert ratio_score(g, g, g, 1.0) == pytest.approx(0, abs=1e-12)
    assert ratio_score(g, g, g, 0.0) == 1
    assert ratio_score(zero, g, g, 1.0) == 0
    assert ratio_score(g, zero, g, 3.0) == 1
    assert ratio_score(g, zero, zero, 1.0) == math.inf


def test_drift_by_hand():
    now, start = [torch.tensor([1.0, 2.0]), torch.tensor([[5.0]])], [torch.tensor([0.0, 2.0]), torch.tensor([[3.0]])]
    assert relative_drift(now, start).item() == pytest.approx((1 + 4) / (4 + 9))
    assert relative_drift(start, start).item() == 0


def test_layers_are_ranked_as_wholes():
    names = [
        "clip.a.0.attn.in_proj_weight",
        "clip.a.0.attn.out_proj.weight",
        "clip.a.0.mlp.c_fc.weight",
        "clip.text_projection",
    ]
    assert [layer_of(name) for name in names] == ["clip.a.0.attn", "clip.a.0.attn", "clip.a.0.mlp", "clip.text_projection"]
    weights = {name: torch.ones(1, 1) for name in names}
    forget = dict(zip(names, (torch.full((1, 1), value) for value in (1.0, 1.0, 3.0, 0.0)), strict=True))
    retain = {name: -torch.ones(1, 1) for name in names}
    # The attention: sqrt(2)/sqrt(2) * 2 = 2; the MLP: 3 * 2 = 6; the projection has no forget gradient.
    assert ranked_layers(weights, forget, retain, 1.0) == ["clip.a.0.mlp", "clip.a.0.attn"]


# ---------------------------------------------------------------- the method


def run(**options):
    method = Razor(Razor.Options(**{"batch_size": 12, "lr": 3e-3, "rounds": 2, "check_rows": 8, **options}))
    with toy_context(method, budget=2.0) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return start, {n: t.clone() for n, t in ctx.model.weights().items()}, ctx.history, dict(ctx.samples)


def test_one_round_edits_one_layer_and_rounds_add_more():
    start, after, _, _ = run(rounds=1, layers=1)
    assert len({layer_of(name) for name in start if not torch.equal(start[name], after[name])}) == 1
    start, after, history, samples = run(rounds=2, layers=2, target=-1.0)
    assert [point["layers"] for point in history if "round" in point] == [2, 4]
    assert len({layer_of(name) for name in start if not torch.equal(start[name], after[name])}) == 4
    assert samples["forget"] <= 2 * 144


def test_it_ends_when_the_target_is_reached():
    _, _, history, _ = run(target=1.0)
    assert len([point for point in history if "round" in point]) == 1
    _, _, history, _ = run(rounds=2, layers=8)
    rounds = [point for point in history if "round" in point]
    first = next(point for point in history if "forget" in point)
    assert first["forget"] > 0
    assert rounds[-1]["similarity"] < rounds[-1]["target"] + first["forget"]


def test_a_heavy_drift_penalty_keeps_the_weights_nearer():
    def change(**options):
        start, after, _, _ = run(rounds=1, layers=4, lr=1e-2, **options)
        return sum((after[name] - start[name]).square().sum().item() for name in start)

    assert change(drift_weight=1e4) < 0.5 * change(drift_weight=0.0)
