"""Record files: what is written is read back, old versions load, damaged ones are named."""

import json
from pathlib import Path

import pytest

from records import COMPROMISED, record
from salmu_core.errors import BadRecord
from salmu_core.records.schema import SCHEMA_VERSION
from salmu_core.records.store import load_records, read_record, write_record

SAMPLES = Path(__file__).parent / "samples"


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
