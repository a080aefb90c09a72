"""The validation report: each fault is found, named by row, and captions are never quoted."""

import pytest

from own_data import make_rows, ordinary_rows, write_csv
from salmu_deletion.own_data.check import check_pairs
from salmu_deletion.own_data.tables import read_table

COLUMNS = {"image": "photo", "caption": "text", "identity": "person_id"}


@pytest.fixture
def report(tmp_path):
    def make(forget, retain=None):
        kept = None if retain is None else read_table(write_csv(tmp_path / "retain.csv", retain), COLUMNS)
        findings = check_pairs(read_table(write_csv(tmp_path / "forget.csv", forget), COLUMNS), kept)
        return {finding.rule: finding for finding in findings}

    return make


def test_good_tables_have_no_errors_and_tell_rows_and_people(report, tmp_path):
    found = report(make_rows(tmp_path), ordinary_rows(tmp_path, 4))
    assert {finding.severity for finding in found.values()} == {"fact"}
    assert "4 rows, no identity" in found["rows"].message  # the last of both tables


def test_missing_and_broken_pictures_and_empty_captions_are_errors(report, tmp_path):
    rows = make_rows(tmp_path)
    rows[0]["photo"] = "photos/none.png"
    (tmp_path / rows[1]["photo"]).write_bytes(b"no picture")
    rows[2]["text"] = "  "
    found = report(rows)
    for rule, row, file in (
        ("missing picture", 1, "photos/none.png"),
        ("unreadable picture", 2, "0-1.png"),
        ("empty caption", 3, "1-0.png"),
    ):
        assert found[rule].severity == "error"
        assert f"row {row} (" in found[rule].message
        assert file in found[rule].message


def test_repetitions_are_counted(report, tmp_path):
    rows = make_rows(tmp_path)
    assert "1 rows repeat" in report([*rows, dict(rows[0])])["duplicate"].message


def test_overlap_of_both_tables_is_an_error_for_pairs_and_a_warning_for_halves(report, tmp_path):
    rows = make_rows(tmp_path)
    kept = ordinary_rows(tmp_path, 4)
    same = dict(rows[0])
    picture = {**kept[0], "photo": rows[1]["photo"], "text": "something else"}
    caption = {**kept[1], "text": rows[2]["text"]}
    found = report(rows, [*kept, same, picture, caption])
    assert found["overlap"].severity == "error"
    assert "row 5 (" in found["overlap"].message
    assert found["shared picture"].severity == "warning"
    assert found["shared caption"].severity == "warning"
    assert "1 identities of forget are in retain too" in found["both"].message


def test_a_picture_of_several_people_is_told(report, tmp_path):
    rows = make_rows(tmp_path)
    assert "picture of several people" not in report([*rows, {**rows[0], "text": "another fact of theirs"}])
    found = report([*rows, {**rows[0], "person_id": "p99"}])["picture of several people"]
    assert "2 rows show" in found.message
    assert found.severity == "warning"


def test_no_finding_quotes_a_caption(report, tmp_path):
    rows = make_rows(tmp_path)
    found = report([*rows, dict(rows[0])], [dict(rows[0])])
    assert not any("secret" in finding.message for finding in found.values())
