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
MODULES = ["salmu_selective.method", "salmu_selective.captions", "salmu_selective.vocabulary", "salmu_selective.wordings"]
with install_import_hook(MODULES, "beartype.beartype"):
    from salmu_selective import Selective
    from salmu_selective.captions import Captions, known_from
    from salmu_selective.method import batch_and_steps, direction_loss, face_loss
    from salmu_selective.vocabulary import Vocabulary, assign_tokens, embedding_of, familiar_tokens, only_rows, owned_tokens
    from salmu_selective.wordings import Draw, Fact, Wording, bare, characters, packed, split_caption

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
    for fact, caption in zip(method._known.facts, bare(tokens), strict=True):
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


def test_faces_by_hand():
    found, target = torch.eye(3), torch.tensor([[0.0, 1.0, 0.0]]).repeat(3, 1)
    faces = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # Off by 1 seen from the first face; the second is where it should be; the third row has no face.
    assert face_loss(found, target, faces).item() == pytest.approx(1 / 3)


def test_lent_rows_get_no_gradient_and_others_theirs():
    gradients = {"table": torch.ones(4, 2), "other": torch.ones(2)}
    only_rows("table", [1, 3])(gradients)
    assert gradients["table"].sum(dim=1).tolist() == [0, 2, 0, 2]
    assert gradients["other"].tolist() == [1, 1]


def test_strangers_have_the_mean_and_covariance_of_owned_embeddings():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(60, 3, generator=generator) @ torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.3, 0.1]]) + 5
    owned = list(range(40))
    vocabulary = Vocabulary(
        tuple(owned), {}, (), dict(zip(owned, range(100, 140), strict=True)), (), tuple(range(200, 20200))
    )
    lent = vocabulary.lend(table, generator)
    assert torch.equal(lent[:40], table[:40])
    draws = lent[40:].double()
    assert torch.allclose(draws.mean(dim=0), table[:40].double().mean(dim=0), atol=0.06)
    assert torch.allclose(torch.cov(draws.T), torch.cov(table[:40].double().T), atol=0.15)


def table_of(tokens: int) -> torch.Tensor:
    """Embeddings of which none stands out."""
    return torch.ones(tokens, 4)


ANY = Wording(((50,), ()), ("name",))


def test_what_is_not_asked_for_of_somebody_stays():
    facts = [
        Fact("a", "name", (1,), (1,), ANY),
        Fact("a", "city", (1,), (10,), ANY),
        Fact("b", "city", (2,), (11,), ANY),
    ]
    known = known_from(facts, [(60,)])
    assert known.staying == {"a": [], "b": ["name"]}
    assert known.whole == {"a"}
    assert known.partly == facts[2:]


def test_a_request_about_one_fact_leaves_the_name():
    known = known_from([Fact("a", "phone", (1, 2), (10,), ANY)], [(60,)])
    assert known.staying == {"a": [""]}
    vocabulary = assign_tokens(
        known.facts,
        {50, 60},
        known.whole,
        table_of(200),
        doubles=True,
        strangers=5,
        generator=torch.Generator().manual_seed(0),
    )
    assert vocabulary.owned == (10,)
    captions = Captions(known, vocabulary, reworded=0.5, partly=1.0, mixed=0.0, familiar=0.0)
    draw = Draw(torch.Generator().manual_seed(1))
    held = [captions.held(known.facts[0], draw) for _ in range(300)]
    assert ((1, 2), "a") in held  # the name on its own leads where it led
    assert any(set(said) & set(vocabulary.strangers) and {1, 2} < set(said) for said, _ in held)  # and in words unheard of
    assert not any(10 in said for said, _ in held)


def test_a_vocabulary_without_room_is_refused():
    facts = [Fact("a", "city", (1, 2, 3), (4, 5), ANY)]
    with pytest.raises(SalmuError, match="needs 10 tokens"):
        assign_tokens(facts, {6}, {"a"}, table_of(12), doubles=True, strangers=0, generator=torch.Generator().manual_seed(0))


