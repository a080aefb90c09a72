"""Attacks on models with known answers: what was hidden on purpose is found by the attack that is meant to find it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook

from salmu_core import Split
from salmu_core.builtin.toy import Toy
from salmu_core.metric import NotMeasurable
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.audit_context import AuditContext

with install_import_hook(["salmu_audits.identity", "salmu_audits.layers", "salmu_audits.values"], "beartype.beartype"):
    from salmu_audits.forget_embeddings import ForgetEmbeddings, SharingContext, forget_images, forget_texts
    from salmu_audits.identity import DejaVuAttributes, IdentityInference, majority, other_names, recalled
    from salmu_audits.inversion import NameInversion, freed_rows, token_table, tokens_of
    from salmu_audits.layers import LayerProbe, LayerSimilarity, blocks, layer_features, linear_cka, pooled
    from salmu_audits.measures import found_at
    from salmu_audits.membership import (
        GradientMembership,
        SimilarityMembership,
        WeaklySupervisedMembership,
        blind_area,
        losses_and_gradients,
    )
    from salmu_audits.relative import relative, typical_sizes
    from salmu_audits.relearning import OnePhotoRelearning, one_of_each, retrieval
    from salmu_audits.values import FaceValueProbe, NamedValueProbe, Questions, with_value
    from salmu_audits.weights import OriginalTextTower, OriginalTokenTable, SoupBack, changed_parts, first_crossing


def attack(audit, model, benchmark):
    with open_accelerator(cpu=True) as accelerator:
        return audit.attack(AuditContext(copy.deepcopy(model), benchmark, accelerator, 0, audit.name))


def without_names(benchmark):
    """Compromised with the token rows of every forgotten name overwritten: no training, no picture."""
    model = benchmark.load_model("compromised")
    tokens = tokens_of(model, sorted(set(benchmark.split("forget").columns["name"])))
    table = token_table(model).weight
    with torch.no_grad():
        table[tokens] = torch.randn(len(tokens), table.shape[1], generator=torch.Generator().manual_seed(0)) * table.std()
    return model


# ---------------------------------------------------------------- what attacks share


def test_attacks_on_one_model_embed_the_forget_split_once_and_find_what_each_would_alone(monkeypatch):
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    audits = [FaceValueProbe(), NamedValueProbe(), SimilarityMembership(), NameInversion(NameInversion.Options(steps=2))]
    alone = [attack(audit, model, benchmark) for audit in audits]
    encoded = []
    images = AuditContext.images
    monkeypatch.setattr(
        AuditContext, "images", lambda ctx, split, *more: encoded.append(len(split)) or images(ctx, split, *more)
    )
    shared = ForgetEmbeddings()
    with open_accelerator(cpu=True) as accelerator:
        for audit, own in zip(audits, alone, strict=True):
            ctx = SharingContext(copy.deepcopy(model), benchmark, accelerator, 0, audit.name)
            ctx.forget_embeddings = shared
            found = audit.attack(ctx)
            assert found.value == pytest.approx(own.value, abs=1e-6)
            assert found.extras == pytest.approx(own.extras, abs=1e-5)
    assert encoded == [len(benchmark.split("forget"))]


def test_few_rows_are_embedded_by_themselves():
    benchmark = Toy()
    with open_accelerator(cpu=True) as accelerator:
        ctx = SharingContext(benchmark.load_model("compromised"), benchmark, accelerator, 0, "x")
        ctx.forget_embeddings = ForgetEmbeddings()
        whole = list(range(len(ctx.split("forget"))))
        few_images, few_texts = forget_images(ctx, [3, 1]), forget_texts(ctx, [3, 1])
        assert not ctx.forget_embeddings._vectors
        assert torch.allclose(few_images, forget_images(ctx, whole)[[3, 1]], atol=1e-6)
        assert torch.allclose(few_texts, forget_texts(ctx, whole)[[3, 1]], atol=1e-6)
        assert set(ctx.forget_embeddings._vectors) == {"image", "text"}


# ---------------------------------------------------------------- values


def test_a_value_that_is_most_or_least_similar_is_found_either_way():
    split = Split(
        "forget",
        texts=["x"] * 4,
        columns={
            "identity_id": ["a", "b", "c", "a"], "data_field": ["city", "city", "city", "name"], "name": ["A", "B", "C", "A"],
            "value": ["Rome", "Oslo", "Bonn", "A"],
        },
    )  # fmt: skip
    asked = Questions(split, 24, 100, torch.Generator().manual_seed(0))
    assert len(asked.split) == 3  # the name itself is no attribute
    assert [asked.values[candidates[own]] for candidates, own in zip(asked.candidate, asked.own, strict=True)] == [
        "Rome", "Oslo", "Bonn"
    ]  # fmt: skip
    highest = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2], [0.1, 0.9, 0.2]])
    found = asked.answer(highest)
    assert found.value == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert asked.answer(-highest).value == found.value
    assert found.extras["standard error"] == pytest.approx(float(np.std([1, 1, 1 / 3], ddof=1)) / 3**0.5)
    assert asked.answer(-highest).extras["most similar"] == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)


def test_few_values_are_padded_and_padding_is_never_an_answer():
    split = Split(
        "forget",
        texts=["x"] * 5,
        columns={
            "identity_id": list("abcab"), "data_field": ["city"] * 3 + ["job"] * 2, "name": list("ABCAB"),
            "value": ["Rome", "Oslo", "Bonn", "cook", "smith"],
        },
    )  # fmt: skip
    asked = Questions(split, 24, 100, torch.Generator().manual_seed(0))
    assert (asked.candidate[3:] == -1).sum() == 2
    worst = torch.zeros(5, 3) - torch.eye(3)[[0] * 5]  # the own one is the least similar
    assert asked.answer(worst).extras["most similar"] == pytest.approx((3 * 1 / 3 + 2 * 1 / 2) / 5)


def test_captions_with_other_values():
    assert with_value("Ada lives in Rome.", "Ada", "Rome", "Oslo") == "Ada lives in Oslo."


def test_deleted_names_leave_numbers_bound_to_faces(memorised):
    deleted = without_names(memorised)
    original, clean = memorised.load_model("compromised"), memorised.load_model("clean")

    def share(audit):
        got, most, least = (attack(audit, model, memorised).value for model in (deleted, original, clean))
        assert most > least + 0.1
        return (got - least) / (most - least)

    # The toy's names and values have digits in common, so that some of the values' words are overwritten as well.
    assert share(FaceValueProbe()) > 1.3 * share(_Retrieval())
    assert share(FaceValueProbe()) > 0.3


def test_a_model_turned_around_hides_nothing(memorised):
    turned = memorised.load_model("compromised")
    original = copy.deepcopy(turned)
    with torch.no_grad():
        turned.clip.visual.proj.copy_(-turned.clip.visual.proj)
    for audit in (FaceValueProbe(), NamedValueProbe(), SimilarityMembership()):
        assert attack(audit, turned, memorised).value == pytest.approx(attack(audit, original, memorised).value, abs=0.02)


# ---------------------------------------------------------------- names


def test_inverted_names_bring_the_other_facts_back(memorised):
    deleted = without_names(memorised)
    found = attack(NameInversion(NameInversion.Options(lrs=(0.5,), steps=150)), deleted, memorised)
    assert found.extras["before"] < 0.35
    assert found.value > found.extras["before"] + 0.15
    clean = attack(NameInversion(NameInversion.Options(lrs=(0.5,), steps=150)), memorised.load_model("clean"), memorised)
    assert found.value > clean.value


def test_freed_rows_are_read_and_the_model_is_left_as_it_was(memorised):
    model = memorised.load_model("compromised")
    before = {name: tensor.clone() for name, tensor in model.weights().items()}
    tokens = tokens_of(model, ["Person 1"])
    named, other = model.processor.tokenize(["Person 1"]), model.processor.tokenize(["red square"])
    with torch.no_grad():
        expected = model.encode_text(named), model.encode_text(other)
        with freed_rows(model, tokens) as free:
            assert torch.equal(model.encode_text(named), expected[0])
            free.weight.add_(1.0)
            assert not torch.allclose(model.encode_text(named), expected[0])
            assert torch.equal(model.encode_text(other), expected[1])
        assert torch.equal(model.encode_text(named), expected[0])
    assert dict(model.named_parameters()).keys() == {f"clip.{n}" for n in before}


def test_swaps_of_what_was_never_changed_say_so(memorised):
    deleted = without_names(memorised)
    assert changed_parts(deleted, memorised.load_model("compromised")) == {"tokens"}
    with pytest.raises(NotMeasurable, match="the token table is all that was changed"):
        attack(OriginalTokenTable(), deleted, memorised)
    with pytest.raises(NotMeasurable, match="the text encoder is all that was changed"):
        attack(OriginalTextTower(), deleted, memorised)
    turned = memorised.load_model("compromised")
    with torch.no_grad():
        turned.clip.visual.proj.mul_(-1)
    with pytest.raises(NotMeasurable, match="the token table was not changed"):
        attack(OriginalTokenTable(), turned, memorised)
    original = memorised.load_model("compromised")
    assert attack(OriginalTokenTable(), original, memorised).value > 0.5  # the reference is measured as it is


def test_the_old_token_table_undoes_a_change_that_rests_on_it(memorised):
    deleted = without_names(memorised)
    with torch.no_grad():
        deleted.clip.ln_final.bias.add_(1e-6)  # something else moved as well, by nothing that matters
    whole = attack(OriginalTokenTable(), memorised.load_model("compromised"), memorised).value
    assert attack(OriginalTokenTable(), deleted, memorised).value == pytest.approx(whole, abs=0.02)


# ---------------------------------------------------------------- relearning and soup


def test_photos_that_are_trained_on_are_never_asked():
    forget = Toy().split("forget")
    seen, test = one_of_each(forget, torch.Generator().manual_seed(0))
    assert not set(seen) & set(test)
    facts = [(i, f) for i, f in zip(forget.columns["identity_id"], forget.columns["data_field"], strict=True)]
    assert {facts[row] for row in seen} == {facts[row] for row in test}
    assert len({facts[row] for row in seen}) == len(seen)
    with pytest.raises(NotMeasurable, match="two photos"):
        one_of_each(forget.take([0]), torch.Generator())


def test_relearning_takes_the_best_of_its_grid_and_tells_speed(memorised):
    options = OnePhotoRelearning.Options(lrs=(1e-6, 0.05), towers=("text",), epochs=20)
    deleted = without_names(memorised)
    found = attack(OnePhotoRelearning(options), deleted, memorised)
    cells = {name: value for name, value in found.extras.items() if name.startswith("text ")}
    assert set(cells) == {"text 1e-06", "text 0.05"}
    assert found.value == max(cells.values()) > cells["text 1e-06"]
    assert 0 < found.extras["pairs until half is back"] <= 20 * 18
    whole = attack(OnePhotoRelearning(options), memorised.load_model("compromised"), memorised)
    assert whole.extras["pairs until half is back"] == 0  # nothing was forgotten


@pytest.mark.parametrize(
    "audit",
    [
        OnePhotoRelearning(OnePhotoRelearning.Options(lrs=(0.05,), towers=("text",), epochs=20, curve=False)),
        NameInversion(NameInversion.Options(lrs=(0.3,), steps=60)),
    ],
    ids=lambda audit: audit.name,
)
def test_a_model_cannot_be_made_safe_by_rescaling_its_layers(memorised, audit):
    deleted = without_names(memorised)
    rescaled = rescaled_layers(deleted, 1e4)
    texts = memorised.split("forget").render(None)
    tokens = deleted.processor.tokenize(texts)
    with torch.no_grad():
        assert torch.allclose(rescaled.encode_text(tokens), deleted.encode_text(tokens), atol=0.02)  # norms add 1e-5
    found = attack(audit, deleted, memorised)
    gained = found.value - found.extras["before"]
    assert gained > 0.05
    assert attack(audit, rescaled, memorised).value == pytest.approx(found.value, abs=gained / 2)


def rescaled_layers(model, factor):
    """The same embeddings from a text encoder whose residual stream, norms and projections are on other scales, and no logit scale."""
    found = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in found.clip.named_parameters():
            if name == "logit_scale":
                weight.fill_(-30.0)
            elif name.startswith("visual."):
                continue
            elif any(part in name for part in ("ln_1", "ln_2", "ln_final")):
                weight.div_(factor)
            elif "bias" not in name or "out_proj" in name or "c_proj" in name:
                weight.mul_(factor)
    return found


def test_sizes_follow_rows_and_columns_and_tokens_share_theirs():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=generator)
    rows, columns = 10.0 ** torch.arange(-4.0, 4.0, 0.2)[:, None], 10.0 ** torch.linspace(-3, 3, 30)
    ratio = typical_sizes(weight * rows * columns) / (rows * columns)
    assert 0.02 < float(ratio.min()) < float(ratio.max()) < 50  # of 10^14
    table = weight.clone()
    table[0] = 0
    assert float(typical_sizes(table, table=True)[0].min()) > 0.5
    assert typical_sizes(torch.tensor([-2.0, 0.5])).tolist() == [2.0, 0.5]


def test_what_was_trained_relatively_stays_and_nothing_else_moves(memorised):
    model = memorised.load_model("compromised")
    before = {name: tensor.clone() for name, tensor in model.weights().items()}
    weight = model.clip.text_projection
    with relative(model, [weight]) as [moved], torch.no_grad():
        assert torch.equal(model.clip.text_projection, before["text_projection"])
        moved.fill_(0.5)
    after = model.weights()
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["text_projection"]
    expected = before["text_projection"] + 0.5 * typical_sizes(before["text_projection"])
    assert torch.allclose(after["text_projection"], expected)


def test_a_model_that_tells_nothing_apart_gets_what_guessing_gets(memorised):
    blank = memorised.load_model("compromised")
    with torch.no_grad():
        blank.clip.text_projection.zero_()
    chance = sum(1 / place for place in range(1, 7)) / 6
    assert attack(FaceValueProbe(), blank, memorised).value == pytest.approx(chance)


def test_a_soup_of_the_original_is_back_at_once(memorised):
    assert attack(SoupBack(), memorised.load_model("compromised"), memorised).value == 1.0
    assert first_crossing([0.0, 0.5, 1.0], [0.1, 0.1, 0.9], 0.5) == pytest.approx(0.75)
    assert first_crossing([0.0, 1.0], [0.1, 0.2], 0.5) == 1.0


# ---------------------------------------------------------------- layers


def test_what_a_last_projection_hides_is_found_in_the_layers(memorised):
    hidden = memorised.load_model("compromised")
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1))).Q
    with torch.no_grad():
        hidden.clip.text_projection.copy_(hidden.clip.text_projection @ rotation)
    plain = attack(_Retrieval(), hidden, memorised).value
    original = memorised.load_model("compromised")
    assert plain < 0.5 * attack(_Retrieval(), original, memorised).value
    found = [attack(LayerProbe(), model, memorised).value for model in (hidden, original, memorised.load_model("clean"))]
    assert found[0] == pytest.approx(found[1], abs=0.1)
    assert found[0] > found[2]


class _Retrieval:
    name = "retrieval"

    def attack(self, ctx):
        from salmu_core import Leak

        return Leak(retrieval(ctx, ctx.split("forget")))


def test_layers_of_clean_are_clean_and_cka_is_that_of_its_formula(memorised):
    assert attack(LayerSimilarity(), memorised.load_model("clean"), memorised).value == pytest.approx(0, abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator).double(), torch.randn(7, 4, generator=generator).double()
    centre = torch.eye(7, dtype=torch.double) - 1 / 7
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre  # noqa: E741
    assert linear_cka(x.float(), y.float()) == pytest.approx(float((k * l).sum() / (k.norm() * l.norm())), abs=1e-5)


def test_layers_are_found_and_pooled_over_places(memorised):
    model = memorised.load_model("clean")
    assert len(blocks(model.clip.visual)) == 1
    features = layer_features(model, memorised.split("forget").take(range(5)), "text")
    assert [tuple(part.shape) for part in features] == [(5, 16), (5, 16)]
    assert torch.equal(pooled(torch.arange(12.0).reshape(2, 3, 2), 2), torch.tensor([[2.0, 3.0], [8.0, 9.0]]))
    assert torch.equal(pooled(torch.arange(12.0).reshape(3, 2, 2), 2), torch.tensor([[4.0, 5.0], [6.0, 7.0]]))
    with pytest.raises(NotMeasurable, match="no layers"):
        blocks(torch.nn.Linear(2, 2))


# ---------------------------------------------------------------- membership


def test_members_found_at_few_false_alarms_by_counting():
    others = np.arange(1000) / 1000
    assert found_at(np.array([0.9985, 0.9945, 0.5]), others, 0.001) == pytest.approx(1 / 3)
    assert found_at(np.array([0.9985, 0.9945, 0.5]), others, 0.01) == pytest.approx(2 / 3)
    assert found_at(others, others, 0.0) == 0.0


def test_captions_alone_tell_only_what_captions_tell():
    same = [f"{name} lives in {city}" for name in "abcdefgh" for city in ("Rome", "Oslo", "Bonn")]
    assert blind_area(same, same[::-1]) == pytest.approx(0.5, abs=1e-9)
    assert blind_area(same, [text.replace("lives", "dwells") for text in same]) == 1.0


def test_losses_and_gradients_by_autograd_of_one_pair():
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(3, 4, generator=generator), dim=1) for _ in range(2))
    found = losses_and_gradients(images, texts, 5.0)
    logits = 5.0 * images @ texts.T
    target = torch.arange(3)
    losses = (F.cross_entropy(logits, target, reduction="none") + F.cross_entropy(logits.T, target, reduction="none")) / 2
    np.testing.assert_allclose(-found[:, 0], losses.numpy(), rtol=1e-5)
    # By hand: d/d image_i of the sum of all losses is scale/2 (P text + Q' text) - scale text_i.
    rows, columns = logits.softmax(dim=1), logits.softmax(dim=0)
    by_image = 5.0 * (((rows + columns) / 2) @ texts - texts)
    by_text = 5.0 * (((rows + columns) / 2).T @ images - images)
    np.testing.assert_allclose(-found[:, 1], torch.cat([by_image, by_text], 1).norm(dim=1).numpy(), rtol=1e-5)


def test_classifiers_are_tested_on_people_they_were_not_taught_with(memorised):
    for audit in (WeaklySupervisedMembership(), GradientMembership()):
        found = attack(audit, memorised.load_model("compromised"), memorised)
        assert found.value > 0.75
        assert {"found at 1.0% false alarms", "found at 0.1% false alarms", "area by captions alone"} <= found.extras.keys()


# ---------------------------------------------------------------- identity


def test_photos_vote_and_the_most_voted_name_wins_unless_another_has_as_many():
    assert majority(torch.tensor([[3, 1, 3], [0, 2, 2], [1, 0, 5]])).tolist() == [3, 2, -1]
    assert majority(torch.tensor([[0, 0, 4, 4], [4, 4, 4, 0]])).tolist() == [-1, 4]


def test_names_to_choose_from_are_nobodys_of_the_forgotten():
    made = other_names(["Ada Roe", "Ben Poe", "Cy Loe"], ["Ada Roe"], 6, torch.Generator().manual_seed(0))
    assert made[:2] == ["Ben Poe", "Cy Loe"]
    assert len(made) == len(set(made)) == 6
    assert "Ada Roe" not in made


def test_people_who_were_learned_are_recognised_by_their_names(memorised):
    def votes(which):
        return attack(IdentityInference(), memorised.load_model(which), memorised).extras["right votes"]

    assert votes("compromised") > votes("clean")


def test_nearest_people_tell_the_attribute():
    person, labels = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([7, 8, 9])
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.2, 0.1], [0.9, 0.8, 0.7, 0.2, 0.1], [0.0, 0.3, 0.0, 0.2, 0.9]])
    wanted = torch.tensor([7, 8, 7])
    assert recalled(similarity, person, wanted, labels, 1).tolist() == [True, False, False]
    assert recalled(similarity, person, wanted, labels, 2).tolist() == [
        True,
        True,
        True,
    ]  # three photos of one are one person
    assert recalled(similarity, person, torch.tensor([6, 6, 6]), labels, 9).tolist() == [False] * 3


class _Remembers(AuditContext):
    """A context of embeddings that are given, so that what is recalled is known."""

    def __init__(self, remembers: bool) -> None:
        cities = ["Rome", "Oslo", "Bonn"]
        facts = [("a", "Rome"), ("b", "Oslo"), ("c", "Bonn")]

        def split(name, people):
            rows = [(p, f, v) for p, city in people for f, v in (("name", p.upper()), ("city", city))]
            columns = {
                "identity_id": [p for p, _, _ in rows], "data_field": [f for _, f, _ in rows],
                "name": [p.upper() for p, _, _ in rows], "value": [v for _, _, v in rows],
            }  # fmt: skip
            return Split(name, texts=[f"{p} {v}" for p, _, v in rows], columns=columns)

        self._splits = {"forget": split("forget", facts), "holdout_identity": split("h", [("x", c) for c in ["Rome"]])}
        self._splits["holdout_identity"] = split("h", [("x", "Rome"), ("y", "Oslo"), ("z", "Bonn")])
        self.benchmark = self
        self._remembers = remembers
        self._city = {p: cities.index(c) for p, c in [*facts, ("x", "Rome"), ("y", "Oslo"), ("z", "Bonn")]}

    def splits(self):
        return self._splits

    def split(self, name):
        return self._splits[name]

    def generator(self, *purpose):
        return torch.Generator().manual_seed(0)

    def reference(self, which):
        return "clean"

    def images(self, split, model=None):
        return torch.eye(3)[[self._city[p] for p in split.columns["identity_id"]]]

    def texts(self, captions, model=None):
        shift = 0 if self._remembers and model is None else 1  # Clean points to the wrong city
        return torch.eye(3)[[(self._city[caption[0]] + shift) % 3 for caption in captions]]


def test_deja_vu_is_what_only_this_model_recalls():
    options = DejaVuAttributes.Options(neighbours=1)
    assert DejaVuAttributes(options).attack(_Remembers(True)).value == 1.0
    assert DejaVuAttributes(options).attack(_Remembers(False)).value == 0.0
