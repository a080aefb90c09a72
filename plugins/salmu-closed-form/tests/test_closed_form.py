"""Closed form: levels, targets and the edit in numbers, what passes the end of an encoder, what is left alone, and the card."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook
from torch import Tensor, nn

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import DualEncoder, ModelConfig, SalmuError
from salmu_core.builtin.toy import Toy, ToyOptions

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_closed_form", "beartype.beartype"):
    from salmu_closed_form import KeyValueEdit
    from salmu_closed_form.formulas import (
        group_codes,
        group_sums,
        layer_norm,
        least_squares_edit,
        mismatched_levels,
        own_part,
        retreat,
        step_before_norm,
        two_way_levels,
    )
    from salmu_closed_form.method import encode_captions, kept_moment
    from salmu_closed_form.text_end import Caught, text_end

METHODS = [KeyValueEdit]
FOLDER = Path(__file__).parents[1]
PLACES = ["mlp", "projection"]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("place", PLACES)
def test_keeps_the_contract(place):
    check_method(KeyValueEdit, place=place)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# ---------------------------------------------------------------- levels

GROUP = torch.tensor([0, 0, 3, -1, 3, 1, -1, 0])  # rows of group -1 are alone


def stranger(i: int, j: int) -> bool:
    return i != j and (GROUP[i] != GROUP[j] or GROUP[i] < 0)


def test_groups_by_hand():
    codes = group_codes(GROUP)
    assert [[bool(codes[i] == codes[j]) for j in range(8)] for i in range(8)] == [
        [not stranger(i, j) for j in range(8)] for i in range(8)
    ]
    sums = group_sums(torch.arange(8.0)[:, None], codes)
    assert sums[:, 0].tolist() == [8, 8, 6, 3, 6, 5, 6, 8]
    assert group_codes(torch.tensor([-1, -1])).tolist() == [0, 1]


def test_mismatched_levels_against_a_loop():
    image, text = unit_rows(0, 8), unit_rows(1, 8)
    rows, columns, mean = mismatched_levels(image, text, GROUP)
    cosines = (image @ text.T).numpy()
    for i in range(8):
        assert rows[i].item() == pytest.approx(np.mean([cosines[i, j] for j in range(8) if stranger(i, j)]), rel=1e-9)
        assert columns[i].item() == pytest.approx(np.mean([cosines[j, i] for j in range(8) if stranger(i, j)]), rel=1e-9)
    every = [cosines[i, j] for i in range(8) for j in range(8) if stranger(i, j)]
    assert mean.item() == pytest.approx(np.mean(every), rel=1e-9)


def test_two_way_levels_against_a_loop():
    image, text = unit_rows(2, 8), unit_rows(3, 8)
    rows, columns, mean = (part.numpy() for part in mismatched_levels(image, text, GROUP))
    expected = []
    for i in range(8):
        photos = [j for j in range(8) if not stranger(i, j)]
        expected.append(np.mean(rows[photos]) + columns[i] - mean)
    np.testing.assert_allclose(two_way_levels(image, text, GROUP), expected, rtol=1e-9)


def test_two_way_levels_find_the_table_without_its_interaction():
    """Cosines that are row + column + something for the own pair: the level is what is left without that."""
    row, column, own = np.array([0.1, 0.2, 0.0]), np.array([0.05, -0.1, 0.15]), 0.4
    table = torch.from_numpy(row[:, None] + column[None, :] + own * np.eye(3))
    # Images are the table's rows, captions unit vectors: then image i . caption j is entry (i, j).
    found = two_way_levels(table, torch.eye(3, dtype=torch.double), torch.tensor([0, 1, 2]))
    # Row and column means leave out the own entry, which costs (row + column) / 2 each and gives back twice their mean.
    off = np.array([[row[i] + column[j] for j in range(3)] for i in range(3)])
    expected = [
        np.mean([off[i, j] for j in range(3) if j != i])
        + np.mean([off[j, i] for j in range(3) if j != i])
        - np.mean([off[a, b] for a in range(3) for b in range(3) if a != b])
        for i in range(3)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


# ---------------------------------------------------------------- targets


def test_the_own_part_by_hand():
    rows, common = torch.tensor([[1.0, 2.0], [0.0, -3.0]]), torch.tensor([5.0, 0.0])
    assert torch.equal(own_part(rows, common), torch.tensor([[0.0, 2.0], [0.0, -3.0]]))
    assert torch.equal(own_part(rows, torch.zeros(2)), rows)


def test_retreat_by_hand():
    # The image and the direction are the first axis; a caption at 45 degrees is to end at 90: eta takes its first part away.
    axis = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    text = torch.tensor([[0.6, 0.8]], dtype=torch.double)
    assert retreat(text, axis, axis, torch.zeros(1, dtype=torch.double)).item() == pytest.approx(0.6, abs=1e-9)
    # To a cosine of -0.28: (0.6 - eta / 2) / sqrt((0.6 - eta / 2)^2 + 0.64) = -0.28, so 0.6 - eta / 2 = -0.7 / 3.
    found = retreat(text, axis, 0.5 * axis, torch.tensor([-0.28], dtype=torch.double))
    assert found.item() == pytest.approx(2 * (0.6 + 0.7 / 3), abs=1e-9)
    # Already there, or below: nothing.
    assert retreat(text, axis, axis, torch.tensor([0.7], dtype=torch.double)).item() == 0
    # No further than one length, which is here from 0.6 to -0.4.
    assert retreat(text, axis, axis, torch.tensor([-0.99], dtype=torch.double)).item() == pytest.approx(1, abs=1e-9)
    # The other way cannot lead down.
    assert retreat(text, axis, -axis, torch.zeros(1, dtype=torch.double)).item() == 0


def test_captions_end_at_their_levels():
    text, image = unit_rows(4, 30), 0.7 * unit_rows(5, 30)
    direction = image + 0.05 * draw(6, 30, 8)
    level = (image * text).sum(dim=1) - 0.3 * torch.rand(30, generator=torch.Generator().manual_seed(7), dtype=torch.double)
    level = torch.maximum(level, torch.full_like(level, -0.5))
    eta = retreat(text, image, direction, level)
    moved = F.normalize(text - eta[:, None] * direction, dim=1)
    torch.testing.assert_close((image * moved).sum(dim=1)[eta > 0], level[eta > 0], atol=1e-9, rtol=0)
    assert (eta > 0).sum() > 15


# ---------------------------------------------------------------- the edit


def test_the_edit_is_the_least_squares_solution():
    """Against NumPy's solver, on the sum written out row by row."""
    keys, changes, others = draw(8, 12, 5), draw(9, 12, 3), draw(10, 20, 5)
    kept = others.T @ others / 20
    found = least_squares_edit(changes, keys, kept, 0.7, 1e-2)
    size = 1e-2 * np.trace(keys.numpy().T @ keys.numpy() / 12 + 0.7 * kept.numpy()) / 5
    rows = np.concatenate([keys / 12**0.5, others * (0.7 / 20) ** 0.5, np.eye(5) * size**0.5])
    wanted = np.concatenate([changes / 12**0.5, np.zeros((25, 3))])
    expected, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    np.testing.assert_allclose(found, expected.T, rtol=1e-9, atol=1e-12)