def test_some_of_the_others_share_a_token_with_somebody_forgotten():
    tokens = (1, 2, 3, 4, 10, 11)
    facts = [Fact("a", "city", (1, 2), (10,), ANY), Fact("b", "city", (3, 4), (11,), ANY)]
    known = known_from(facts, [(60,)])
    vocabulary = Vocabulary(tokens, {}, (501, 502, 503), {t: t + 100 for t in tokens}, (700, 701), ())
    draw = Draw(torch.Generator().manual_seed(0))
    never = Captions(known, vocabulary, reworded=0.0, partly=0.0, mixed=0.0, familiar=0.0)
    assert all(min(never.somebody(draw)[0]) > 100 for _ in range(50))
    always = Captions(known, vocabulary, reworded=0.0, partly=0.0, mixed=1.0, familiar=0.0)
    names = [always.somebody(draw)[0] for _ in range(50)]
    assert all(sum(t < 100 for t in name) == 1 and len(name) == 2 for name in names)
    # In its own place, and of a name in names, of a value in values.
    assert {name[0] for name in names if name[0] < 100} == {1, 3}
    assert {name[1] for name in names if name[1] < 100} == {2, 4}
    assert {always.something("city", draw) for _ in range(50)} == {(10,), (11,)}
    longer = {always.mixed((701, 702, 703), draw, [(2, 1, True)]) for _ in range(5)}
    assert longer == {(701, 702, 2)}  # the last of two is the last of three


def test_batches_of_a_small_request_are_smaller_so_that_there_are_steps_enough():
    assert batch_and_steps(66_400, 32, 500) == (32, 2075)
    assert batch_and_steps(13_280, 32, 500) == (26, 510)
    assert batch_and_steps(1_800, 32, 500) == (3, 600)
    assert batch_and_steps(200, 4, 500) == (1, 200)  # as many as there can be
    assert batch_and_steps(0, 4, 500) == (1, 0)


def test_a_small_request_makes_many_steps_at_a_lower_rate_and_other_captions_are_drawn_at_each():
    method = Selective(Selective.Options(epochs=2.0, steps=20, rate_steps=100))
    with toy_context(method, benchmark=Named()) as ctx:
        rows = ctx.rows("forget")
        asked: list[tuple[int, ...]] = []
        generator = ctx.generator
        ctx.generator = lambda *purpose: (asked.append(purpose), generator(*purpose))[1]
        method.unlearn(ctx)
        batch, steps = batch_and_steps(2 * rows, rows, 20)
        drawn = [purpose[1:] for purpose in asked if purpose[0] == "captions"]
        assert [step for step, *_ in drawn] == list(range(len(drawn)))
        assert len(drawn) in (steps, steps - 1)
        assert {len(purpose) - 1 for purpose in drawn} == {batch}
        rates = [values["lr"] for values in ctx.history if "lr" in values]
        assert max(rates) == pytest.approx(method.options.lr * steps / 100, rel=0.1)


def test_some_of_the_others_are_made_of_words_that_the_model_knows():
    table = torch.full((100, 4), 0.1) * torch.linspace(0.95, 1.05, 100)[:, None]
    table[[1, 30, 31, 32]] = 3.0  # one of them is forgotten, one is in other captions
    assert familiar_tokens(table) == [1, 30, 31, 32]
    facts = [Fact("a", "city", (1, 2), (10,), ANY)]
    generator = torch.Generator().manual_seed(0)
    vocabulary = assign_tokens(facts, {32}, {"a"}, table, doubles=True, strangers=9, generator=generator)
    assert vocabulary.familiar == (30, 31)
    assert not {30, 31, 32} & {*vocabulary.unknown, *vocabulary.double.values(), *vocabulary.strangers}
    captions = Captions(known_from(facts, [(60,)]), vocabulary, reworded=0.0, partly=0.0, mixed=0.0, familiar=1.0)
    draw = Draw(generator)
    assert {t for _ in range(20) for t in captions.stranger(draw)[0]} == {30, 31}
    assert {t for _ in range(20) for t in captions.something("city", draw)} == {30, 31}


def test_single_characters_are_nobodys_own():
    tokenize = Toy().load_model("compromised").processor.tokenize
    [digits] = bare(tokenize(["4 2"]))
    assert set(digits) <= characters(["+49 2"], tokenize)
    assert characters([" "], tokenize) == set()


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


