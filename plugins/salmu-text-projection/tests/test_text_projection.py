"""Adaptation of the text projection: distances by hand, which matrix changes and by what rank, and the card."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_text_projection", "beartype.beartype"):
    from salmu_text_projection import TextProjection, matrix_distance, mean_distance

FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [TextProjection])


def test_keeps_the_contract():
    check_method(TextProjection)


def test_distances_by_hand_have_no_gradient_at_zero():
    rows = torch.tensor([[3.0, 4.0], [1.0, 1.0]], requires_grad=True)
    value = mean_distance(rows, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    value.backward()
    assert value.item() == pytest.approx(2.5)
    torch.testing.assert_close(rows.grad, torch.tensor([[0.3, 0.4], [0.0, 0.0]]))
    assert matrix_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])).item() == 2
    same = torch.ones(2, 2, requires_grad=True)
    matrix_distance(same, torch.ones(2, 2)).backward()
    assert torch.equal(same.grad, torch.zeros(2, 2))


def run(**options):
    method = TextProjection(TextProjection.Options(**{"batch_size": 12, **options}))
    with toy_context(method) as ctx:
        start = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return start, {n: t.clone() for n, t in ctx.model.weights().items()}, ctx.history


def test_only_the_projection_changes_by_the_adapters_rank():
    start, after, history = run(adapter_rank=2, change_weight=0.0, lr=0.05)
    assert [name for name in start if not torch.equal(start[name], after[name])] == ["text_projection"]
    values = torch.linalg.svdvals((after["text_projection"] - start["text_projection"]).double())
    assert values[0] > 1e-3
    assert values[2:].max() < 1e-5
    assert history[-1]["forget"] < history[0]["forget"]


def test_the_weight_of_the_change_keeps_it_small_and_the_matrix_itself_can_be_trained():
    def change(**options):
        start, after, _ = run(**options)
        return (after["text_projection"] - start["text_projection"]).norm().item()

    assert change(change_weight=100.0) < 0.5 * change(change_weight=0.0)
    assert change(adapter=None) > 0
