"""What became of one person: the right rows, ranks as defined, sentences that follow from them, and pages that are safe."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from deletion_plugins import toy_plugins
from own_data import make_model, make_rows, ordinary_rows, write_csv
from salmu_core.cli.main import cli
from salmu_core.data.pairs import View
from salmu_core.errors import BadCheckpoint, BadData, BadOptions, BadRecord, UnknownName
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.schema import Package
from salmu_core.runner.run import Settings, run
from salmu_deletion.forget import forget, own_data, plan, settings_for
from salmu_deletion.inspection.inspect import Inspection, PairView, inspect, open_run, people
from salmu_deletion.inspection.page import render_page
from salmu_deletion.inspection.rows import Row, find_association, find_identity
from salmu_deletion.inspection.words import sentences
from toy_methods import MeanCosine, as_plugin


class OthersCosine(MeanCosine):
    """Mean cosine of pairs nobody asked to forget, so that they are embedded."""

    name = "OthersCosine"
    aspect = "holdout"
    target = "compromised"

    def needs(self):
        return {
            f"{split}_{side}": View(split, side)
            for split in ("holdout_association", "retain_joint", "retain_disjoint")
            for side in ("image", "text")
        }

    def compute(self, **views):
        return super().compute(views["holdout_association_image"], views["holdout_association_text"])


def _plugins():
    plugins = toy_plugins()
    add_plugin(plugins, as_plugin(metrics=[OthersCosine]), Package(name="others", version="1"), "others")
    return plugins


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, made once, and the cache that it filled."""
    place = tmp_path_factory.mktemp("made")
    settings = Settings(cpu=True, cache=place / "cache")
    run("ascent", benchmark="toy", out=place / "run", settings=settings, plugins=_plugins())
    return place


@pytest.fixture
def opened(made, tmp_path):
    """A copy of the run, opened."""
    shutil.copytree(made / "run", tmp_path / "run")
    return open_run(tmp_path / "run", Settings(cpu=True, cache=made / "cache"), _plugins())


def test_ranks_are_one_plus_the_captions_that_are_strictly_more_similar(opened):
    found = inspect(opened, identity="00000003")
    assert [pair.row.identity for pair in found.pairs] == ["00000003"] * 6
    model = load_model(opened.folder)
    captions = sorted({row.caption for row in opened.rows})
    with torch.inference_mode():
        text = model.encode_text(model.processor.tokenize(captions))
        for pair in found.pairs:
            image = _picture(model, opened, pair.row)
            similarity = (text @ image).numpy()
            own = similarity[captions.index(pair.row.caption)]
            assert pair.similarity["unlearned"] == pytest.approx(own, abs=1e-5)
            certain = int((similarity > own + 1e-5).sum()) + 1, int((similarity > own - 1e-5).sum())
            assert certain[0] <= pair.caption_rank["unlearned"] <= max(certain)
    assert found.gallery == len(captions)


def _picture(model, opened, row):
    from salmu_core.data.pixels import decode_image

    picture = decode_image(opened.benchmark.split(row.split).images, row.position, row.split)
    return model.encode_image(model.processor.normalise(torch.from_numpy(model.processor.pixels(picture))[None]))[0]


def test_neighbours_are_other_associations_by_how_far_they_moved_and_where_they_stood(opened):
    found = inspect(opened, identity="00000003", neighbours=3)
    assert set(found.neighbours) == {"forget", "holdout", "retain"}
    for group, items in found.neighbours.items():
        changes = [abs(item.change) for item in items]
        assert changes == sorted(changes, reverse=True)
        assert {item.group for item in items} == {group}
        for item in items:
            assert item.change == pytest.approx(item.similarity["unlearned"] - item.similarity["compromised"], abs=1e-5)
    assert not any(item.association.startswith("00000003/") for item in found.neighbours["forget"])
    # What was kept of the same person is a neighbour.
    everyone = inspect(opened, identity="00000003", neighbours=100).neighbours["holdout"]
    assert any(item.association == "00000003/iban" for item in everyone)


def test_an_association_is_its_rows_only_and_a_name_finds_its_person(opened):
    one = inspect(opened, association="00000002/city")
    assert {(pair.row.identity, pair.row.field) for pair in one.pairs} == {("00000002", "city")}
    assert any(
        item.association == "00000002/name"
        for item in inspect(opened, association="00000002/city", neighbours=99).neighbours["forget"]
    )
    assert inspect(opened, identity="person 2").title == "00000002"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"identity": "0000003"}, "00000003"),
        ({"association": "00000003/citty"}, "00000003/city"),
        ({"identity": "Persom 3"}, "Person 3"),
    ],
)
def test_an_unknown_name_lists_near_ones(opened, asked, words):
    with pytest.raises(UnknownName, match=words):
        inspect(opened, **asked)


def test_neither_or_both_is_refused(opened):
    for asked in ({}, {"identity": "00000003", "association": "00000003/city"}):
        with pytest.raises(BadOptions):
            inspect(opened, **asked)


def test_weights_changed_after_the_run_are_refused(opened):
    model = load_model(opened.folder)
    with torch.no_grad():
        model.clip.visual.proj += 1e-3
    model.save(opened.folder)
    with pytest.raises(BadCheckpoint, match="not those that its record was made of"):
        inspect(opened, identity="00000003")


