"""What pages say to people: times, names of files, models that there are, and a chart that needs no script."""

import doctest

import pytest

from salmu_core.comparison.leaderboard import VERDICTS
from salmu_deletion import wording
from salmu_deletion.chart import dot_chart
from salmu_deletion.wording import file_name, outcome_of, when, without_clean


def test_examples_in_docstrings_hold():
    tried = doctest.testmod(wording)
    assert (tried.failed, tried.attempted >= 4) == (0, True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-30T23:59:59+00:00", "30 November 2026, 23:59 UTC"),
        ("2026-11-30T23:59:59+02:00", "30 November 2026, 21:59 UTC"),
        ("2026-11-30T23:59:59", "30 November 2026, 23:59 UTC"),
    ],
)
def test_times_are_those_of_a_calendar(text, shown):
    assert when(text) == shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (
            "RetFail is 0.1: 20% of the way from Clean (0.0) to Compromised (0.3) is left.",
            "RetFail is 0.1: 20% of the way from never learned (0.0) to the model before (0.3) is left.",
        ),
        (
            "Kept. Clean and Compromised cannot be told apart.",
            "Kept. Never learned and the model before cannot be told apart.",
        ),
        ("left out: Clean (0.1) is near.", "left out: never learned (0.1) is near."),
        ("Cleaning is no model.", "Cleaning is no model."),
    ],
)
def test_no_sentence_is_about_a_clean_model_that_there_is_not(words, shown):
    assert without_clean(words) == shown


@pytest.mark.parametrize(("path", "name"), [("/home/a/b.jpg", "b.jpg"), ("C:\\a\\b.jpg", "b.jpg"), ("b.jpg", "b.jpg")])
def test_pages_name_files_and_no_folders(path, name):
    assert file_name(path) == name


def test_every_verdict_answers_a_request():
    assert {outcome_of(verdict) for verdict in VERDICTS} == {"good", "part", "bad", "unknown"}
    assert outcome_of("selective") == "good"
    assert outcome_of("ineffective") == "bad"


def test_the_chart_marks_values_on_one_axis_and_escapes_what_it_is_given():
    values = {"compromised": 0.75, "unlearned": 0.25, "clean": None}
    drawn = dot_chart([("<b>", values), ("nothing", {"clean": None})], "words", low=0, high=1)
    assert 'class="compromised" style="left:75.0%"' in drawn
    assert 'class="unlearned" style="left:25.0%"' in drawn
    assert 'class="line" style="left:25.0%;width:50.00%"' in drawn
    assert 'class="clean"' not in drawn
    assert "&lt;b&gt;" in drawn
    assert "nothing" not in drawn
    places = dot_chart([("a", {"unlearned": 10})], "words", low=1, high=100, log=True)
    assert 'style="left:50.0%"' in places
    assert dot_chart([("a", {"clean": None})], "words", low=0, high=1) == ""
