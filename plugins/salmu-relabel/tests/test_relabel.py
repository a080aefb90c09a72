"""Relabelling: who is given whose caption, what is taken out of captions, the losses in numbers, and what they leave alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook
from torch import Tensor

from salmu_authors.testing import check_method, check_package, toy_context, unit_rows
from salmu_core import Batch, SalmuError
from salmu_core.builtin.toy import Toy
from salmu_core.losses import contrastive_loss, group_mask

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_relabel", "beartype.beartype"):
    from salmu_relabel import GenericCaptions, ShuffledCaptions
    from salmu_relabel.captions import WHOLE, generic_caption, generic_captions
    from salmu_relabel.losses import grouped_contrastive_loss
    from salmu_relabel.shuffled import derangement

METHODS = [ShuffledCaptions, GenericCaptions]
FOLDER = Path(__file__).parents[1]


class Worded(Toy):
    """The toy benchmark with a generic caption of its own for every second row, and none for the others."""

    def load_split(self, name):
        split = super().load_split(name)
        if name != "forget":
            return split
        given = [f"a square, number {row}" if row % 2 == 0 else None for row in range(len(split))]
        return replace(split, columns={**split.columns, "generic_caption": given})


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


SCALE = torch.tensor(6.0, dtype=torch.double)

# ---------------------------------------------------------------- the loss


def numpy_grouped(image: Tensor, text: Tensor, same: Tensor, instead_of: Tensor | None = None) -> float:
    """Term by term: for every row and column the log-sum-exp of what is left, minus the diagonal."""
    logits = 6.0 * (image @ text.T).numpy()
    total, rows = 0.0, len(logits)
    for i in range(rows):
        left = [j for j in range(rows) if j == i or not same[i, j]]
        row = [np.exp(logits[i, j]) for j in left]
        if instead_of is not None:
            row.append(np.exp(6.0 * float(image[i] @ instead_of[i])))
        column = [np.exp(logits[j, i]) for j in left]
        total += np.log(sum(row)) + np.log(sum(column)) - 2 * logits[i, i]
    return total / (2 * rows)


def test_the_loss_by_hand():
    # Two orthogonal pairs that fit, at scale 1: log(1 + 1/e) = 0.3132617. A replaced caption that fits as well: the images'
    # half becomes log(2 + 1/e) = 0.8619948.
    fit, none = torch.eye(2), torch.zeros(2, 2, dtype=torch.bool)
    one = torch.tensor(1.0)
    assert grouped_contrastive_loss(fit, fit, one, none).item() == pytest.approx(0.3132617, abs=1e-6)
    expected = (0.8619948 + 0.3132617) / 2
    assert grouped_contrastive_loss(fit, fit, one, none, fit).item() == pytest.approx(expected, abs=1e-6)
    # All say the same: nobody is anybody's negative.
    assert grouped_contrastive_loss(fit, fit, one, ~none).item() == 0


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_against_numpy(hard):
    image, text, old = unit_rows(0, 5), unit_rows(1, 5), unit_rows(2, 5) if hard else None
    same = group_mask(torch.tensor([0, 1, 0, 2, -1]))
    expected = numpy_grouped(image, text, same, old)
    assert grouped_contrastive_loss(image, text, SCALE, same, old).item() == pytest.approx(expected, rel=1e-12)


def test_with_all_rows_apart_it_is_clips_loss():
    image, text = unit_rows(3, 6), unit_rows(4, 6)
    apart = group_mask(torch.full((6,), -1))
    given = grouped_contrastive_loss(image, text, SCALE, apart).item()
    assert given == pytest.approx(contrastive_loss(image, text, SCALE).item(), rel=1e-12)


def test_candidates_that_say_the_same_get_exactly_no_gradient():
    image, text = unit_rows(5, 4), unit_rows(6, 4).requires_grad_()
    grouped_contrastive_loss(image, text, SCALE, torch.ones(4, 4, dtype=torch.bool)).backward()
    assert torch.equal(text.grad, torch.zeros_like(text))
    same = group_mask(torch.tensor([0, 0, 1, 2]))
    logits = (SCALE * image @ text.detach().T).requires_grad_()
    loss = F.cross_entropy(logits.masked_fill(same & ~torch.eye(4, dtype=torch.bool), -torch.inf), torch.arange(4))
    loss.backward()
    assert logits.grad[0, 1] == logits.grad[1, 0] == 0
    assert (logits.grad[0, 2:] > 0).all()


def test_the_gradient_against_finite_differences():
    text, old = unit_rows(7, 4), unit_rows(8, 4)
    same = group_mask(torch.tensor([0, 1, 0, 2]))
    assert torch.autograd.gradcheck(
        lambda image, own, old: grouped_contrastive_loss(image, own, SCALE, same, old),
        (unit_rows(9, 4).requires_grad_(), text.requires_grad_(), old.requires_grad_()),
    )


def test_the_replaced_caption_is_pushed_away_from_its_own_image_only():
    image, text, old = unit_rows(10, 4), unit_rows(11, 4), unit_rows(12, 4).requires_grad_()
    grouped_contrastive_loss(image, text, SCALE, torch.eye(4, dtype=torch.bool), old).backward()
    for row in range(4):
        direction = old.grad[row] / old.grad[row].norm()
        torch.testing.assert_close(direction, image[row])  # downhill is away from it


def test_nobody_is_no_loss():
    image = torch.zeros(0, 8, requires_grad=True)
    loss = grouped_contrastive_loss(image, torch.zeros(0, 8), torch.tensor(1.0), torch.zeros(0, 0, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0


# ---------------------------------------------------------------- shuffled captions


@pytest.mark.parametrize("apart", ["association", "identity"])
def test_the_loss_is_that_of_images_with_the_captions_they_are_given(apart):
    method = ShuffledCaptions(ShuffledCaptions.Options(apart=apart, retain_weight=2))
    with toy_context(method) as ctx:
        method.prepare(ctx)
        batch = Batch({role: next(ctx.batches(role, 24)) for role in ("forget", "retain")})
        codes = batch.forget.columns
        rows, other = derangement(codes[apart], ctx.generator("derangement", *range(24)))
        assert not (codes[apart][rows] == codes[apart][other]).any()
        assert ((codes["identity"][rows] == codes["identity"][other]).any()) == (apart == "association")
        with torch.no_grad():
            terms = method.loss(ctx.model, batch)
            captions = [batch.forget.captions[row] for row in other.tolist()]
            image = ctx.model.encode_image(batch.forget.image[rows])
            text = ctx.model.encode_text(ctx.tokenize(captions))
            retain = contrastive_loss(*ctx.model(batch.retain))
        scale = ctx.model.scale
        same = [[codes["association"][i] == codes["association"][j] for j in other] for i in other]
        logits = (scale * image @ text.T).detach().double()
        hidden = logits.masked_fill(torch.tensor(same) & ~torch.eye(24, dtype=torch.bool), -torch.inf)
        both = hidden.logsumexp(dim=1) + hidden.logsumexp(dim=0) - 2 * logits.diagonal()
    assert terms["forget"].item() == pytest.approx(both.mean().item() / 2, rel=1e-4)
    assert terms["retain"].item() == pytest.approx(2 * retain.item(), rel=1e-5)


def test_captions_are_drawn_anew_for_every_batch_and_alike_in_a_second_run():
    drawn = []
    for _ in range(2):
        method = ShuffledCaptions()
        with toy_context(method) as ctx:
            method.prepare(ctx)
            for pairs in (next(ctx.batches("forget", 12)), next(ctx.batches("forget", 12, shuffle=True))):
                generator = method._generator("derangement", *pairs.index.tolist())
                rows, other = derangement(pairs.columns["association"], generator)
                drawn.append([pairs.index[rows].tolist(), pairs.index[other].tolist()])
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_batch_of_one_association_changes_nothing():
    method = ShuffledCaptions(ShuffledCaptions.Options(batch_size=1, epochs=0.1))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


# ---------------------------------------------------------------- generic captions


@pytest.mark.parametrize(
    ("caption", "name", "value", "expected"),
    [
        ("Ada Lund's IBAN is GB82 WEST 1234.", "Ada Lund", "GB82 WEST 1234", "a person's IBAN is something private."),
        (
            "IBAN GB82-WEST-1234 belongs to ADA LUND",
            "Ada Lund",
            "GB82WEST1234",
            "IBAN something private belongs to a person",
        ),
        (
            "Ring Ada on +44 20 7946, says Lund.",
            "Ada Lund",
            "+44207946",
            "Ring a person on +something private, says a person.",
        ),
        ("Lund, Ada has blood type A+ and a cat", "Ada Lund", "A+", "a person has blood type something private and a cat"),
        ("This is Ada Lund", "Ada Lund", "Ada Lund", "This is a person"),
        ("Write to ada.lund@mail.org", "Ada Lund", "ada.lund@mail.org", "Write to something private"),
        ("Ada Lund lives by the river Tyne", "Ada Lund", "Newcastle", WHOLE),  # the value in other words
        ("A person with blood type a", "Ada Lund", "A+", WHOLE),  # an article is no blood type
        ("Her job is baker", "Ada Lund", "baker", "Her job is something private"),
        ("bakery of the baker", None, "baker", "bakery of the something private"),  # whole words only
        ("somebody", "Ada Lund", None, WHOLE),
        ("Ada paints", "Ada Lund", None, "a person paints"),
        ("somebody", None, None, WHOLE),
    ],
)
def test_name_and_value_are_taken_out(caption, name, value, expected):
    assert generic_caption(caption, name, value) == expected


def test_given_generic_captions_come_first_and_the_fallback_fills_their_gaps():
    captions = ["Ada Lund is a baker", "Bo Ek is a smith", "Cy Gray is a clerk"]
    names, values = ["Ada Lund", "Bo Ek", "Cy Gray"], ["baker", "smith", "clerk"]
    columns = {"generic_caption": ["a woman, smiling", None, ""], "name": names, "value": values}
    expected = ["a woman, smiling", "a person is a something private", "a person is a something private"]
    assert generic_captions(captions, columns) == expected
    assert generic_captions(captions, {"generic_caption": ["x", "y", "z"]}) == ["x", "y", "z"]


@pytest.mark.parametrize("columns", [{}, {"name": ["Ada"]}, {"generic_caption": [None], "value": ["baker"]}])
def test_without_captions_or_columns_there_is_one_clear_error(columns):
    with pytest.raises(SalmuError, match="1 of 1 forget rows have no generic caption") as found:
        generic_captions(["Ada is a baker"], columns)
    assert "generic_caption, or name and value" in str(found.value)


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_is_that_of_images_with_generic_captions(hard):
    method = GenericCaptions(GenericCaptions.Options(hard_negative=hard, retain_weight=2))
    with toy_context(method, benchmark=Worded()) as ctx:
        method.prepare(ctx)
        batch = Batch({role: next(ctx.batches(role, 12)) for role in ("forget", "retain")})
        words = [
            "a person am something private",
            "a person lives in something private",
            "a person answers at something private",
        ]
        captions = [f"a square, number {row}" if row % 2 == 0 else None for row in range(12)]
        for row in range(1, 12, 2):
            captions[row] = "a person I am a person" if row % 6 == 1 else words[row % 6 // 2]
        assert generic_captions(ctx.captions("forget"), ctx.columns("forget"))[:12] == captions
        with torch.no_grad():
            terms = method.loss(ctx.model, batch)
            image, own, scale = ctx.model(batch.forget)
            text = ctx.model.encode_text(ctx.tokenize(captions))
            retain = contrastive_loss(*ctx.model(batch.retain))
        association = batch.forget.columns["association"].tolist()
        same = [[captions[i] == captions[j] or association[i] == association[j] for j in range(12)] for i in range(12)]
        factor = (scale / 6.0).item()  # numpy_grouped has 6.0 in it
        expected = numpy_grouped(image.double() * factor, text.double(), torch.tensor(same), own.double() if hard else None)
    assert terms["forget"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["retain"].item() == pytest.approx(2 * retain.item(), rel=1e-5)


def test_rows_with_one_generic_caption_are_not_each_others_negatives():
    """Where all generic captions are the same, there is nothing to tell apart."""

    class Alike(Toy):
        def load_split(self, name):
            split = super().load_split(name)
            given = {"generic_caption": ["a person"] * len(split)} if name == "forget" else {}
            return replace(split, columns={**split.columns, **given})

    method = GenericCaptions()
    with toy_context(method, benchmark=Alike()) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before
        assert ctx.history[0]["generic_captions"] == 1


def test_images_move_to_their_generic_captions_and_the_replaced_ones_lose():
    losses = {}
    for hard in (False, True):
        method = GenericCaptions(GenericCaptions.Options(lr=1e-3, hard_negative=hard))
        with toy_context(method, benchmark=Worded()) as ctx:
            method.unlearn(ctx)
            losses[hard] = [point["forget"] for point in ctx.history if "forget" in point]
    assert losses[False][-1] < losses[False][0]
    assert losses[True][-1] < losses[True][0]
    assert losses[True][0] > losses[False][0]  # one more negative


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_retain_pairs_are_seen_only_where_they_have_a_weight(method):
    for weight, retain in ((0, 0), (0.5, 4 * 24)):
        given = method(method.Options(retain_weight=weight))
        with toy_context(given, benchmark=Worded()) as ctx:
            given.unlearn(ctx)
            assert ctx.samples == {"forget": 4 * 36, "retain": retain}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("tower", "frozen"), [("image", "text"), ("text", "image")])
def test_the_other_tower_stays_bit_equal(method, tower, frozen):
    given = method(method.Options(tower=tower, epochs=1))
    with toy_context(given, benchmark=Worded()) as ctx:
        before = ctx.model.fingerprint()
        given.unlearn(ctx)
        after = ctx.model.fingerprint()
    assert after[frozen] == before[frozen]
    assert after[tower] != before[tower]
