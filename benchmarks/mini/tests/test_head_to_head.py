"""What the head-to-head makes of its runs, on small made-up ones."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from head_to_head_report import METRICS
from matrix import (
    Cell,
    against_the_best,
    cells_of,
    pareto_front,
    summarise,
    worst_verdict,
)
from paper import agreement, baselines, rank_correlations

from salmu_core.comparison.verdict import RANKED


def score(value, target, aspect):
    return {"value": value, "target": target, "aspect": aspect, "primary": True}


STORED = {
    "instance": 1,
    "references": {
        "clean": {"F": score(0.0, "clean", "forgetting"), "H": score(0.0, "compromised", "holdout"), "G": score(0.9, "compromised", "general")},
        "compromised": {"F": score(0.8, "clean", "forgetting"), "H": score(0.8, "compromised", "holdout"), "G": score(0.9, "compromised", "general")},
    },
    "runs": [
        {"id": "a", "method": "m", "seed": 0, "budget": 1.0, "status": "ok", "error": None, "weight_change": 0.1, "seconds": 2.0, "scores": {"F": 0.0, "H": 0.4, "G": 0.9}},
        {"id": "b", "method": "m", "seed": 1, "budget": 1.0, "status": "diverged", "error": "nan", "weight_change": None, "seconds": 4.0, "scores": {}},
    ],
}  # fmt: skip


def cell(method, instance, seed, overall, budget=1.0, verdict="over-generalised", scores=None):
    return Cell(method, instance, seed, budget, "ok", verdict, overall, scores or {"F": 0.1}, {"F": 0.1}, 1.0)


def test_runs_are_judged_against_the_references_of_their_own_instance():
    first, second = cells_of(STORED)
    assert first.gaps == pytest.approx({"F": 0.0, "H": 0.5, "G": 0.0})
    assert first.verdict == "over-generalised"
    # All forgotten, half of the holdouts kept, general knowledge whole.
    assert first.overall == pytest.approx(0.5)
    assert second.verdict == "diverged"
    assert np.isnan(second.overall)


def test_lost_runs_count_in_the_verdicts_and_not_in_the_means():
    [summary] = summarise(cells_of(STORED))
    assert summary.verdicts == {"over-generalised": 1, "diverged": 1}
    assert summary.cells == 2
    assert summary.seconds == 3.0
    assert summary.scores["H"] == 0.4
    assert worst_verdict(summary.verdicts) == "diverged"


def test_instances_and_seeds_are_separate_sources_of_variance():
    cells = [cell("m", instance, seed, instance + 0.1 * seed) for instance in (0, 1, 2) for seed in (0, 1, 2)]
    [summary] = summarise(cells)
    assert summary.overall == pytest.approx(1.1)
    assert summary.over_instances == pytest.approx(1.0)
    assert summary.over_seeds == pytest.approx(0.1)
    assert summary.low < 0.6
    assert summary.high > 1.6


def test_one_seed_an_instance_says_nothing_about_seeds():
    [summary] = summarise([cell("m", instance, 0, 0.1 * instance) for instance in (0, 1, 2)])
    assert summary.over_instances == pytest.approx(0.1)
    assert np.isnan(summary.over_seeds)


def test_the_best_is_ranked_and_others_are_paired_with_it():
    noise = {(i, s): 0.01 * (i - s) for i in (0, 1, 2) for s in (0, 1, 2)}
    cells = [cell("best", i, s, 0.5 + e) for (i, s), e in noise.items()]
    cells += [cell("worse", i, s, 0.4 + e + 0.001 * i) for (i, s), e in noise.items()]
    cells += [cell("unranked", i, s, 0.9, verdict="catastrophic") for (i, s) in noise]
    found = {item.method: item for item in against_the_best(cells, summarise(cells), 1.0)}
    assert found["worse"].best == "best"
    assert found["worse"].mean == pytest.approx(-0.099)
    assert found["worse"].corrected < 1e-3  # three instances, and three pairs of methods
    assert found["unranked"].mean == pytest.approx(0.4)
    assert "best" not in found


def test_correlations_with_the_paper_use_the_methods_that_both_have():
    values = {"retain-finetuning": 0.2, "gradient-ascent": 0.1, "multidelete": 0.3, "other": 0.9}
    cells = [cell(method, 0, 0, 0.5, scores={"F": value}) for method, value in values.items()]
    paper = {"Finetuning": {"F": 2.0}, "Negative gradient": {"F": 1.0}, "VLUnlearn": {"F": 3.0}, "CLIPErase": {"F": 0.0}}
    assert rank_correlations(summarise(cells), paper, 1.0) == {"F": (pytest.approx(1.0), 3)}
    paper["VLUnlearn"] = {"F": 1.5}
    assert rank_correlations(summarise(cells), paper, 1.0)["F"][0] == pytest.approx(0.5)


def test_the_rule_of_verdicts_reads_the_papers_rows_as_its_authors_do():
    read = {item.method: (item.reading, item.verdict) for item in baselines()}
    told = {method: pair for method, pair in read.items() if pair[0] in RANKED or pair[0] == "catastrophic"}
    assert len(told) == 6
    assert all(reading == verdict for reading, verdict in told.values())
    # The two without a failure mode in words lost over half of the holdouts.
    assert {read["multidelete"][1], read["retain-finetuning"][1]} == {"over-generalised"}


def test_agreement_is_of_all_runs():
    assert agreement("catastrophic", {"catastrophic": 3}) == "yes"
    assert agreement("catastrophic", {"catastrophic": 1, "over-generalised": 2}) == "in part"
    assert agreement("ineffective", {"over-generalised": 3}) == "no"


def test_the_front_holds_what_nothing_beats():
    points = {"a": (1.0, 0.0), "b": (0.5, 0.5), "c": (0.4, 0.5), "d": (0.0, 1.0), "e": (0.5, 0.5)}
    assert pareto_front(points) == {"a", "b", "d", "e"}


def test_the_committed_page_is_made_of_the_committed_results():
    from head_to_head_report import PAGE, README, page, readme

    if not PAGE.is_file():
        pytest.skip("no results are committed")
    assert page() == PAGE.read_text(encoding="utf-8")
    assert readme() == README.read_text(encoding="utf-8")


def test_names_beside_the_picture_keep_their_order_and_distance():
    from head_to_head_report import spread_out

    assert spread_out([0.0, 0.5, 1.0], 0.1) == pytest.approx([0.0, 0.5, 1.0])
    # Two at one height part evenly; the third is out of their way.
    assert spread_out([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
    moved = spread_out([0.0, 0.01, 0.02, 0.02], 0.03)
    assert np.diff(moved).min() > 0.03 - 1e-9
    assert np.mean(moved) == pytest.approx(0.0125)
    assert spread_out([0.2, 0.9, 0.95], 0.1, top=0.95) == pytest.approx([0.2, 0.85, 0.95])  # all below the top


def test_a_metric_that_says_nothing_on_an_instance_breaks_no_table():
    from head_to_head_report import points_of, spread_out

    [known, unknown] = summarise(
        [cell("a", 0, 0, 0.5, scores=dict.fromkeys(METRICS, 0.1)), cell("b", 0, 0, 0.4, scores=dict.fromkeys(METRICS, 0.1))]
    )
    assert np.isnan(unknown.gaps["RetFail"])
    known = replace(known, gaps=dict.fromkeys(METRICS, 0.1))
    assert points_of([known, unknown], 1.0) == {"a": pytest.approx((0.9, 0.9, 0.9))}
    assert spread_out([], 0.03) == []


def test_methods_are_compared_where_all_are_through_while_the_matrix_grows():
    from head_to_head_report import extent, finished_everywhere

    def run(method, budget, seed):
        return {"method": method, "budget": budget, "seed": seed}

    runs = [
        [run("a", 1.0, 0), run("b", 1.0, 0), run("a", 5.0, 0), run("b", 5.0, 0), run("a", 5.0, 1)],
        [run("a", 1.0, 0), run("b", 1.0, 0), run("b", 5.0, 0)],
    ]
    first, second = finished_everywhere(runs)
    assert first == runs[0][:4]
    assert second == runs[1][:2]
    stored = [{"instance": 0, "runs": first}, {"instance": 1, "runs": second}]
    assert extent(stored, 1.0) == "2 runs a method"
    assert extent(stored, 5.0) == "1 of 2 runs a method so far: instance 0 with training seed 0"


def test_a_run_takes_the_place_of_an_earlier_one_and_is_not_missed_again(tmp_path, monkeypatch):
    import head_to_head

    from salmu_core.records.schema import Provenance, RunRecord, RunSpec
    from salmu_core.runner.planned import plan_comparison
    from salmu_core.runner.run import Settings

    monkeypatch.setattr(head_to_head, "RESULTS", tmp_path)
    planned = plan_comparison(["gradient-ascent"], benchmark="toy", out=tmp_path / "runs", settings=Settings(cache=tmp_path))
    pair = {"clean": "weights a", "compromised": "weights b"}
    assert head_to_head.missing(planned, head_to_head.read_stored(0), pair) == [0, 1, 2]

    def record(item, identity, start=None):
        spec = item.resolved.spec
        provenance = Provenance(device="cpu", start_fingerprint={"image": start or pair[spec.start]})
        return RunRecord(id=identity, status="ok", spec=RunSpec(method=spec.method, benchmark="toy", start=spec.start), created_at="2026-01-01T00:00:00Z", provenance=provenance)  # fmt: skip

    for item in planned:
        head_to_head.keep(0, record(item, "an earlier version"))
    assert head_to_head.missing(planned, head_to_head.read_stored(0), pair) == [0, 1, 2]
    for item in planned:
        head_to_head.keep(0, record(item, item.resolved.id))
    stored = head_to_head.read_stored(0)
    assert head_to_head.missing(planned, stored, pair) == []
    assert len(stored["runs"]) == 1
    # Another machine builds the same seed with other weights: nothing that was measured on the first pair counts there.
    other = {"clean": "weights c", "compromised": "weights d"}
    assert head_to_head.missing(planned, stored, other) == [0, 1, 2]
    head_to_head.keep(0, record(planned[2], "of another seed", other["compromised"]))
    assert [run["id"] for run in head_to_head.read_stored(0)["runs"]] == ["of another seed"]


def test_the_committed_results_of_an_instance_are_of_one_pair():
    import head_to_head

    for stored in head_to_head.every_stored():
        assert {run["start"] for run in stored["runs"]} == {stored["reference_starts"]["compromised"]}
