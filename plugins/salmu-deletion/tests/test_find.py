"""salmu find: which rows a request is about."""

import csv
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from own_data import make_model, make_picture, make_rows, ordinary_rows, write_csv
from salmu_core.cli.main import cli
from salmu_core.errors import BadData, BadOptions, OutputError
from salmu_core.models.loading import load_model
from salmu_deletion.own_data.find import Candidate, find_by_face, find_by_words, joined
from salmu_deletion.own_data.tables import read_table

COLUMNS = {"image": "photo", "caption": "text", "identity": "person_id"}
FLAGS = ["--columns", "image=photo,caption=text,identity=person_id"]


@pytest.fixture
def place(tmp_path):
    rows = [*make_rows(tmp_path), *ordinary_rows(tmp_path, 6)]
    rows[0]["text"] = "Anna Smith lives here"
    rows[2]["text"] = "Call ANNA\u00a0 smith: +49 170 / 123-4567"  # another person's row that names her
    rows[4]["text"] = "Annabel Smithson is somebody else"
    rows[7]["text"] = "Jose\u0301 waits"  # with a combining accent
    return write_csv(tmp_path / "all.csv", rows)


def rows_of(found):
    return [item.row for item in found]


def test_a_name_is_found_by_its_words_and_brings_its_people_along(place):
    table = read_table(place, COLUMNS)
    found = find_by_words(table, name="anna smith")
    assert {item.row: item.why for item in found} == {
        0: ("name in caption",), 1: ("same identity",), 2: ("name in caption",), 3: ("same identity",)
    }  # fmt: skip
    assert rows_of(find_by_words(table, name="anna smith", whole_person=False)) == [0, 2]
    assert rows_of(find_by_words(table, name="P02")) == [4, 5]
    assert find_by_words(table, name="P02")[0].why == ("identity",)
    assert rows_of(find_by_words(table, name="jos\u00e9")) == [7]
    assert find_by_words(table, name="Nobody") == []
    assert find_by_words(table, name="   ") == []


@pytest.mark.parametrize(
    ("name", "caption", "is_there"),
    [
        ("Jean-Luc Picard", "jean-luc picard on a bridge", True),
        ("O'Brien", "Miles O\u2019Brien", True),
        ("Smith, Anna", "Dr. Anna Smith.", True),
        ("Jose", "Jos\u00e9 waits", True),
        ("\u0130rem Y\u0131lmaz", "irem yilmaz", True),
        (
            "\u092a\u094d\u0930\u093f\u092f\u093e",
            "a photo of \u092a\u094d\u0930\u093f\u092f\u093e here",
            True,
        ),  # Indic vowel signs
        ("\u0645\u062d\u0645\u0651\u062f", "\u0635\u0648\u0631\u0629 \u0645\u062d\u0645\u062f", True),  # a vowel point
        ("\u5f20\u4f1f", "\u5f20\u4f1f\u5728\u5317\u4eac", True),  # no spaces between words
        ("\uae40\ubbfc\uc218", "\uae40\ubbfc\uc218\ub294 \uc11c\uc6b8", True),  # a particle behind the name
        ("anna_smith", "Anna Smith", True),
        ("O'Brien", "Brien without the rest", False),
        ("Ann", "Annabel", False),
        ("\u092a\u094d\u0930\u093f\u092f\u093e", "\u092a\u094d\u0930\u093f\u092f", False),
    ],
)
def test_a_name_is_found_in_every_script_and_with_its_signs(place, name, caption, is_there):
    table = replace(read_table(place, COLUMNS), captions=["nothing", caption], identities=None)
    assert rows_of(find_by_words(table, name=name)) == ([1] if is_there else [])


def test_a_number_finds_the_person_however_it_is_written(place):
    table = replace(read_table(place, COLUMNS), captions=["a", "b", "c"], identities=["7.0", "007", "17"])
    assert rows_of(find_by_words(table, name="7")) == [0, 1]


def test_numbers_are_found_however_they_are_written(place):
    table = read_table(place, COLUMNS)
    for text in ("+49 170 1234567", "491701234567", "170/1234567", "+49 170 / 123-4567"):
        assert rows_of(find_by_words(table, text=text, whole_person=False)) == [2]
    assert find_by_words(table, text="170 7654321", whole_person=False) == []
    assert rows_of(find_by_words(table, text="lives  HERE", whole_person=False)) == [0]


def test_the_nearest_pictures_come_first_and_the_same_picture_before_all(place, tmp_path):
    model = load_model(make_model(tmp_path / "model"))
    table = read_table(place, COLUMNS)
    found = find_by_face(table, model, tmp_path / "photos" / "1-0.png", 4)
    assert found[0].row == 2
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert len(found) == 4
    similarities = [item.similarity for item in found]
    assert similarities == sorted(similarities, reverse=True)
    # By hand: one picture at a time.
    import torch
    from PIL import Image

    def vector(path):
        pixels = torch.from_numpy(model.processor.pixels(Image.open(path).convert("RGB")))[None]
        with torch.inference_mode():
            return model.encode_image(model.processor.normalise(pixels))[0]

    asked = vector(tmp_path / "photos" / "1-0.png")
    cosines = [float(asked @ vector(path)) for path in table.images.paths]
    assert rows_of(found) == sorted(range(len(table)), key=lambda row: -cosines[row])[:4]
    assert similarities == pytest.approx([cosines[row] for row in rows_of(found)], abs=1e-5)
    at_least = (similarities[1] + similarities[2]) / 2
    assert len(find_by_face(table, model, tmp_path / "photos" / "1-0.png", 4, at_least)) == 2
    with pytest.raises(BadData, match="no picture"):
        find_by_face(table, model, tmp_path / "gone.png", 4)