def test_keys_apart_are_changed_exactly_and_kept_exactly():
    basis = torch.linalg.qr(draw(11, 6, 6)).Q
    keys, others, changes = basis[:2], basis[2:5], draw(12, 2, 4)
    found = least_squares_edit(changes, keys, others.T @ others / 3, 1.0, 1e-12)
    torch.testing.assert_close(keys @ found.T, changes, atol=1e-9, rtol=0)
    torch.testing.assert_close(others @ found.T, torch.zeros(3, 4, dtype=torch.double), atol=1e-9, rtol=0)


def test_more_keeping_is_less_change_of_what_is_kept():
    keys, changes, others = draw(13, 12, 5), draw(14, 12, 3), draw(15, 20, 5)
    moved = [
        (others @ least_squares_edit(changes, keys, others.T @ others / 20, keep, 1e-4).T).norm().item()
        for keep in (0.0, 1.0, 100.0)
    ]
    assert moved[0] > moved[1] > moved[2]
    nothing = least_squares_edit(torch.zeros(12, 3, dtype=torch.double), keys, others.T @ others, 1.0, 1e-4)
    assert torch.equal(nothing, torch.zeros(3, 5, dtype=torch.double))


def standard_rows(seed: int, rows: int, width: int) -> Tensor:
    return layer_norm(draw(seed, rows, width), torch.ones(width).double(), torch.zeros(width).double(), 0.0)


