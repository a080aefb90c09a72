"""Gaps, verdicts and the overall score, against numbers worked out by hand and the paper's own readings."""

import pytest

from records import CLEAN, COMPROMISED, record, references, scores
from salmu_core.records.compare import compare_records
from salmu_core.records.gaps import gap_of, gaps_of
from salmu_core.records.overall import metric_weights, overall_score
from salmu_core.records.verdict import judge

CLEAN_SCORES, COMPROMISED_SCORES = scores(CLEAN), scores(COMPROMISED)


def _with(**changes):
    return {**COMPROMISED, **changes}


@pytest.mark.parametrize(
    ("metric", "value", "gap"),
    [
        ("RetFail", 0.001, 0.0),  # at Clean
        ("RetFail", 0.236, 1.0),  # at Compromised
        ("AssocStr", 0.1417 - 0.0899, 0.5),  # below Clean counts as far away too: scale is .1798
        ("InterIdSim", 0.321, 0.0),
        ("InterIdSim", 0.143, 1.0),
        ("GenKnow", 0.638 - 0.0637, 0.1),  # scale is .638 - .001
        ("VisIdInt", 0.3052 / 2, 0.5),  # scale is .3052 - 0
    ],
)
def test_gap(metric, value, gap):
    score = scores({metric: value})[metric]
    assert gap_of(score, CLEAN_SCORES[metric], COMPROMISED_SCORES[metric]) == pytest.approx(gap, abs=1e-9)


def test_weights_are_half_for_forgetting_and_half_for_the_rest():
    weights = metric_weights(COMPROMISED_SCORES)
    assert weights["RetFail"] == weights["AssocStr"] == 0.25
    assert weights["GenKnow"] == weights["VisIdInt"] == 0.125
    assert sum(weights.values()) == pytest.approx(1)


def test_overall_is_0_at_compromised_1_at_the_ideal_point_and_negative_beyond():
    weights = metric_weights(COMPROMISED_SCORES)
    start = gaps_of(COMPROMISED_SCORES, CLEAN_SCORES, COMPROMISED_SCORES)

    def overall(values):
        return overall_score(gaps_of(scores(values), CLEAN_SCORES, COMPROMISED_SCORES), start, weights)

    assert overall(COMPROMISED) == pytest.approx(0)
    assert overall(_with(RetFail=0.001, AssocStr=0.1417)) == pytest.approx(1)
    # Clean: forgetting gaps 0, holdout gaps 1 each with weight 1/8, GenKnow and VisIdInt small: 1 - sqrt(.25+...)/sqrt(.5).
    small = (0.125 * (0.005 / 0.637) ** 2 + 0.125 * (0.0256 / 0.3052) ** 2 + 0.25) ** 0.5
    assert overall(CLEAN) == pytest.approx(1 - small / 0.5**0.5)
    assert overall(_with(RetFail=0.9, AssocStr=-0.9, InterIdSim=-0.9)) < 0


#: SALMUBench's published 5x table: RetFail, GenKnow, InterIdSim, IntraIdSim, and the paper's reading.
PUBLISHED = {
    "CLIPErase": (0.001, 0.634, 0.024, 0.024, "over-generalised"),
    "DELETE": (0.001, 0.632, 0.023, 0.023, "over-generalised"),
    "VLUnlearn": (0.001, 0.638, 0.210, 0.210, "over-generalised"),
    "Finetuning": (0.003, 0.638, 0.209, 0.209, "over-generalised"),
    "Negative gradient": (0.009, 0.630, 0.063, 0.061, "over-generalised"),
    "Shuffled captions": (0.004, 0.548, 0.212, 0.212, "catastrophic"),
    "Direct similarity minimisation": (0.001, 0.615, -0.420, -0.425, "catastrophic"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_verdicts_agree_with_the_papers_reading_of_its_table(name):
    ret, gen, inter, intra, reading = PUBLISHED[name]
    run = record(name, _with(RetFail=ret, GenKnow=gen, InterIdSim=inter, IntraIdSim=intra))
    assert judge(run, CLEAN_SCORES, COMPROMISED_SCORES).name == reading


@pytest.mark.parametrize(
    ("values", "more", "verdict"),
    [
        (_with(), {}, "no effect"),
        (_with(RetFail=0.001), {"weight_change": 0.0}, "no effect"),
        (_with(RetFail=0.15), {}, "ineffective"),
        (_with(RetFail=0.01, AssocStr=0.15), {}, "selective"),
        (_with(RetFail=0.01, IntraIdSim=0.29), {}, "over-generalised"),
        (_with(RetFail=0.01, GenKnow=0.617), {}, "catastrophic"),
        (_with(RetFail=0.01), {"status": "diverged", "error": "nan at step 3"}, "diverged"),
        ({}, {"status": "failed", "error": "boom\ntrace"}, "failed"),
        ({"RetFail": 0.01, "InterIdSim": 0.32}, {}, "unknown"),
    ],
)
def test_verdict_thresholds(values, more, verdict):
    found = judge(record("m", values, **more), CLEAN_SCORES, COMPROMISED_SCORES)
    assert found.name == verdict
    assert found.reason


def test_a_collapsed_or_unchanged_model_never_ranks_first_whatever_its_overall_score():
    good = record("good", _with(RetFail=0.05, AssocStr=0.25, InterIdSim=0.2, IntraIdSim=0.2))
    collapsed = record("collapsed", _with(RetFail=0.001, AssocStr=0.1417, GenKnow=0.61))
    unchanged = record("unchanged", _with(RetFail=0.001, AssocStr=0.1417), weight_change=0.0)
    rows = {row.title: row for row in compare_records([*references(), collapsed, unchanged, good]).rows}
    assert rows["collapsed"].overall > rows["good"].overall
    assert rows["good"].rank == 1
    assert rows["collapsed"].rank is None
    assert rows["unchanged"].rank is None


def test_a_general_metric_may_tolerate_another_fall():
    values = _with(RetFail=0.01, GenKnow=0.58)
    steep = {name: score.model_copy(update={"tolerance": 0.1}) for name, score in COMPROMISED_SCORES.items()}
    run = record("m", values)
    tolerant = run.model_copy(
        update={"scores": {name: score.model_copy(update={"tolerance": 0.1}) for name, score in run.scores.items()}}
    )
    assert judge(run, CLEAN_SCORES, COMPROMISED_SCORES).name == "catastrophic"
    assert judge(tolerant, CLEAN_SCORES, steep).name != "catastrophic"
    fallen = {**tolerant.scores, "GenKnow": tolerant.scores["GenKnow"].model_copy(update={"value": 0.5})}
    found = judge(tolerant.model_copy(update={"scores": fallen}), CLEAN_SCORES, steep)
    assert found.name == "catastrophic"
    assert "more than 0.1" in found.reason
