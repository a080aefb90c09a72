"""Cells as they come: what is text stays text, what is none is told by row, and whoever is one person stays one."""

import datetime
import decimal
import uuid

import pytest

from salmu_deletion.own_data.cells import EXACT, loose, plain_numbers, read_texts, shape

NAN = float("nan")


@pytest.mark.parametrize(
    ("part", "value", "text"),
    [
        ("identity", 7, "7"),
        ("identity", 7.0, "7"),  # pandas: a column of whole numbers with a gap
        ("identity", NAN, None),
        ("identity", None, None),
        ("identity", "7.0", "7.0"),  # in a CSV it may be a version: `align` looks at both tables
        ("identity", "  Ann ", "Ann"),
        ("identity", "Jose\u0301", "Jos\u00e9"),
        ("identity", decimal.Decimal("12"), "12"),
        ("identity", decimal.Decimal("NaN"), None),
        ("identity", uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ("value", 612345678.0, "612345678"),  # a telephone number
        ("value", -3, "-3"),
        ("caption", "Jose\u0301", "Jose\u0301"),  # as it stands
        ("caption", "\ufeff\u200b \u00ad", None),
        ("caption", "\ufeffa dog", "a dog"),
        ("caption", NAN, None),
    ],
)
def test_what_is_text_is_read_as_it_stands(part, value, text):
    assert read_texts([value], part, "t") == ([text], [])


@pytest.mark.parametrize(
    ("part", "value", "fault"),
    [
        ("caption", ["one", "two"], "lists"),
        ("caption", b"one", "bytes"),
        ("caption", {"en": "one"}, "structs"),
        ("caption", 612345678.0, "numbers"),
        ("caption", 5, "numbers"),
        ("caption", "half \ud83d", "surrogates"),
        ("caption", "a\0b", "NUL"),
        ("caption", "\0", "NUL"),
        ("identity", "p\0", "NUL"),
        ("image", "a\0.png", "NUL"),
        ("identity", True, "true or false"),
        ("identity", "True", "true or false"),  # of a CSV
        ("identity", 1.5, "not whole"),
        ("identity", float("inf"), "not whole"),
        ("identity", 2.0**53, "lost their last digits"),
        ("identity", datetime.date(2026, 1, 2), "type date"),
        ("value", decimal.Decimal("1.75"), "not whole"),
    ],
)
def test_what_is_no_text_is_an_error_that_names_rows_and_no_text(part, value, fault):
    texts, [found] = read_texts([None, value, value], part, "'t.parquet', column 'c',")
    assert texts == [None, None, None]
    assert found.severity == "error"
    assert fault in found.message
    assert "2 cells of 't.parquet', column 'c', hold" in found.message
    assert "row 2, row 3" in found.message
    assert found.rule == f"{part} is not text"


def test_whole_numbers_beyond_what_their_type_tells_apart_are_refused():
    assert read_texts([2047.0], "identity", "t", EXACT["halffloat"]) == (["2047"], [])
    assert read_texts([2048.0], "identity", "t", EXACT["halffloat"])[1]
    assert read_texts([2.0**24], "identity", "t", EXACT["float"])[1]


@pytest.mark.parametrize("text", ["nan", "NULL", "None", "<NA>", "n/a", "#N/A", "#REF!", "#DIV/0!"])
def test_words_that_stand_for_nothing_are_told_and_kept(text):
    texts, [found] = read_texts(["Ann", text], "identity", "t")
    assert texts == ["Ann", text]  # Null is a surname
    assert found.severity == "warning"
    assert "row 2" in found.message


def test_numbers_that_a_spreadsheet_has_rounded_are_told():
    _, [found] = read_texts(["612345678", "6.12E+08", "6,12e8", "E5", "1e"], "value", "t")
    assert found.rule == "value in powers of ten"
    assert "row 2, row 3." in found.message
    assert not read_texts(["6.12E+08"], "caption", "t")[1]


def test_numbers_are_aligned_only_where_some_are_written_plainly_and_none_is_a_fraction():
    assert plain_numbers(["1", "2", "1.0"])
    assert not plain_numbers(["1.0", "2.0"])  # all alike: whoever wrote them so reads them so
    assert not plain_numbers(["1", "1.0", "1.1"])  # versions
    assert not plain_numbers(["a", "1.0"])
    assert not plain_numbers(["1", None, "p1.0"])


def test_loose_forms_join_what_programs_change_and_nothing_else():
    assert loose("\uff21nn") == loose("ann") == loose(" ANN\u200b")
    assert loose("p007") == loose("p7") == loose("P07")
    assert len({loose(who) for who in ("p10", "p1", "p100", "0", "1.5", "1.05", "a-1", "a1")}) == 8
    assert shape("id_0042") == "a_0"


def test_somebody_named_true_is_a_person_beside_others():
    assert read_texts(["True", "Ann"], "identity", "t") == (["True", "Ann"], [])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("O\u2019Brien", "O'Brien", True),
        ("Jos\u00e9", "jose", True),
        ("Jean\u2010Luc", "Jean-Luc", True),
        ("Ann_Lee", "Ann Lee", True),
        ("\u0667", "7", True),
        ("'7", "7", True),
        ("123e4567-e89b-12d3-a456-426614174000", "{123E4567E89B12D3A456426614174000}", True),
        ("1-2", "12", False),
        ("-7", "7", False),
        ("Ann", "Anne", False),
        ("1.5", "15", False),
    ],
)
def test_what_people_and_programs_change_in_an_identity(one, other, alike):
    assert (loose(one) == loose(other)) is alike


def test_signs_that_are_not_seen_in_an_identity_are_told_and_kept():
    texts, [found] = read_texts(["ann", "an\nn", "ann\u202e", "b\x1b[2J"], "identity", "'a.csv', column 'id'")
    assert texts == ["ann", "an\nn", "ann\u202e", "b\x1b[2J"]
    assert found.severity == "warning"
    assert "3 cells of 'a.csv'" in found.message
    assert not read_texts(["a\nb"], "caption", "x")[1]