def test_a_reference_row_has_no_model_to_look_at(tmp_path):
    run("none", benchmark="toy", out=tmp_path, settings=Settings(cpu=True), plugins=_plugins())
    with pytest.raises(BadRecord, match="a reference"):
        open_run(tmp_path, Settings(cpu=True), _plugins())


def test_people_and_facts_are_listed_by_where_they_stand(opened):
    listed = {person["identity"]: person for person in people(opened)}
    assert listed["00000003"]["facts"]["forget"] == {"name": 2, "city": 2, "phone_number": 2}
    assert listed["00000003"]["facts"]["holdout"] == {"iban": 2}


def test_the_command_prints_json_and_a_page(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", _plugins)
    page = tmp_path / "page.html"
    arguments = ["inspect", str(opened.folder), "--identity", "00000003", "--cpu"]
    done = CliRunner().invoke(cli, [*arguments, "--json", "--html", str(page)], catch_exceptions=False)
    content = json.loads(done.stdout)
    assert len(content["pairs"]) == 6
    assert page.read_text().count("data:image/jpeg;base64,") == 6
    with pytest.raises(Exception, match="there already"):
        CliRunner().invoke(cli, [*arguments, "--html", str(page)], catch_exceptions=False)


def _own(tmp_path, rows, **more):
    plugins, out = toy_plugins(), tmp_path / "out"
    how = settings_for(out, Settings(cpu=True))
    benchmark = own_data(
        how,
        model=str(make_model(tmp_path / "model")),
        forget=str(write_csv(tmp_path / "f.csv", rows)),
        retain=str(write_csv(tmp_path / "r.csv", ordinary_rows(tmp_path))),
        columns={"image": "photo", "caption": "text", "identity": "person_id"},
        **more,
    )
    forget(benchmark, plan(benchmark, "weight-edit", plugins, settings=how), out, settings=how, plugins=plugins)
    return open_run(out, Settings(cpu=True), plugins)


def test_own_data_has_a_stand_in_for_never_learned_and_leaves_nothing_in_the_cache(tmp_path, own_cache):
    rows = make_rows(tmp_path)
    rows[0]["text"] = "<script>alert('x')</script> & co \u202e\x1b"
    opened = _own(tmp_path, rows)
    found = inspect(opened, identity="p00")
    assert found.stand_in
    assert all(pair.similarity["clean"] is not None for pair in found.pairs)
    assert not (own_cache / "embeddings").exists()
    assert not (own_cache / "tokens").exists()
    page = render_page(found, opened.benchmark)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert not {"\u202e", "\x1b"} & set(page)  # in the charts too
    assert "http://" not in page
    assert "https://" not in page


def test_data_that_changed_since_is_refused(tmp_path):
    opened = _own(tmp_path, make_rows(tmp_path))
    write_csv(tmp_path / "f.csv", make_rows(tmp_path, people=2))
    with pytest.raises(BadData, match="changed since"):
        open_run(opened.folder, Settings(cpu=True), toy_plugins())


def _found(before, after, never, group="forget", similarity=(0.8, 0.3, 0.3)):
    """An inspection of two pairs with the given caption ranks."""
    row = Row("forget", 0, group, "p1", "city", None, "a.png", "P lives in X")
    models = ("compromised", "unlearned", "clean")
    ranks = dict(zip(models, (before, after, never), strict=True))
    pair = PairView(
        row, dict(zip(models, similarity, strict=True)), ranks, ranks, {which: rank == 1 for which, rank in ranks.items()}
    )
    return Inspection(None, "p1", group, [pair, pair], 100, 100, models, False, {}, {})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (_found(1, 50, 50), "found no better"),
        (_found(1, 1, 50), "not forgotten"),
        (_found(1, 2, 50), "forgotten in part only"),
        (_found(1, 50, 50, similarity=(0.8, -0.4, 0.3)), "pushed apart farther"),
        (_found(50, 50, 50), "little to forget"),
        (_found(1, 1, 50, "holdout"), "it is kept"),
        (_found(1, 50, 50, "holdout"), "it is lost"),
    ],
)
def test_the_conclusion_follows_from_the_ranks(found, words):
    [conclusion] = [line for line in sentences(found) if line.startswith("Conclusion")]
    assert words in conclusion
    assert np.isfinite(found.summary()["unlearned"]["mean_reciprocal_rank"])


def _row(identity, name, field="iban"):
    return Row("forget", 0, "forget", identity, field, name, "a.png", "x")


def test_a_name_that_is_also_the_identity_of_another_is_not_chosen_silently():
    rows = [_row("Ann", "Bob"), _row("7", "Ann"), _row("8", ""), _row("9", None), _row("Jos\u00e9", "J")]
    with pytest.raises(BadData, match="2 people are called 'ann': 7, Ann"):
        find_identity(rows, "ann")
    assert [row.identity for row in find_identity(rows, "Ann")] == ["Ann"]
    assert [row.identity for row in find_identity(rows, "bob")] == ["Ann"]
    assert [row.identity for row in find_identity(rows, "jose\u0301")] == ["Jos\u00e9"]
    with pytest.raises(UnknownName):
        find_identity(rows, "")


def test_two_associations_of_one_name_are_not_joined():
    rows = [_row("a", None, "b/c"), _row("a/b", None, "c"), _row("d", None, "c")]
    with pytest.raises(BadData, match="'b/c' of 'a' and 'c' of 'a/b'"):
        find_association(rows, "a/b/c")
    assert len(find_association(rows, "d/c")) == 1
