"""Selective forgetting: captions taken apart, what is said and held, what is left alone, and its card."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook

from salmu_core import SalmuError
from salmu_core.data import Split
from salmu_core.testing import check_method, check_package, toy_context
from salmu_core.toy import Toy

# Shape annotations are checked while these tests run.
with install_import_hook(["salmu_selective.method", "salmu_selective.wordings"], "beartype.beartype"):
    from salmu_selective import Selective
    from salmu_selective.method import direction_loss, embedding_of, owned_tokens
    from salmu_selective.wordings import Draw, Fact, Wording, bare, packed, split_caption

FOLDER = Path(__file__).parents[1]
NAMES = (
    "Aldous Quorn",
    "Brisa Tolm",
    "Cyprian Veld",
    "Dorit Mazur",
    "Edwige Falk",
    "Fulvio Brandt",
    "Gerlinde Huss",
    "Horatio Pym",
    "Ilse Kranz",
)


class Named(Toy):
    """The toy benchmark with names that have tokens of their own."""

    def _sensitive(self, name, people, fields=("name", "city", "phone_number")):
        split = super()._sensitive(name, people, fields)

        def called(text):
            return re.sub(r"Person (\d+)", lambda found: NAMES[int(found.group(1))], text)

        columns = {key: [called(str(v)) for v in values] for key, values in split.columns.items()}
        return Split(split.name, split.images, [called(text) for text in split.texts], columns)


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, [Selective])


def test_keeps_the_contract():
    check_method(Selective, epochs=1.0)


# ---------------------------------------------------------------- captions


def test_a_caption_is_cut_at_name_and_value_and_said_again():
    # 1 2 = name, 7 8 9 = value.
    wording = split_caption((5, 1, 2, 6, 7, 8, 9, 4), (1, 2), (7, 8, 9))
    assert wording == Wording(((5,), (6,), (4,)), ("name", "value"))
    assert wording.say((1, 2), (7, 8, 9)) == (5, 1, 2, 6, 7, 8, 9, 4)
    assert wording.say((3,), ()) == (5, 3, 6, 4)


def test_a_name_inside_a_value_belongs_to_the_value():
    wording = split_caption((1, 2, 9, 5), (1, 2), (1, 2, 9))
    assert wording == Wording(((), (5,)), ("value",))
    assert split_caption((1, 2, 5, 1, 2, 9), (1, 2), (1, 2, 9)).gaps == ("name", "value")


def test_what_is_not_found_leaves_no_gap_and_a_value_that_is_the_name_leaves_one():
    assert split_caption((5, 6), (1,), (2,)) == Wording(((5, 6),), ())
    assert split_caption((5, 1, 6), (1,), (1,)) == Wording(((5,), (6,)), ("name",))
    assert split_caption((1, 6, 1), (1,), (2,)) == Wording(((), (6,), ()), ("name", "name"))


def test_tokens_survive_packing_as_the_tokenizer_made_them():
    tokenize = Toy().load_model("compromised").processor.tokenize
    tokens = tokenize(
        [
            "Person 3 lives in c003",
            "a red square",
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
        ]
    )
    start, end = int(tokens[0, 0]), int(tokens.max())
    assert torch.equal(packed(bare(tokens), start, end, tokens.shape[1]), tokens)


def test_every_caption_of_a_benchmark_is_said_again_by_its_own_fact():
    method, ctx = prepared()
    tokens = ctx.model.processor.tokenize(list(ctx.captions("forget")))
    for fact, caption in zip(method._facts, bare(tokens), strict=True):
        assert fact.wording.say(fact.name, fact.value) == caption
        assert "name" in fact.wording.gaps


def test_owned_tokens_are_one_persons_alone():
    any_wording = Wording(((50,), ()), ("name",))
    facts = [
        Fact("a", "city", (1, 2), (10, 11), any_wording),
        Fact("b", "city", (1, 3), (10, 12), any_wording),
        Fact("b", "iban", (1, 3), (13, 14), any_wording),
    ]
    # 1 and 10 are shared, 14 stands in an ordinary caption, and the name of b, of whom something stays, is not touched.
    assert owned_tokens(facts, {14, 50}, whole={"a"}) == [2, 11, 12, 13]
    assert owned_tokens(facts, {14, 50}, whole={"a", "b"}) == [2, 3, 11, 12, 13]


def test_directions_by_hand_and_bounded():
    rows = torch.eye(3)
    assert direction_loss(rows, rows).item() == 0
    assert direction_loss(rows, -rows).item() == 2
    assert direction_loss(rows[:1], F.normalize(torch.tensor([[1.0, 1.0, 0.0]]), dim=1)).item() == pytest.approx(
        1 - 0.5**0.5
    )


def test_draws_repeat_and_shuffles_keep_what_there_is():
    first, again = (Draw(torch.Generator().manual_seed(0)) for _ in range(2))
    assert [first.chance() for _ in range(5)] == [again.chance() for _ in range(5)]
    assert sorted(first.shuffled([3, 1, 2])) == [1, 2, 3]
    assert all(0 <= first.chance() < 1 for _ in range(40000))  # beyond the numbers that were drawn


# ---------------------------------------------------------------- what is said and held


def prepared():
    method = Selective(Selective.Options(epochs=1.0))
    with toy_context(method, benchmark=Named()) as ctx:
        method._read(ctx)
    return method, ctx


def test_twins_and_doubles_are_made_of_tokens_that_no_caption_uses():
    method, ctx = prepared()
    used = {t for split in ("forget", "retain") for c in bare(ctx.tokenize(list(ctx.captions(split))).cpu()) for t in c}
    stand_ins, doubles = set(method._stand_in.values()), set(method._double.values())
    assert len(stand_ins) == len(method._stand_in)
    assert not stand_ins & doubles
    assert not (stand_ins | doubles) & used


def test_a_forgotten_caption_has_a_twin_of_its_shape_without_its_name_and_value():
    method, _ = prepared()
    draw = Draw(torch.Generator().manual_seed(0))
    for fact in method._facts * 3:
        said, twin = method.forgotten(fact, draw)
        assert len(said) == len(twin)
        assert said != twin


def test_nothing_that_is_held_says_a_forgotten_fact():
    method, _ = prepared()
    draw = Draw(torch.Generator().manual_seed(0))
    captions = {fact.wording.say(fact.name, fact.value) for fact in method._facts}
    held = [method.held(fact, draw) for fact in method._facts for _ in range(20)]
    assert not captions & set(held)
    assert set(held) & set(method._retain)


# ---------------------------------------------------------------- weights


def run(**options):
    method = Selective(Selective.Options(**{"epochs": 1.0, **options}))
    with toy_context(method, benchmark=Named()) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return method, before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, dict(ctx.samples)


def test_the_image_encoder_stays_bit_equal_and_doubles_leave_no_trace():
    method, before, after, samples = run()
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("visual."))
    doubles = list(method._double.values())
    assert doubles
    assert torch.equal(before["token_embedding.weight"][doubles], after["token_embedding.weight"][doubles])
    assert not torch.equal(before["token_embedding.weight"][method._owned], after["token_embedding.weight"][method._owned])
    assert samples["retain"] == 0  # its captions are read, its pairs are not


def test_forgotten_captions_come_near_their_twins():
    def distance(steps):
        method = Selective(Selective.Options(epochs=steps, lr=3e-3, reworded=0.0))
        with toy_context(method, budget=20.0, benchmark=Named()) as ctx:
            method.unlearn(ctx)
            facts = [fact for fact in method._facts if fact.name != fact.value]
            said = method.packed([fact.wording.say(fact.name, fact.value) for fact in facts])
            twins = method.packed([fact.wording.say(method.twin(fact.name), method.twin(fact.value)) for fact in facts])
            with torch.no_grad():
                return direction_loss(ctx.model.encode_text(said), method._teacher.encode_text(twins)).item()

    assert distance(60.0) < 0.5 * distance(1.0)


def test_a_split_without_metadata_and_an_encoder_of_another_kind_are_refused(monkeypatch):
    method = Selective()
    with toy_context(method) as ctx:
        split = ctx._stores["forget"].split
        bare_split = Split(split.name, split.images, split.texts, {k: v for k, v in split.columns.items() if k != "value"})
        monkeypatch.setattr(ctx._stores["forget"], "split", bare_split)
        with pytest.raises(SalmuError, match="column 'value'"):
            method.unlearn(ctx)
        monkeypatch.delattr(ctx.model.clip, "token_embedding")
        with pytest.raises(SalmuError, match="open_clip's own"):
            embedding_of(ctx.model)
