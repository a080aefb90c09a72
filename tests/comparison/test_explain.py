"""Failure modes in words, from synthetic rows whose distances are known."""

import pytest

from records import CLEAN, COMPROMISED, record, references
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.explain import explain


def _words(values, **more):
    comparison = compare_records([*references(), record("method", values, **more)])
    return " ".join(explain(comparison.rows[2], comparison))


def test_references_have_no_failure_mode():
    comparison = compare_records(references())
    assert [explain(row, comparison) for row in comparison.rows] == [[], []]


def test_an_over_generalised_model_has_lost_what_nobody_asked_to_remove():
    words = _words(CLEAN)
    assert words.startswith("The requested associations are gone, general knowledge stays, but")
    assert "2 of 2 forgetting metrics came within 20% of Clean (RetFail, AssocStr)." in words
    assert "Associations nobody asked to remove: InterIdSim is farthest from Compromised, at a distance of 1.00." in words
    assert "Streisand" not in words


@pytest.mark.parametrize(("similarity", "past"), [(0.1417, False), (0.13, False), (0.05, True)])
def test_going_past_clean_is_said(similarity, past):
    words = _words({**CLEAN, "AssocStr": similarity})
    assert ("Streisand" in words) is past
    if past:  # (0.1417 - 0.05) / (0.3215 - 0.1417) = 0.51
        assert "AssocStr by 51% of the way" in words


def test_an_ineffective_model_has_forgotten_nothing():
    words = _words({**COMPROMISED, "VisIdInt": 0.4})
    assert words.startswith("The requested associations survive")
    assert "0 of 2 forgetting metrics came within 20% of Clean." in words


def test_a_star_marks_what_the_verdict_looks_at():
    comparison = compare_records(references())
    judged = {metric.name for metric in comparison.metrics if metric.judged}
    assert {"RetFail", "AssocStr", "InterIdSim", "GenKnow"} <= judged
    assert "VisIdInt" not in judged


def test_a_failed_run_says_why_and_no_more():
    assert _words({}, status="failed", error="boom") == "The run ended with an error. Holds no rank. boom"
