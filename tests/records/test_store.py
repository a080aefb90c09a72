"""Record files: what is written is read back, old versions load, damaged ones are named."""

import json
import os
from pathlib import Path

import pytest

from records import COMPROMISED, record
from salmu_core.errors import BadRecord
from salmu_core.records.schema import SCHEMA_VERSION
from salmu_core.records.store import load_records, read_record, write_record

SAMPLES = Path(__file__).parent / "samples"
LATER = {"broken", "columns", "undeclared", "warnings"}  # what salmu 0.1 did not write


def test_round_trip(tmp_path):
    original = record("m", COMPROMISED)
    write_record(tmp_path, original)
    assert read_record(tmp_path) == original
    assert read_record(tmp_path / "record.json") == original


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_records_of_every_released_version_load(sample):
    assert read_record(sample).schema_version == SCHEMA_VERSION


def test_there_is_a_sample_of_every_version():
    versions = {json.loads(path.read_text())["schema_version"] for path in SAMPLES.glob("*.json")}
    assert versions == set(range(1, SCHEMA_VERSION + 1))


def test_what_version_2_added_is_read_from_its_sample_and_empty_in_older_ones():
    old, new = (read_record(SAMPLES / f"version-{version}.json") for version in (1, 2))
    assert (old.files, old.published, old.provenance.execution) == ((), (), {})
    assert new.files == ("evaluation_clean.json",)
    assert new.provenance.execution["micro_batch"] == 64
    assert [result.title for result in new.published][:3] == ["Clean", "Compromised", "Clean"]
    assert new.published[0].scores["RetFail"].value == 0.00081


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "no schema_version"),
        (json.dumps({"schema_version": 99}), "schema version 99"),
        (json.dumps({"schema_version": 1}), "damaged: id"),
    ],
)
def test_a_damaged_record_is_named_and_the_others_load(tmp_path, content, words):
    write_record(tmp_path / "good", record("m", COMPROMISED))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text(content)
    with pytest.raises(BadRecord, match=words):
        read_record(tmp_path / "bad")
    loaded = load_records(tmp_path)
    assert len(loaded.records) == 1
    assert "bad/record.json" in loaded.problems[0]


def test_a_missing_record_says_what_to_give(tmp_path):
    with pytest.raises(BadRecord, match="no record at"):
        read_record(tmp_path / "nothing")


def _edited(change):
    """The text of a record that somebody changed after it was written, its checksum left out, as salmu 0.1 wrote them."""
    content = {name: value for name, value in record("m", COMPROMISED).model_dump(mode="json").items() if name not in LATER}
    change(content)
    return json.dumps(content)


def _score(**changes):
    return lambda content: content["scores"]["RetFail"].update(changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_score(value=float("nan")), "NaN is not a number"),
        (_score(value=float("-inf")), "Infinity is not a number"),
        (_score(value=7.0), "outside the metric's bounds, -1 to 1"),
        (_score(value=1e308), "outside the metric's bounds"),
        (_score(high=1.5), "the high 1.5 is outside"),
        (_score(bounds=[1.0, -1.0]), "wrong way round"),
        (_score(extras={"R@1": float("nan")}), "NaN is not a number"),
        (lambda content: content["cost"].update(seconds={"unlearn": -5.0}), r"cost\.seconds\.unlearn"),
        (lambda content: content.update(weight_change=-1.0), "weight_change"),
        (lambda content: content["spec"].update(method="a\ud800"), "half a character"),
        (lambda content: content.update(options={"a": json.loads("[" * 500 + "]" * 500)}), "nested too deeply"),
        (lambda content: content.update(rows_file="../../.ssh/key"), "not a plain file name"),
        (lambda content: content.update(files=["/etc/passwd"]), "not a plain file name"),
    ],
)
def test_a_record_that_no_run_leaves_is_named_and_left_out(tmp_path, change, said):
    write_record(tmp_path / "good", record("m", COMPROMISED))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text(_edited(change))
    loaded = load_records(tmp_path)
    assert len(loaded.records) == 1
    with pytest.raises(BadRecord, match=said):
        read_record(tmp_path / "bad")


def test_a_number_too_large_for_a_float_is_not_read_as_infinity(tmp_path):
    (tmp_path / "record.json").write_text(
        _edited(lambda content: content.update(options={"lr": 12.5})).replace("12.5", "1e999")
    )
    with pytest.raises(BadRecord, match="1e999 is not a number"):
        read_record(tmp_path)


def test_what_no_reader_would_take_is_not_written(tmp_path):
    good = record("m", COMPROMISED)
    wrong = good.scores["RetFail"].model_copy(update={"value": float("nan")})
    with pytest.raises(BadRecord, match=r"RetFail\.value.*finite"):
        write_record(tmp_path, good.model_copy(update={"scores": {"RetFail": wrong}}))
    assert not (tmp_path / "record.json").exists()


def test_any_edit_is_noticed_and_another_layout_is_not_an_edit(tmp_path):
    original = record("m", COMPROMISED)
    content = json.loads(write_record(tmp_path, original).read_text())
    (tmp_path / "record.json").write_text(json.dumps(content, sort_keys=True).replace(": ", ":\r\n"))
    assert read_record(tmp_path) == original
    content["scores"]["RetFail"]["value"] += 0.001
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(BadRecord, match="was changed after it was written"):
        read_record(tmp_path)


@pytest.mark.parametrize("kept", sorted(LATER))
def test_a_record_of_today_whose_checksum_was_taken_out_is_none_of_salmu_0_1(tmp_path, kept):
    content = json.loads(write_record(tmp_path, record("m", COMPROMISED)).read_text())
    old = {name: value for name, value in content.items() if name not in {*LATER, "xxh3_128"}}
    (tmp_path / "record.json").write_text(json.dumps(old))
    assert read_record(tmp_path) == record("m", COMPROMISED)
    (tmp_path / "record.json").write_text(json.dumps({**old, kept: content[kept]}))
    with pytest.raises(BadRecord, match="its checksum is gone"):
        read_record(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_what_lies_oddly_among_results_is_named_and_holds_nobody_up(tmp_path):
    write_record(tmp_path / "good", record("m", COMPROMISED))
    for name in ("pipe", "device", "large", "folder", "loop", "rows"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "record.json")
    (tmp_path / "device" / "record.json").symlink_to("/dev/zero")
    (tmp_path / "large" / "record.json").touch()
    os.truncate(tmp_path / "large" / "record.json", 10**11)  # sparse
    (tmp_path / "folder" / "record.json").mkdir()
    (tmp_path / "loop" / "record.json").symlink_to("record.json")
    write_record(tmp_path / "rows", record("n", COMPROMISED, rows_file="rows.safetensors"))
    os.mkfifo(tmp_path / "rows" / "rows.safetensors")
    loaded = load_records(tmp_path)
    assert [item.spec.method for item in loaded.records] == ["m"]
    said = "\n".join(loaded.problems)
    assert len(loaded.problems) == 6
    for name in ("pipe", "device", "large", "folder", "loop", "rows"):
        assert str(tmp_path / name) in said


def test_no_table_of_the_users_is_to_be_deleted(tmp_path):
    for name, hint in (("people.csv", "Give a run directory"), ("record.json", "Delete it")):
        (tmp_path / name).write_text("image,caption")
        with pytest.raises(BadRecord) as caught:
            read_record(tmp_path / name)
        assert hint in str(caught.value.hint)