def test_a_row_found_twice_is_one_candidate():
    found = joined([Candidate(3, ("name",))], [Candidate(1, ("face",), 0.9), Candidate(3, ("face",), 0.8)])
    assert found == [Candidate(3, ("name", "face"), 0.8), Candidate(1, ("face",), 0.9)]


def _run(*words):
    return CliRunner().invoke(cli, ["find", *map(str, words)], catch_exceptions=False, standalone_mode=False)


def test_what_it_writes_is_what_forget_takes(place, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out, page = elsewhere / "request.csv", elsewhere / "page.html"
    done = _run("--table", place, *FLAGS, "--name", "Anna Smith", "--drop", "3", "--out", out, "--html", page)
    assert done.return_value == 0
    assert max(len(line) for line in done.stdout.splitlines() if str(elsewhere) not in line) <= 80
    again = read_table(out, {})
    whole = read_table(place, COLUMNS)
    # Beside a table of other names, which --columns gives for both.
    assert read_table(out, COLUMNS).used == again.used
    assert "More than one person: p00 (2), p01 (2)" in " ".join(
        _run("--table", place, *FLAGS, "--name", "Anna Smith").stdout.split()
    )
    assert [again.captions[row] for row in range(3)] == [whole.captions[row] for row in (0, 1, 2)]
    assert again.identities == ["p00", "p00", "p01"]
    assert [again.images.read(row) for row in range(3)] == [whole.images.read(row) for row in (0, 1, 2)]
    model = str(make_model(tmp_path / "model"))
    checked = CliRunner().invoke(
        cli,
        ["forget", "--model", model, "--forget", str(out), "--check-only"],
        catch_exceptions=False,
        standalone_mode=False,
    )
    assert checked.return_value == 0
    text = page.read_text()
    assert text.count("<li>") == 3
    assert 'src="http' not in text
    with pytest.raises(OutputError, match="there already"):
        _run("--table", place, *FLAGS, "--name", "Anna Smith", "--out", out)


def test_pictures_inside_a_table_are_written_beside_the_csv(place, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    whole = read_table(place, COLUMNS)
    count = len(whole)
    table = {
        "image": [whole.images.read(row) for row in range(count)],
        "caption": list(whole.captions),
        "identity": list(whole.identities),
    }
    pq.write_table(pa.table(table), tmp_path / "all.parquet")
    out = tmp_path / "request.csv"
    assert _run("--table", tmp_path / "all.parquet", "--name", "p01", "--out", out).return_value == 0
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["image"] for row in written] == ["request-pictures/00000002.png", "request-pictures/00000003.png"]
    again = read_table(out, {})
    assert [again.images.read(row) for row in range(2)] == [whole.images.read(row) for row in (2, 3)]


def test_a_face_needs_a_model_and_json_says_all(place, tmp_path):
    face = make_picture(tmp_path / "face.png", 100)  # that of row 2
    model = make_model(tmp_path / "model")
    with pytest.raises(BadOptions, match="belong together"):
        _run("--table", place, *FLAGS, "--face", face)
    for nothing in ((), ("--name", " ")):
        with pytest.raises(BadOptions, match="what to look for"):
            _run("--table", place, *FLAGS, *nothing)
    before = place.read_bytes()
    with pytest.raises(OutputError, match="is what is searched"):
        _run("--table", place, *FLAGS, "--name", "Anna Smith", "--out", place, "--overwrite")
    assert place.read_bytes() == before
    with pytest.raises(BadOptions, match="not found: 99"):
        _run("--table", place, *FLAGS, "--name", "Anna Smith", "--drop", "99")
    done = _run("--table", place, *FLAGS, "--face", face, "--model", model, "--most", "2", "--cpu", "--json")
    [first, second] = json.loads(done.stdout)["rows"]
    assert (first["row"], first["why"]) == (2, ["face"])
    assert first["similarity"] > second["similarity"]


def test_nothing_found_is_said_and_writes_nothing(place, tmp_path):
    done = _run("--table", place, *FLAGS, "--name", "Nobody", "--out", tmp_path / "request.csv")
    assert done.return_value == 1
    assert "Nothing was found" in done.stdout
    assert not (tmp_path / "request.csv").exists()


def test_a_least_cosine_that_is_no_number_is_refused(place):
    found = CliRunner().invoke(cli, ["find", "--table", str(place), "--name", "x", "--at-least", "nan"])
    assert found.exit_code == 2
    assert "nan is not a finite number" in found.output