def test_a_step_before_a_normalisation_turns_its_products_as_wanted():
    standard, matrix = standard_rows(16, 9, 12), draw(17, 12, 5)
    changes = 0.5 * draw(18, 9, 5)
    found = step_before_norm(standard, changes, matrix)
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(9, dtype=torch.double), atol=1e-12, rtol=0)
    torch.testing.assert_close(found.var(dim=1, correction=0), torch.ones(9, dtype=torch.double))
    direction = F.cosine_similarity(found @ matrix, standard @ matrix + changes, dim=1)
    torch.testing.assert_close(direction, torch.ones(9, dtype=torch.double))


def test_a_step_that_is_not_possible_comes_nearest():
    """As many outputs as inputs: one of their directions cannot be reached with mean 0."""
    standard, matrix, changes = standard_rows(19, 4, 6), draw(20, 6, 6), 0.1 * draw(21, 4, 6)
    centred = matrix.numpy() - matrix.numpy().mean(axis=0)
    step, *_ = np.linalg.lstsq(centred.T, changes.numpy().T, rcond=None)
    expected = standard.numpy() + step.T
    expected /= np.sqrt((expected**2).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(step_before_norm(standard, changes, matrix), expected, atol=1e-9)


def test_no_change_is_no_step():
    standard = standard_rows(22, 4, 6)
    torch.testing.assert_close(step_before_norm(standard, torch.zeros(4, 2).double(), draw(23, 6, 2)), standard)


# ---------------------------------------------------------------- the end of an encoder

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}


def small(text: dict, **more: object) -> DualEncoder:
    return DualEncoder.create(ModelConfig({"embed_dim": 12, "vision_cfg": VISION, "text_cfg": text, **more}), seed=0).eval()


CAPTIONS = ["a red square", "Person 1 lives in c001", "nothing", "a very long caption about nothing at all"]