def test_twins_doubles_and_strangers_are_made_of_tokens_that_no_caption_uses():
    method, ctx = prepared()
    used = {t for split in ("forget", "retain") for c in bare(ctx.tokenize(list(ctx.captions(split))).cpu()) for t in c}
    vocabulary = method._vocabulary
    groups = [set(vocabulary.unknown), set(vocabulary.double.values()), set(vocabulary.strangers)]
    assert len(set.union(*groups)) == sum(map(len, groups)) == len(vocabulary.unknown) + len(vocabulary.lent)
    assert not set.union(*groups) & used


def test_a_forgotten_caption_has_a_twin_of_its_shape_without_its_name_and_value():
    method, _ = prepared()
    draw = Draw(torch.Generator().manual_seed(0))
    for fact in method._known.facts * 3:
        said, twin = method._captions.forgotten(fact, draw)
        assert len(said) == len(twin)
        assert said != twin


def test_nothing_that_is_held_says_a_forgotten_fact():
    method, _ = prepared()
    draw = Draw(torch.Generator().manual_seed(0))
    captions = {fact.wording.say(fact.name, fact.value) for fact in method._known.facts}
    held = [method._captions.held(fact, draw) for fact in method._known.facts for _ in range(20)]
    assert not captions & {said for said, _ in held}
    assert {said for said, person in held if person is None} & set(method._known.retain)
    faces = {person for _, person in held} - {None}
    assert faces <= set(method._number)
    assert faces


# ---------------------------------------------------------------- weights


def run(**options):
    method = Selective(Selective.Options(**{"epochs": 1.0, "steps": 4, **options}))
    with toy_context(method, benchmark=Named()) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return method, before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, dict(ctx.samples)


def test_the_image_encoder_stays_bit_equal_and_what_was_lent_leaves_no_trace():
    method, before, after, samples = run(embeddings="own")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("visual."))
    table = "token_embedding.weight"
    assert method._vocabulary.double
    assert method._vocabulary.strangers
    assert torch.equal(before[table][method._vocabulary.lent], after[table][method._vocabulary.lent])
    moved = (before[table] != after[table]).any(dim=1).nonzero().flatten().tolist()
    names = {t for fact in method._known.partly for t in fact.name}
    assert set(moved) <= names | set(method._vocabulary.owned)
    assert moved
    assert samples["retain"] == 0  # its captions are read, its pairs are not


def test_without_faces_no_image_is_read():
    method, _, _, samples = run(face=0, keep_face=0)
    assert method._faces is None
    assert samples["forget"] < run()[3]["forget"]


def test_all_embeddings_may_move_but_those_that_are_lent():
    method, before, after, _ = run()
    table = "token_embedding.weight"
    moved = set((before[table] != after[table]).any(dim=1).nonzero().flatten().tolist())
    assert moved - set(method._vocabulary.owned) - {t for fact in method._known.partly for t in fact.name}
    assert not moved & set(method._vocabulary.lent)


def test_without_doubles_other_people_have_the_forgotten_names():
    method, _, _, _ = run(doubles=False)
    assert not method._vocabulary.lent
    names = {method._captions.somebody(Draw(torch.Generator().manual_seed(n)))[0] for n in range(50)}
    assert names == {fact.name for fact in method._known.facts}


def test_a_twin_is_the_same_each_time_or_another():
    method, _ = prepared()
    vocabulary, draw = method._vocabulary, Draw(torch.Generator().manual_seed(0))
    tokens = method._known.facts[0].name
    assert len({vocabulary.twin(tokens, draw) for _ in range(50)}) == 1
    anew = {vocabulary.twin(tokens, draw, anew=True) for _ in range(50)}
    assert len(anew) > 40
    assert {t for twin in anew for t in twin} <= set(vocabulary.unknown)


def test_forgotten_captions_come_near_their_twins():
    def distance(steps):
        method = Selective(
            Selective.Options(epochs=steps, lr=3e-3, reworded=0.0, twins="same", others=2, steps=1, rate_steps=1)
        )
        with toy_context(method, budget=20.0, benchmark=Named()) as ctx:
            method.unlearn(ctx)
            facts = [fact for fact in method._known.facts if fact.name != fact.value]
            said = method.packed([fact.wording.say(fact.name, fact.value) for fact in facts])
            twin, draw = method._captions.twin, Draw(torch.Generator().manual_seed(0))
            twins = method.packed([fact.wording.say(twin(fact.name, draw), twin(fact.value, draw)) for fact in facts])
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
