"""Exhibits: the same numbers as computed by hand, the same at every call, small, and nothing that a method could get at."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from salmu_core import Field, FitOptions, UnlearningMethod, View
from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import Embedded
from salmu_core.errors import EvaluationLocked
from salmu_core.evaluation.embed import embed_views
from salmu_core.evaluation.plan import EvaluationPlan, plan_evaluation
from salmu_core.evaluation.report_data import NEAREST, ROWS, SHOWN, make_exhibits, make_scene, pair_splits
from salmu_core.records.report_data import (
    BINS,
    EXHIBITS_FILE,
    LIMIT_BYTES,
    SCENE_FILE,
    Exhibits,
    Scene,
    read_exhibits,
    read_scene,
)
from salmu_core.runner.compare import compare
from salmu_core.runner.evaluate import evaluate
from salmu_core.runner.run import Settings, run
from toy_methods import MeanCosine, toy_plugins

ASPECTS = {
    "forget": "forgetting",
    "holdout_association": "holdout",
    "holdout_identity": "holdout",
    "retain_joint": "retained",
}


class _Similarity(MeanCosine):
    """Mean cosine of any split's pairs."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self.split = split
        self.name = f"Mean-{split}"
        self.aspect = ASPECTS[split]

    def needs(self):
        return {"image": View(self.split, "image"), "text": View(self.split, "text")}


@pytest.fixture(scope="module")
def toy():
    return Toy(Toy.Options(identities=12))


@pytest.fixture(scope="module")
def plan(toy):
    return plan_evaluation([_Similarity(split) for split in ASPECTS], toy)


@pytest.fixture(scope="module")
def embedded(toy, plan):
    return embed_views(toy.load_model("compromised"), toy, plan.all_views())


@pytest.fixture(scope="module")
def exhibits(toy, plan, embedded):
    return make_exhibits(toy, plan, embedded)


def test_splits_are_those_whose_pairs_a_metric_looks_at(toy, plan):
    class Names(MeanCosine):
        name = "Names"

        def needs(self):
            return {"image": View("forget_identity", "image"), "text": View("forget_identity", "text", template="{name}")}

    assert pair_splits(plan) == ASPECTS
    assert pair_splits(plan_evaluation([Names()], toy)) == {}


def test_similarities_count_every_pair(exhibits, embedded):
    for found in exhibits.similarities:
        image, text = (embedded[View(found.split, side)].vectors.numpy() for side in ("image", "text"))
        cosines = (image * text).sum(axis=1)
        assert found.n == len(cosines) == sum(found.counts)
        assert found.mean == pytest.approx(cosines.mean(), abs=1e-5)
        edges = np.linspace(-1, 1, BINS + 1)
        for number, count in enumerate(found.counts):
            low, high = edges[found.first + number], edges[found.first + number + 1]
            assert abs(int(((cosines >= low) & (cosines < high)).sum()) - count) <= 1  # rounding at an edge


def test_ranks_and_neighbours_are_those_of_a_plain_search(toy, exhibits, embedded):
    scene = make_scene(toy, plan_evaluation([_Similarity(split) for split in ASPECTS], toy))
    captions = {}
    for split in ASPECTS:
        view = embedded[View(split, "text")]
        for text, vector in zip(view.texts, view.vectors, strict=True):
            captions.setdefault(text, vector)
    image, text = (torch.from_numpy(table.copy()) for table in exhibits.vectors.tables())
    assert len(exhibits.retrievals) == sum(SHOWN.values())
    for found in exhibits.retrievals:
        own = scene.rows[found.row]
        split = toy.split(own.split)
        row = next(
            r for r in range(len(split)) if split.texts[r] == own.caption and _same(embedded, own.split, r, image[found.row])
        )
        cosines = {
            caption: float(embedded[View(own.split, "image")].vectors[row] @ vector) for caption, vector in captions.items()
        }
        order = sorted(cosines, key=cosines.get, reverse=True)
        assert found.captions == len(captions)
        assert found.caption_rank == 1 + sum(value > cosines[own.caption] for value in cosines.values())
        assert [hit.cosine for hit in found.found_captions] == pytest.approx([cosines[c] for c in order[:NEAREST]], abs=1e-4)
        for hit in found.found_captions:
            assert (hit.relation == "pair") == (hit.caption == own.caption)
            assert hit.cosine == pytest.approx(cosines[hit.caption], abs=1e-4)
        near = (text[found.row] @ image.T).tolist()  # vectors are kept to a byte: a little off
        hits = {hit.row: hit.cosine for hit in found.found_pictures}
        assert [near[row] for row in hits] == pytest.approx(list(hits.values()), abs=0.02)
        assert max(value for row, value in enumerate(near) if row not in hits) <= min(hits.values()) + 0.02


