"""Gaps, verdicts and the overall score, against numbers worked out by hand and the paper's own readings."""

import pytest

from records import CLEAN, COMPROMISED, record, references, scores
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.falls import Fall
from salmu_core.comparison.gaps import gap_of, gaps_of, not_informative
from salmu_core.comparison.overall import basis, overall_score
from salmu_core.comparison.verdict import judge

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


def _overall(values):
    return overall_score(scores(values), CLEAN_SCORES, COMPROMISED_SCORES)


@pytest.mark.parametrize(
    ("values", "overall"),
    [
        (COMPROMISED, 0.0),
        (CLEAN, 0.0),  # it never knew the holdouts: kept is 0
        (_with(RetFail=0.001, AssocStr=0.1417), 1.0),
        # Half of each forgetting metric's way: forgotten .5, everything else kept.
        (_with(RetFail=0.1185, AssocStr=0.2316), 0.5),
        # RetFail at Clean, AssocStr untouched: the worst of 1 and 0.
        (_with(RetFail=0.001), 0.0),
        # As far past Clean as half of the way is as bad as half of the way: AssocStr .1417 - .0899.
        (_with(RetFail=0.001, AssocStr=0.0518), 0.5),
        # The worse holdout counts: InterIdSim lost 1/4 of .178, IntraIdSim 1/2.
        (_with(RetFail=0.001, AssocStr=0.1417, InterIdSim=0.2765, IntraIdSim=0.232), 0.5),
        # Retained and general metrics by what is left of their level: VisIdInt at half of .3052, GenKnow at half of .638 - .001.
        (_with(RetFail=0.001, AssocStr=0.1417, VisIdInt=0.1526), 0.5),
        (_with(RetFail=0.001, AssocStr=0.1417, VisIdInt=0.1526, GenKnow=0.3195), 0.25),
        # More than Compromised has is no loss, and no gain either.
        (_with(RetFail=0.001, AssocStr=0.1417, VisIdInt=0.4, GenKnow=0.7), 1.0),
        (_with(RetFail=0.9, AssocStr=-0.9, InterIdSim=-0.9), 0.0),
    ],
)
def test_overall_is_forgotten_times_kept_times_general(values, overall):
    assert _overall(values) == pytest.approx(overall, abs=2e-3)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_nothing_between_compromised_and_clean_scores_above_a_quarter(share):
    between = {name: COMPROMISED[name] + share * (CLEAN[name] - COMPROMISED[name]) for name in CLEAN}
    # t (1 - t), less what GenKnow and VisIdInt lose: .005 of .637 at most.
    assert _overall(between) == pytest.approx(share * (1 - share), abs=0.003)
    assert _overall(between) <= 0.25


def test_metrics_that_the_benchmark_does_not_name_count_only_when_asked_for():
    def named(values, **weights):
        return {name: score.model_copy(update={"weight": weights.get(name, 1.0)}) for name, score in scores(values).items()}

    half = named(_with(RetFail=0.001, AssocStr=0.2316))  # half of AssocStr's way
    clean, compromised = named(CLEAN, AssocStr=0.0), named(COMPROMISED, AssocStr=0.0)
    assert overall_score(half, named(CLEAN), named(COMPROMISED)) == pytest.approx(0.5)
    assert overall_score(half, clean, compromised) == pytest.approx(1.0)
    assert float(basis(clean, compromised, ["AssocStr"]).of(half).overall) == pytest.approx(0.5)
    # What is not counted is not judged by either.
    assert judge(record("m", _with(RetFail=0.001)), clean, compromised).name == "selective"


def test_a_model_that_lacks_a_metric_that_counts_has_no_overall_score():
    lacking = {name: value for name, value in COMPROMISED.items() if name != "AssocStr"}
    assert _overall(lacking) is None
    assert basis(CLEAN_SCORES, COMPROMISED_SCORES).missing(scores(lacking)) == ["AssocStr"]


def test_a_metric_whose_references_agree_counts_nowhere():
    clean = scores({**CLEAN, "AssocStr": 0.4})
    compromised = scores(_with(AssocStr=0.4007))
    far = scores(_with(RetFail=0.001, AssocStr=0.8))
    assert "AssocStr" not in gaps_of(far, clean, compromised)
    assert overall_score(far, clean, compromised) == pytest.approx(1.0)
    assert "0.001 apart" in basis(clean, compromised).left_out["AssocStr"]
    run = record("m", _with(RetFail=0.001, AssocStr=0.8))
    assert judge(run, clean, compromised).name == "selective"


