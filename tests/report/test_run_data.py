"""What lies beside records: kept small, read without torch, refused when damaged; and the map that is made of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from records import COMPROMISED, record, references
from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadRecord
from salmu_core.records.report_data import (
    EXHIBITS_FILE,
    SCENE_FILE,
    Vectors,
    beside,
    read_exhibits,
    read_scene,
    write_exhibit,
)
from salmu_core.records.store import load_records
from salmu_core.report.beside_records import CURVE_POINTS, gather
from salmu_core.report.projection import Projection
from salmu_core.report.run_data import up_close
from showings import ROWS, make_exhibits, make_scene, write_results


@pytest.fixture
def results(tmp_path):
    return write_results(tmp_path, [*references(), record("good", {**COMPROMISED, "RetFail": 0.01})])


def _close(results):
    loaded = load_records(results)
    return up_close(compare_records(loaded.records), gather(zip(loaded.records, loaded.files, strict=True)))


def test_exhibits_and_scenes_survive_a_round_trip(tmp_path):
    for content, read in ((make_exhibits(3), read_exhibits), (make_scene(), read_scene)):
        write_exhibit(tmp_path / "file.json", content)
        assert read(tmp_path / "file.json") == content


def test_vectors_keep_embeddings_to_a_byte(tmp_path):
    image, text = np.random.default_rng(0).standard_normal((2, 20, 16)).astype(np.float32)
    packed = Vectors.of(image, text)
    for before, after in zip((image, text), packed.tables(), strict=True):
        assert np.abs(before - after).max() <= 0.5001 * packed.scale


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"data": 3}', '{"version": 99, "data": "x"}', '{"data": "x", "rows": [{"picture": "<img>"}]}']
)
def test_a_damaged_file_is_named_and_the_report_does_without(results, content):
    place = results / "runs" / "run-001"
    for name in (EXHIBITS_FILE, SCENE_FILE):
        (place / name).write_text(content)
    with pytest.raises(BadRecord, match=str(place / SCENE_FILE)):
        read_scene(place / SCENE_FILE)
    loaded = load_records(results)
    evidence = gather(zip(loaded.records, loaded.files, strict=True))
    assert evidence.problems
    assert "good-0-1.0" in evidence.exhibits


@pytest.mark.parametrize(
    "vectors", [{"image": "A"}, {"image": "<>"}, {"scale": 0}, {"dim": -1}, {"image": "QUJD", "text": "A==="}]
)
def test_damaged_embeddings_are_refused_and_not_decoded_later(tmp_path, vectors):
    content = {"data": "x", "vectors": {"dim": 2, "scale": 0.1, "image": "QUJD", "text": "QUJD", **vectors}}
    (tmp_path / EXHIBITS_FILE).write_text(json.dumps(content))
    with pytest.raises(BadRecord, match="is damaged: vectors"):
        read_exhibits(tmp_path / EXHIBITS_FILE)


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / EXHIBITS_FILE
    path.write_text(" " * 3_000_001)
    with pytest.raises(BadRecord, match="left out"):
        read_exhibits(path)


def test_files_lie_beside_the_record_that_they_belong_to(tmp_path):
    assert beside(tmp_path / "record.json", EXHIBITS_FILE) == tmp_path / "exhibits.json"
    assert beside(tmp_path / "mine.json", EXHIBITS_FILE) == tmp_path / "mine.exhibits.json"


def test_results_without_exhibits_still_give_a_report(tmp_path):
    close = up_close(compare_records([*references(), record("old", COMPROMISED)]), gather([]))
    assert close["scenes"] == []
    assert [run["similarities"] for run in close["runs"]] == [[], [], []]


def test_exhibits_of_other_data_are_not_set_beside_this_scene(results):
    place = results / "runs" / "run-002" / EXHIBITS_FILE
    write_exhibit(place, make_exhibits(2).model_copy(update={"data": "another"}))
    clean, compromised, good = _close(results)["runs"]
    assert clean["retrievals"]
    assert compromised["map"]
    assert (good["scene"], good["map"]) == (None, None)  # without a scene the page shows none of its retrievals
    assert (good["compromised"], good["clean"]) == (1, 0)  # distributions can still be set side by side


def test_pooled_instances_are_each_shown_beside_their_own_references(tmp_path):
    runs = []
    for instance in (0, 1):
        for item in [*references(), record("good", {**COMPROMISED, "RetFail": 0.01})]:
            spec = item.spec.model_copy(update={"benchmark_options": {"seed": instance}})
            runs.append(item.model_copy(update={"id": f"{item.id}-{item.spec.start}-{instance}", "spec": spec}))
    write_results(tmp_path, runs)
    for number in (3, 4, 5):
        place = tmp_path / "runs" / f"run-00{number}"
        write_exhibit(place / EXHIBITS_FILE, make_exhibits(number).model_copy(update={"data": "second"}))
    write_exhibit(tmp_path / "runs" / "run-004" / SCENE_FILE, make_scene().model_copy(update={"data": "second"}))
    loaded = load_records(tmp_path)
    pooled = compare_records(loaded.records[:3])
    ids = [[runs[n].id, runs[n + 3].id] for n in range(3)]
    rows = tuple(row.model_copy(update={"records": found}) for row, found in zip(pooled.rows, ids, strict=True))
    close = up_close(pooled.model_copy(update={"rows": rows}), gather(zip(loaded.records, loaded.files, strict=True)))
    titles = [run["title"] for run in close["runs"]]
    assert titles == [f"{name}, instance {n}" for name in ("Clean", "Compromised", "good") for n in (0, 1)]
    assert [(run["clean"], run["compromised"], run["scene"]) for run in close["runs"][4:]] == [(0, 2, 0), (1, 3, 1)]
    assert len(close["scenes"]) == 2


def test_every_record_of_a_row_is_shown_with_its_seed_and_command(tmp_path):
    runs = [record("good", {**COMPROMISED, "RetFail": 0.01}, seed=seed) for seed in (1, 0)]
    close = _close(write_results(tmp_path, [*references(), *runs]))
    assert [run["title"] for run in close["runs"]] == ["Clean", "Compromised", "good, seed 0", "good, seed 1"]
    assert (close["runs"][2]["clean"], close["runs"][2]["compromised"]) == (0, 1)
    assert close["runs"][2]["command"] == "salmu run good"
    # Seed 1 was written first, as run 2: its own exhibits must be beside its own title.
    assert close["runs"][3]["retrievals"][0]["caption"][0] == 1 + 2
    assert close["runs"][2]["retrievals"][0]["caption"][0] == 1 + 3


def test_curves_are_thinned_to_their_ends_and_numbers_only(results):
    history = [{"fit": 0, "step": step, "loss": 1 / step, "note": "words"} for step in range(1, 1001)]
    history += ["nonsense", {"step": "x"}, {"fit": 1, "step": 1, "loss": float("nan")}]
    (results / "runs" / "run-002" / "history.json").write_text(json.dumps(history))
    [curve] = _close(results)["runs"][2]["curves"]
    assert curve[:2] == [0, "loss"]
    assert len(curve[2]) == CURVE_POINTS
    assert (curve[2][0], curve[2][-1]) == (1, 1000)
    assert curve[3][-1] == pytest.approx(0.001)


def test_the_map_holds_the_most_spread_that_two_directions_can():
    vectors = make_exhibits(0).vectors
    fitted = Projection.fit(vectors)
    image, text = vectors.tables()
    spread = np.concatenate([image - image.mean(axis=0), text - text.mean(axis=0)])
    variances = np.linalg.eigvalsh(spread.T.astype(np.float64) @ spread)[::-1]  # another way to the same numbers
    assert fitted.share == pytest.approx(tuple(variances[:2] / variances.sum()), rel=1e-4)
    placed = np.concatenate(fitted.place(vectors))
    assert (placed**2).sum(axis=0) == pytest.approx(variances[:2], rel=1e-4)
    assert np.abs(placed.sum(axis=0)).max() < 1e-3


def test_the_map_is_fitted_on_compromised_and_is_the_same_for_all(results):
    close = _close(results)
    start = read_exhibits(results / "runs" / "run-001" / EXHIBITS_FILE)
    own = read_exhibits(results / "runs" / "run-002" / EXHIBITS_FILE)
    expected = Projection.fit(start.vectors).place(own.vectors)
    for side in (0, 1):
        shown = np.array(close["runs"][2]["map"][side]).T / 1000
        assert shown == pytest.approx(expected[side], abs=6e-4)
    assert len(close["runs"][2]["map"][0][0]) == ROWS


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_rows_make_no_map(rows):
    nothing = np.zeros((rows, 4), dtype=np.float32)
    assert Projection.fit(Vectors.of(nothing, nothing)) is None


def test_a_model_with_other_embeddings_has_no_place_on_the_map():
    assert Projection.fit(make_exhibits(0, dim=32).vectors).place(make_exhibits(0, dim=16).vectors) is None


def test_reading_what_lies_beside_records_needs_no_torch(results):
    code = (
        "import sys; from salmu_core.cli.main import cli; cli.main(['report', sys.argv[1]], standalone_mode=False);"
        "heavy = {'torch', 'open_clip', 'safetensors'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, str(results)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a caption 4" in (results / "report.html").read_text()