def _same(embedded, split, row, vector):
    return bool((embedded[View(split, "image")].vectors[row] - vector).abs().max() < 0.02)


def _number(person):
    """Ordinary pairs of somebody with private data have an identity and no name: 00000003 is Person 3."""
    return int(person.split()[-1]) if person else None


def test_relations_tell_person_and_field(exhibits, toy, plan):
    rows = make_scene(toy, plan).rows
    told = {hit.relation for found in exhibits.retrievals for hit in found.found_pictures}
    assert told >= {"pair", "other"} or told >= {"person", "other"}
    for found in exhibits.retrievals:
        own = rows[found.row]
        for hit in found.found_pictures:
            other = rows[hit.row]
            same = bool(own.person) and _number(own.person) == _number(other.person)
            assert {
                "pair": hit.row == found.row,
                "association": same and own.field == other.field,
                "person": same,
                "other": not same,
            }[hit.relation]


def test_what_is_shown_is_of_different_people_and_drawn_from_the_data(exhibits, toy, plan):
    rows = make_scene(toy, plan).rows
    assert [rows[found.row].aspect for found in exhibits.retrievals] == ["forgetting"] * 8 + ["holdout"] * 4
    people = [rows[found.row].person for found in exhibits.retrievals]
    assert len(set(people)) == len(people)
    assert {row.split for row in rows} == set(ASPECTS)
    other = make_scene(Toy(Toy.Options(identities=12, seed=1)), plan)
    assert [row.caption for row in other.rows] != [row.caption for row in rows]


def test_exhibits_are_the_same_at_every_call(toy, plan, embedded, exhibits):
    assert make_exhibits(toy, plan, embedded) == exhibits
    assert make_scene(toy, plan) == make_scene(toy, plan)
    assert make_scene(toy, plan).data == exhibits.data


def test_rows_are_not_shown_where_a_benchmark_does_not_allow_it(toy, plan, embedded):
    class Real(Toy):
        shows_rows = False

    real = Real(toy.options)
    scene, exhibits = make_scene(real, plan), make_exhibits(real, plan, embedded)
    assert {(row.person, row.field, row.caption, row.picture) for row in scene.rows} == {("", "", "", "")}
    assert exhibits.retrievals == ()
    assert "Person" not in scene.model_dump_json() + exhibits.model_dump_json()
    assert exhibits.similarities  # distributions name nobody


@pytest.mark.parametrize("dim", [16, 512, 2048])
def test_files_stay_small_whatever_the_size_of_embeddings(toy, plan, embedded, dim):
    draw = torch.Generator().manual_seed(0)

    def widened(view: Embedded) -> Embedded:
        vectors = torch.nn.functional.normalize(torch.randn(len(view), dim, generator=draw), dim=-1)
        return Embedded(
            vectors, view.columns, None if view.texts is None else [f"{text} {'long ' * 100}" for text in view.texts]
        )

    exhibits = make_exhibits(toy, plan, {view: widened(found) for view, found in embedded.items()})
    assert len(exhibits.model_dump_json()) <= LIMIT_BYTES
    assert len(exhibits.vectors.tables()[0]) >= 36
    assert len(make_scene(toy, plan).rows) <= ROWS


def test_no_pairs_and_no_metrics_make_empty_exhibits(toy):
    nothing = EvaluationPlan((), {}, {})
    assert make_exhibits(toy, nothing, {}).similarities == ()
    assert make_scene(toy, nothing).rows == ()