def test_overlapping_intervals_make_a_metric_uninformative_and_separate_ones_do_not():
    # Intervals are 0.01 to either side.
    assert "overlap" in (
        not_informative("M", scores({"RetFail": 0.2})["RetFail"], scores({"RetFail": 0.219})["RetFail"]) or ""
    )
    assert not_informative("M", scores({"RetFail": 0.2})["RetFail"], scores({"RetFail": 0.221})["RetFail"]) is None
    # A general metric is measured against chance (.001), not against Clean.
    assert not_informative("M", scores({"GenKnow": 0.63})["GenKnow"], scores({"GenKnow": 0.63})["GenKnow"]) is None
    assert "chance" in (
        not_informative("M", scores({"GenKnow": 0.005})["GenKnow"], scores({"GenKnow": 0.005})["GenKnow"]) or ""
    )
    below = scores({"GenKnow": 0.0})["GenKnow"]
    assert "does no better than chance (0.001)" in (not_informative("M", below, below) or "")


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
    # The four columns that the table has: nothing is known of the others.
    run = record(name, {"RetFail": ret, "GenKnow": gen, "InterIdSim": inter, "IntraIdSim": intra})
    assert judge(run, CLEAN_SCORES, COMPROMISED_SCORES).name == reading


@pytest.mark.parametrize(
    ("values", "more", "verdict"),
    [
        (_with(), {}, "no effect"),
        (_with(RetFail=0.001), {"weight_change": 0.0}, "no effect"),
        (_with(RetFail=0.15), {}, "ineffective"),
        (_with(RetFail=0.01, AssocStr=0.15), {}, "selective"),
        # Past Clean nothing is left.
        (_with(RetFail=0.01, AssocStr=0.10), {}, "selective"),
        # AssocStr keeps 24 %: the rest is kept, and not all is forgotten.
        (_with(RetFail=0.01, AssocStr=0.185), {}, "ineffective"),
        # 60 % of AssocStr and 4 % of RetFail are left: a mean of 32 %, and the holdouts are what fails first.
        (_with(RetFail=0.01, AssocStr=0.25, IntraIdSim=0.29), {}, "over-generalised"),
        # 72 % of AssocStr: a mean of 38 %, and whatever is lost besides, it has not forgotten.
        (_with(RetFail=0.01, AssocStr=0.271, IntraIdSim=0.29), {}, "ineffective"),
        (_with(RetFail=0.01, AssocStr=0.15, IntraIdSim=0.29), {}, "over-generalised"),
        # 3 % of .637 is .0191.
        (_with(RetFail=0.01, GenKnow=0.618), {}, "catastrophic"),
        (_with(RetFail=0.01, AssocStr=0.15, GenKnow=0.620), {}, "selective"),
        (_with(RetFail=0.01), {"status": "diverged", "error": "nan at step 3"}, "diverged"),
        ({}, {"status": "failed", "error": "boom\ntrace"}, "failed"),
        ({"RetFail": 0.01, "InterIdSim": 0.32}, {}, "unknown"),
    ],
)
def test_verdict_thresholds(values, more, verdict):
    found = judge(record("m", values, **more), CLEAN_SCORES, COMPROMISED_SCORES)
    assert found.name == verdict
    assert found.reason


def test_numbers_of_a_reason_are_short():
    run = record("m", _with(), weight_change=0.00022534552108002538)
    reason = judge(run, CLEAN_SCORES, COMPROMISED_SCORES).reason
    assert reason == "No metric's gap moved by more than 0.000; weights changed by 0.00023."
    unknown = run.model_copy(update={"weight_change": None})
    assert judge(unknown, CLEAN_SCORES, COMPROMISED_SCORES).reason == "No metric's gap moved by more than 0.000."


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
    values = _with(RetFail=0.01, AssocStr=0.15, GenKnow=0.58)
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


def test_a_fall_is_judged_by_its_share_of_the_level_and_by_a_paired_test():
    run = record("m", _with(RetFail=0.01, AssocStr=0.15, GenKnow=0.6))  # .038 of .637: 6 %
    judged = [judge(run, CLEAN_SCORES, COMPROMISED_SCORES, falls={"GenKnow": Fall(p, 100)}) for p in (0.2, 0.01)]
    assert [verdict.name for verdict in judged] == ["selective", "catastrophic"]
    assert "p = 0.010" in judged[1].reason
    # A third of the level is gone: no test is needed.
    ruined = record("m", _with(RetFail=0.01, AssocStr=0.15, GenKnow=0.4))
    assert judge(ruined, CLEAN_SCORES, COMPROMISED_SCORES, falls={"GenKnow": Fall(0.2, 5)}).name == "catastrophic"


def test_the_fall_that_the_paper_allows_is_the_same_share_at_every_level():
    """.02 at .638, and at mini's .967 .03: Clean fell by .0208 there and is not ruined."""

    def general(value):
        score = COMPROMISED_SCORES["GenKnow"]
        return {
            "GenKnow": score.model_copy(update={"value": value, "chance": 1 / 48, "low": value - 0.01, "high": value + 0.01})
        }

    before = {**COMPROMISED_SCORES, **general(0.9667)}
    for value, verdict in ((0.9458, "selective"), (0.93, "catastrophic")):
        run = record("m", _with(RetFail=0.01, AssocStr=0.15))
        run = run.model_copy(update={"scores": {**run.scores, **general(value)}})
        assert judge(run, CLEAN_SCORES, before).name == verdict
