"""Leaderboards: grouping over seeds, order, refusals."""

import pytest

from records import CLEAN, COMPROMISED, published, record, references, with_published
from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadRecord
from salmu_core.records.schema import Cost


def _with(**changes):
    return {**COMPROMISED, **changes}


def _titles(comparison):
    return [row.title for row in comparison.rows]


def test_seeds_of_one_method_are_one_row_with_mean_and_spread():
    # AssocStr is forgotten too: of the forgetting metrics the worst counts, and the score then moves with RetFail.
    runs = [record("m", _with(RetFail=value, AssocStr=0.1417), seed=seed) for seed, value in enumerate([0.01, 0.02, 0.06])]
    [row] = [row for row in compare_records([*references(), *runs]).rows if row.kind == "run"]
    assert row.seeds == (0, 1, 2)
    assert row.cells["RetFail"].value == pytest.approx(0.03)
    assert row.cells["RetFail"].sd == pytest.approx(0.0264575, abs=1e-6)
    assert row.cells["RetFail"].n == 3
    assert row.cells["RetFail"].low is None  # an interval of one seed says nothing of three
    assert row.overall_sd > 0
    assert len(row.commands) == 3


def test_a_single_seed_keeps_its_interval():
    [row] = [r for r in compare_records([*references(), record("m", _with(RetFail=0.01))]).rows if r.kind == "run"]
    assert (row.cells["RetFail"].low, row.cells["RetFail"].high) == (pytest.approx(0.0), pytest.approx(0.02))
    assert row.cells["RetFail"].sd is None


def test_the_worst_seed_gives_the_verdict_and_all_are_counted():
    gone = {"RetFail": 0.01, "AssocStr": 0.15}
    runs = [record("m", _with(**gone), seed=0), record("m", _with(**gone, GenKnow=0.5), seed=1)]
    [row] = [row for row in compare_records([*references(), *runs]).rows if row.kind == "run"]
    assert row.verdict == "catastrophic"
    assert row.verdicts == {"selective": 1, "catastrophic": 1}
    assert row.rank is None


def test_other_options_and_budgets_are_other_rows_with_telling_titles():
    runs = [
        record("m", _with(RetFail=0.01), options={"lr": 1e-4, "a": 1}),
        record("m", _with(RetFail=0.02), options={"lr": 1e-3, "a": 1}),
        record("m", _with(RetFail=0.03), options={"lr": 1e-4, "a": 1}, budget=5.0),
    ]
    assert set(_titles(compare_records([*references(), *runs]))[2:]) == {"m lr=0.0001", "m lr=0.001", "m 5x"}


def test_references_come_first_then_ranked_then_unranked_then_oracles():
    runs = [
        record("oracle", _with(RetFail=0.001, AssocStr=0.1417), oracle=True),
        record("broken", {}, status="failed", error="boom"),
        record("fair", _with(RetFail=0.1, AssocStr=0.25)),
        record("best", _with(RetFail=0.002, AssocStr=0.1417)),
    ]
    comparison = compare_records([*references(), *runs])
    assert _titles(comparison) == ["Clean", "Compromised", "best", "fair", "broken", "oracle"]
    assert [row.rank for row in comparison.rows] == [None, None, 1, 2, None, None]


def test_a_failing_run_is_a_row_that_says_why():
    row = compare_records([*references(), record("m", {}, status="failed", error="ZeroDivisionError: boom\ntrace")]).rows[-1]
    assert row.verdict == "failed"
    assert row.reason == "ZeroDivisionError: boom"
    assert "trace" in row.error


@pytest.mark.parametrize("change", [{"benchmark_version": "2"}])
def test_records_of_other_benchmark_versions_share_no_table(change):
    with pytest.raises(BadRecord, match="2 different benchmarks"):
        compare_records([*references(), record("m", COMPROMISED, **change)])


def test_a_missing_reference_is_said_and_ends_nothing():
    comparison = compare_records([references()[1], record("m", _with(RetFail=0.01))])
    assert any("Clean reference row is missing" in note for note in comparison.notes)
    assert comparison.rows[-1].verdict == "unknown"
    assert comparison.rows[-1].rank is None


def test_no_records_is_an_error_that_says_what_to_do():
    with pytest.raises(BadRecord, match="no records"):
        compare_records([])


def test_metrics_that_were_not_measured_are_named():
    comparison = compare_records([*references(), record("m", COMPROMISED, skipped={"X": "no split"})])
    assert "X: not measured (no split)" in comparison.notes


def _of(comparison, kind):
    return [row for row in comparison.rows if row.kind == kind]


