"""Relative Fisher, soup and moving average by hand, the three stages, the soup around a method, and the card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_subgroup", "beartype.beartype"):
    from salmu_subgroup import (
        Soup,
        SubgroupForgetting,
        first_share,
        layer_of,
        moving_average,
        relative_fisher,
        soup,
    )

METHODS = [Soup, SubgroupForgetting]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


# ---------------------------------------------------------------- formulas


def test_relative_fisher_sums_over_layers_and_leaves_out_what_retain_does_not_move():
    rng = np.random.default_rng(0)
    names = ("v.attn.in_proj_weight", "v.attn.out_proj.weight", "v.mlp.c_fc.weight", "v.conv1.weight")
    forget, retain = ({name: rng.random((2, 3)) for name in names} for _ in range(2))
    retain["v.conv1.weight"] = np.zeros((2, 3))
    given = [{name: torch.from_numpy(part) for name, part in parts.items()} for parts in (forget, retain)]
    found = relative_fisher(*given)
    assert found.keys() == {"v.attn", "v.mlp"}
    assert found["v.attn"] == pytest.approx(
        (forget[names[0]].sum() + forget[names[1]].sum()) / (retain[names[0]].sum() + retain[names[1]].sum())
    )


def test_a_soup_by_hand_is_exact_at_its_ends():
    start, end = {"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, -2.0])}
    torch.testing.assert_close(soup(start, end, 0.25)["a"], torch.tensor([1.5, 1.0]))
    assert torch.equal(soup(start, end, 0.0)["a"], start["a"])
    assert torch.equal(soup(start, end, 1.0)["a"], end["a"])


def test_the_moving_average_by_hand():
    assert moving_average(torch.tensor(2.0), torch.tensor(1.0), 0.9).item() == pytest.approx(1.9)


def test_the_smallest_share_that_reaches_is_taken_and_trying_stops_there():
    tried = []

    def reaches(alpha):
        tried.append(alpha)
        return alpha >= 0.45

    assert first_share(reaches, 10) == 0.5
    assert tried == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert first_share(lambda alpha: False, 4) == 1.0
    assert first_share(lambda alpha: True, 1) == 1.0


# ---------------------------------------------------------------- on the toy benchmark


def run(cls, **options):
    method = cls(cls.Options(**options))
    with toy_context(method, budget=2.0) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return start, {n: t.clone() for n, t in ctx.model.weights().items()}, ctx


SOUP = {"lr": 3e-3, "inner": "gradient-ascent-retain", "points": 4, "check_rows": 12}


def test_a_soup_lies_on_the_line_between_start_and_end():
    inner = {"batch_size": 12, "epochs": 2.0}
    start, end, _ = run(Soup, **SOUP, inner_options=inner, alpha=1.0)
    _, half, ctx = run(Soup, **SOUP, inner_options=inner, alpha=0.5)
    for name in start:
        torch.testing.assert_close(half[name], 0.5 * start[name] + 0.5 * end[name], atol=1e-6, rtol=1e-5)
    assert ctx.history[-1]["alpha"] == 0.5


def test_the_share_found_is_the_first_that_forgets_enough():
    _, _, ctx = run(Soup, **SOUP, inner_options={"batch_size": 12}, target=1.0)
    assert ctx.history[-1]["alpha"] == 0.25
    _, _, ctx = run(Soup, **SOUP, inner_options={"batch_size": 12}, target=-1.0)
    assert ctx.history[-1]["alpha"] == 1
    assert [point["tried_alpha"] for point in ctx.history if "tried_alpha" in point] == [0.25, 0.5, 0.75]
    assert ctx.samples["forget"] <= 288


def test_a_soup_does_not_wrap_itself():
    with pytest.raises(SalmuError, match="around itself"):
        run(Soup, inner="soup")


def test_only_the_chosen_layers_change_within_the_budget():
    options = {"batch_size": 12, "lr": 1e-2, "layers": 2, "check_rows": 12, "adapter_rank": 1, "points": 1}
    start, after, ctx = run(SubgroupForgetting, **options)
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert len({layer_of(name) for name in changed}) == 2
    assert ctx.history[-1]["alpha"] == 1
    assert ctx.samples["forget"] <= 288
    assert ctx.samples["retain"] <= 288


def test_forgetting_lowers_the_cosine_and_reminding_follows():
    _, _, ctx = run(SubgroupForgetting, batch_size=12, lr=1e-2, check_rows=12, points=1, target=0.0)
    forget = [point["forget"] for point in ctx.history if "forget" in point]
    assert forget[-1] < forget[0]
    assert any("retain" in point for point in ctx.history)


def test_what_is_saved_is_taken_back():
    method = SubgroupForgetting()
    assert method.state() == {}
    method.load_state({"a": torch.ones(2)})
    assert torch.equal(method.state()["a"], torch.ones(2))
