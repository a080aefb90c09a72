"""Which rows are shown, in what order, and what a script may fail for."""

import pytest

from records import COMPROMISED, record, references
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.selection import broken, select
from salmu_core.errors import BadOptions


def _values(**changes):
    return {**COMPROMISED, **changes}


@pytest.fixture(scope="module")
def comparison():
    runs = [
        record("near", _values(RetFail=0.01, AssocStr=0.15), family="distillation"),
        record("half", _values(RetFail=0.12), family="pruning and editing", cost={"seconds": {"unlearn": 1.0}}),
        record("wreck", _values(RetFail=0.01, GenKnow=0.2), family="distillation"),
        record("broken", {}, status="failed", error="boom", family="baseline"),
    ]
    return compare_records([*references(), *runs])


def _titles(comparison):
    return [row.title for row in comparison.rows]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ({}, ["near", "half", "wreck", "broken"]),
        ({"families": ["distillation"]}, ["near", "wreck"]),
        ({"families": ["distillation", "baseline"]}, ["near", "wreck", "broken"]),
        ({"verdicts": ["catastrophic"]}, ["wreck"]),
        ({"statuses": ["failed"]}, ["broken"]),
        ({"statuses": ["diverged"]}, []),
        ({"where": ["GenKnow>0.6"]}, ["near", "half"]),
        ({"where": ["RetFail.gap<=0.2", "verdict!=catastrophic"]}, ["near"]),
        ({"where": ["verdict=selective|ineffective"]}, ["near", "half"]),
        ({"where": ["near:overall>5"]}, ["half", "wreck", "broken"]),
        ({"sort": "seconds"}, ["half", "near", "wreck", "broken"]),
        ({"sort": "GenKnow"}, ["near", "half", "wreck", "broken"]),
        # What holds no rank stays below, whatever the column.
        ({"sort": "-GenKnow"}, ["near", "half", "wreck", "broken"]),
        ({"sort": "-overall"}, ["half", "near", "wreck", "broken"]),
    ],
)
def test_rows_are_picked_and_ordered_and_references_stay(comparison, filters, kept):
    shown = select(comparison, **filters)
    assert _titles(shown)[:2] == ["Clean", "Compromised"]
    assert _titles(shown)[2:] == kept
    assert {title for d in shown.differences for title in (d.row, d.other)} <= set(kept)
    assert any("rows are shown" in note for note in shown.notes) == (len(kept) < 4)


def test_ranks_stay_those_among_all_rows(comparison):
    [half] = [row for row in select(comparison, families=["pruning and editing"]).rows if row.kind == "run"]
    assert half == next(row for row in comparison.rows if row.title == "half")


def test_conditions_name_the_rows_that_break_them(comparison):
    assert broken(comparison, ["seconds<100"], ["rank>9"]) == []
    assert broken(comparison, ["near:verdict=selective"], []) == []
    [words] = broken(comparison, [], ["verdict=catastrophic"])
    assert words == "wreck: --fail-if 'verdict=catastrophic', but verdict is catastrophic."
    # A run without a number does not keep what is required of it.
    found = broken(comparison, ["GenKnow>=0.5"], [])
    assert [line.split(":")[0] for line in found] == ["wreck", "broken"]
    assert "not known" in found[1]
    assert broken(comparison, [], ["GenKnow<0.5"]) == [
        found[0].replace("--require 'GenKnow>=0.5'", "--fail-if 'GenKnow<0.5'")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"families": ["destillation"]}, "Did you mean distillation"),
        ({"verdicts": ["selectiv"]}, "Did you mean selective"),
        ({"where": ["verdict!=catastrofic"]}, "Did you mean catastrophic"),
        ({"where": ["GenKnow"]}, "FIELD<VALUE"),
        ({"where": ["GenKnwo>1"]}, "Did you mean GenKnow"),
        ({"where": ["GenKnow>much"]}, "'much' is not"),
        ({"where": ["verdict>selective"]}, "only = and !="),
        ({"where": ["neer:rank=1"]}, "Did you mean near"),
        ({"sort": "GenKno"}, "Did you mean GenKnow"),
    ],
)
def test_what_cannot_be_read_or_is_not_there_is_refused_with_near_ones(comparison, arguments, words):
    with pytest.raises(BadOptions) as error:
        select(comparison, **arguments)
    assert words in str(error.value)