def test_published_rows_come_last_and_hold_neither_rank_nor_verdict():
    others = [published("CLIPErase 5x", {"RetFail": 0.001}), published("DELETE 5x", {"RetFail": 0.002})]
    comparison = compare_records([*with_published(*others), record("m", _with(RetFail=0.1))])
    assert _titles(comparison) == [
        "Clean",
        "Compromised",
        "m",
        "CLIPErase 5x",
        "DELETE 5x",
    ]  # each once, though two records carry it
    for row in _of(comparison, "published"):
        assert (row.rank, row.verdict, row.overall, row.source) == (None, "", None, "A report")
        assert comparison.label(row) == f"{row.title} [1]"
    assert comparison.sources == ("A report",)


def test_published_distances_are_to_the_references_of_the_same_source():
    paper = "The paper"
    others = [
        published("Clean", {"RetFail": 0.0, "InterIdSim": 0.1}, paper, reference="clean"),
        published("Compromised", {"RetFail": 0.4, "InterIdSim": 0.3}, paper, reference="compromised"),
        published("X", {"RetFail": 0.1, "InterIdSim": 0.25, "GenKnow": 0.6}, paper),
        published("Y", {"RetFail": 0.1}, "Somebody without references"),
    ]
    comparison = compare_records(with_published(*others))
    clean, compromised, x, y = _of(comparison, "published")
    assert x.cells["RetFail"].gap == pytest.approx(0.25)
    assert x.cells["InterIdSim"].gap == pytest.approx(0.25)
    assert x.cells["GenKnow"].gap is None  # the source has no reference for it
    assert y.cells["RetFail"].gap is None
    assert (clean.cells["RetFail"].gap, compromised.cells["RetFail"].gap) == (0.0, 1.0)
    assert [comparison.label(row) for row in (x, y)] == ["X [1]", "Y [2]"]


def test_published_rows_change_nothing_about_ones_own():
    runs = [record("m", _with(RetFail=0.1)), record("n", _with(RetFail=0.02, InterIdSim=0.2))]
    far = [
        published("Clean", dict.fromkeys(CLEAN, 0.9), reference="clean"),
        published("Compromised", dict.fromkeys(CLEAN, -0.9), reference="compromised"),
        published("X", dict.fromkeys(CLEAN, 0.5)),
    ]
    alone, beside = compare_records([*references(), *runs]), compare_records([*with_published(*far), *runs])
    assert [row for row in beside.rows if row.kind != "published"] == list(alone.rows)
    assert beside.metrics == alone.metrics


def test_references_that_differ_from_published_ones_are_named_with_both_values():
    others = [
        published("Clean", CLEAN, reference="clean"),
        published(
            "Compromised", {"RetFail": 0.2379, "InterIdSim": 0.3232, "GenKnow": 0.7}, "B report", reference="compromised"
        ),
    ]
    notes = compare_records([*with_published(*others), record("m", _with(RetFail=0.1))]).notes
    assert notes == (
        "Your Compromised differs from the published one [2] by more than 0.002: InterIdSim 0.3210 (published 0.3232),"
        " GenKnow 0.6380 (published 0.7).",
    )


def test_a_metric_that_only_others_measured_has_a_column_in_its_place():
    own = [
        item.model_copy(update={"scores": {k: v for k, v in item.scores.items() if k != "GenKnow"}}) for item in references()
    ]
    options = {name: {} for name in CLEAN}
    own = [
        item.model_copy(
            update={
                "published": (published("X", {"GenKnow": 0.6}),),
                "provenance": item.provenance.model_copy(update={"metric_options": options}),
            }
        )
        for item in own
    ]
    comparison = compare_records(own)
    assert [metric.name for metric in comparison.metrics] == list(CLEAN)
    [column] = [metric for metric in comparison.metrics if metric.name == "GenKnow"]
    assert (column.clean, column.compromised, column.weight) == (None, None, 0.0)
    assert "GenKnow" not in comparison.rows[0].cells


def test_a_run_that_started_from_clean_says_so():
    runs = [record("m", COMPROMISED), record("m", COMPROMISED, start="clean")]
    titles = [row.title for row in compare_records([*references(), *runs]).rows if row.kind == "run"]
    assert sorted(titles) == ["m", "m from Clean"]


@pytest.mark.parametrize(("texts", "told"), [(100, False), (101, True)])
def test_captions_that_are_encoded_far_beyond_the_budget_are_told(texts, told):
    cost = Cost(allowed={"forget": 5, "retain": 15}, encoded={"image": 0, "text": texts})
    comparison = compare_records([*references(), record("m", COMPROMISED, cost=cost)])
    [row] = [row for row in comparison.rows if row.kind == "run"]
    assert row.encoded == {"image": 0, "text": texts}
    assert any(note.startswith(f"m put {texts} captions through an encoder") for note in comparison.notes) == told