class Spy(UnlearningMethod):
    """Looks for what the evaluation keeps."""

    name = "spy"
    summary = "Looks around."
    family = "baseline"
    seen: list = []

    class Options(FitOptions):
        folder: str = Field("", description="the run directory")

    def unlearn(self, ctx):
        type(self).seen.append([path.name for path in Path(self.options.folder).rglob("*.json")])
        type(self).seen.append([thing for thing in _reachable(ctx) if isinstance(thing, Exhibits | Scene)])


def _reachable(start, most=20_000):
    found, open_ = {id(start): start}, [start]
    while open_ and len(found) < most:
        for thing in gc.get_referents(open_.pop()):
            if id(thing) not in found and not isinstance(thing, type | type(gc)):
                found[id(thing)] = thing
                open_.append(thing)
    return found.values()


def test_a_method_finds_no_exhibits_even_where_a_run_is_repeated(tmp_path):
    Spy.seen = []
    place = tmp_path / "run"
    for overwrite in (False, True):
        run(
            "spy",
            benchmark="toy",
            options={"folder": str(place)},
            out=place,
            settings=Settings(overwrite=overwrite),
            plugins=toy_plugins(Spy),
        )
        assert (place / EXHIBITS_FILE).is_file()
    for names, things in (Spy.seen[:2], Spy.seen[2:]):
        assert "spec.json" in names
        assert not {EXHIBITS_FILE, SCENE_FILE} & set(names)
        assert things == []


def test_a_method_cannot_have_them_made(toy, plan, tmp_path):
    class Asks(Spy):
        name = "asks"

        def unlearn(self, ctx):
            make_scene(Toy(Toy.Options(identities=12)), plan)

    record = run("asks", benchmark="toy", out=tmp_path / "run", plugins=toy_plugins(Asks))
    assert record.status == "failed"
    assert EvaluationLocked.__name__ in record.error or "cannot be read while a method runs" in record.error


def test_a_comparison_keeps_one_scene_and_shows_it(tmp_path):
    result = compare(["weight-edit", "raises"], benchmark="toy", out=tmp_path, plugins=toy_plugins())
    scenes = list(tmp_path.rglob(SCENE_FILE))
    assert [path.parent.name.startswith("reference-compromised") for path in scenes] == [True]
    kept = {path.parent.name.split("-b1")[0]: read_exhibits(path) for path in tmp_path.rglob(EXHIBITS_FILE)}
    assert len(kept) == 3  # what raises has no model to show
    assert {found.data for found in kept.values()} == {read_scene(scenes[0]).data}
    assert all("exhibits" in record.cost.seconds for record in result.records if record.status == "ok")
    page = json.loads((tmp_path / "report.html").read_text().split('id="data">')[1].split("</script>")[0])
    assert [bool(item["retrievals"]) for item in page["close"]["runs"]] == [True, True, True, False]
    assert page["close"]["scenes"][0][0]["picture"]


def test_an_evaluation_in_a_file_of_its_own_keeps_its_exhibits_beside_it(tmp_path):
    evaluate("compromised", benchmark="toy", out=tmp_path / "mine.json", plugins=toy_plugins())
    assert read_exhibits(tmp_path / "mine.exhibits.json").retrievals
    assert read_scene(tmp_path / "mine.scene.json").rows
    assert load_file(tmp_path / "mine.rows.safetensors")


class _WithHoldouts(_Similarity):
    """A metric of what is to be forgotten that shows the holdouts beside it."""

    def __init__(self) -> None:
        super().__init__("forget")
        self.name = "WithHoldouts"

    def needs(self):
        others = {f"{side} of others": View("holdout_identity", side) for side in ("image", "text")}
        return {**super().needs(), **others}


def test_a_metric_that_shows_holdouts_beside_does_not_turn_them_into_what_is_to_be_forgotten(toy):
    plan = plan_evaluation([_WithHoldouts(), *(_Similarity(split) for split in ASPECTS)], toy)
    assert pair_splits(plan) == ASPECTS