@pytest.mark.parametrize(
    ("text", "more"),
    [(TEXT, {}), ({**TEXT, "proj_bias": True}, {}), (TEXT, {"custom_text": True})],
    ids=["plain", "layer with bias", "custom text"],
)
@torch.no_grad()
def test_what_is_caught_gives_the_embeddings_and_edits_do_what_they_say(text, more):
    model = small(text, **more)
    end, caught = text_end(model), Caught()
    if text.get("proj_bias"):
        nn.init.normal_(end.projection.bias, generator=torch.Generator().manual_seed(1))
    tokens = model.processor.tokenize(CAPTIONS)
    with end.watched(tokens.argmax(dim=-1), caught):
        before = model.encode_text(tokens).double()
    stream, hidden = caught.stream[0].double(), caught.hidden[0].double()
    torch.testing.assert_close(F.normalize(end.outputs(end.normalised(stream)), dim=1), before, atol=1e-5, rtol=0)
    assert not any(module._forward_pre_hooks for module in model.modules())

    change = 0.3 * draw(21, 16, 64)
    end.add("mlp", change)
    expected = F.normalize(end.outputs(end.normalised(stream + hidden @ change.T)), dim=1)
    torch.testing.assert_close(model.encode_text(tokens).double(), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(expected, before, atol=1e-2)
    end.add("mlp", -change)

    change, keys = 0.3 * draw(22, 12, 16), end.normalised(stream)
    expected = F.normalize(end.outputs(keys) + keys @ change.T, dim=1)
    end.add("projection", change)
    torch.testing.assert_close(model.encode_text(tokens).double(), expected, atol=1e-5, rtol=0)


def test_a_stream_for_changed_outputs():
    model = small({**TEXT, "width": 32})
    end, caught = text_end(model), Caught()
    tokens = model.processor.tokenize(CAPTIONS)
    with torch.no_grad(), end.watched(tokens.argmax(dim=-1), caught):
        model.encode_text(tokens)
    stream = caught.stream[0].double()
    outputs = end.outputs(end.normalised(stream))
    changes = 0.5 * outputs.norm(dim=1, keepdim=True) * unit_rows(25, 4, 12)
    found = end.stream_for(stream, changes)
    assert F.cosine_similarity(end.outputs(end.normalised(found)), outputs + changes, dim=1).min() > 1 - 1e-6
    torch.testing.assert_close(found.mean(dim=1), stream.mean(dim=1))


@pytest.mark.parametrize(
    "text", [{**TEXT, "proj_type": "none"}, {**TEXT, "ls_init_value": 0.1}, {**TEXT, "pool_type": "last"}]
)
def test_another_end_is_refused(text):
    with pytest.raises(SalmuError, match="how the text encoder"):
        text_end(small({**text, "width": 12}))


# ---------------------------------------------------------------- on the toy benchmark


def ran(**options):
    method = KeyValueEdit(KeyValueEdit.Options(**options))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


@pytest.mark.parametrize(
    ("place", "name"), [("mlp", "transformer.resblocks.0.mlp.c_proj.weight"), ("projection", "text_projection")]
)
def test_one_matrix_is_edited_and_the_rest_is_bit_equal(place, name):
    before, after, ctx = ran(place=place)
    assert [key for key in before if not torch.equal(before[key], after[key])] == [name]
    assert ctx.samples == {"forget": 36, "retain": 24}


@pytest.mark.parametrize("place", PLACES)
def test_no_strength_changes_nothing(place):
    before, after, _ = ran(place=place, strength=0)
    assert all(torch.equal(before[name], after[name]) for name in before)


def person_cosines(ctx) -> np.ndarray:
    """Of each forget caption, the mean cosine with its person's images."""
    with torch.no_grad():
        image, text, _ = ctx.model(next(ctx.batches("forget", 36)))
    people = np.array(ctx.columns("forget")["identity_id"])
    cosines = (image @ text.T).numpy()
    return np.array([cosines[people == people[i], i].mean() for i in range(36)])


@pytest.mark.parametrize("place", PLACES)
def test_captions_fall_to_their_levels_when_nothing_is_to_be_kept(place):
    """Those of the toy that are similar to their person's images at all; its embedding is too small for all to be exact."""
    method = KeyValueEdit(KeyValueEdit.Options(place=place, keep=0, ridge=1e-9))
    with toy_context(method, budget=2) as ctx:
        before = person_cosines(ctx)
        with torch.no_grad():
            image, text, _ = ctx.model(next(ctx.batches("forget", 36)))
        _, people = np.unique(ctx.columns("forget")["identity_id"], return_inverse=True)
        levels = two_way_levels(image.double(), text.double(), torch.from_numpy(people)).numpy()
        method.unlearn(ctx)
        after = person_cosines(ctx)
        logged = ctx.history[-1]
    above = (before > levels) & (before > 0)
    assert 8 < above.sum() < 36
    assert np.abs(after - levels)[above].mean() < 0.3 * (before - levels)[above].mean()
    assert logged["level"] == pytest.approx(levels.mean(), abs=1e-5)
    assert logged["similarity_before"] == pytest.approx(before.mean(), abs=1e-5)
    assert logged["similarity"] == pytest.approx(after.mean(), abs=1e-4)  # worked out, and so


@pytest.mark.parametrize("place", PLACES)
def test_keeping_retain_captions_leaves_them_nearer_to_where_they_were(place):
    moved = []
    for keep in (0.0, 1000.0):
        method = KeyValueEdit(KeyValueEdit.Options(place=place, keep=keep))
        with toy_context(method) as ctx, torch.no_grad():
            tokens = ctx.tokenize(ctx.captions("retain"))
            before = ctx.model.encode_text(tokens)
            method.unlearn(ctx)
            moved.append((ctx.model.encode_text(tokens) - before).norm(dim=1).mean().item())
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("place", PLACES)
def test_the_kept_moment_is_that_of_all_retain_captions(place):
    with toy_context(KeyValueEdit()) as ctx:
        end, caught = text_end(ctx.model), Caught()
        found = kept_moment(ctx, end, place, 10)
        with torch.no_grad():
            encode_captions(ctx, end, next(ctx.batches("retain", 24)), caught)
    keys = caught.hidden[0].double() if place == "mlp" else end.normalised(caught.stream[0].double())
    torch.testing.assert_close(found, keys.T @ keys / 24, atol=1e-6, rtol=1e-5)


def test_levels_of_one_person_cannot_be_measured():
    alone = Toy(ToyOptions(identities=1))
    with toy_context(method := KeyValueEdit(), benchmark=alone) as ctx, pytest.raises(SalmuError, match="one identity"):
        method.unlearn(ctx)


def test_a_small_budget_measures_fewer_rows():
    with toy_context(method := KeyValueEdit(), budget=0.1) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 14, "retain": 14}
