"""Rows against each other: ties, ranks, several instances, and what comparisons of single runs may claim."""

from pathlib import Path

import numpy as np
import pytest

from records import CLEAN, COMPROMISED, record, references, write_rows
from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadRecord

METRICS = ("RetFail", "AssocStr", "InterIdSim", "IntraIdSim", "GenKnow", "VisIdInt")


def _values(**changes):
    """All is as in Compromised but AssocStr, which is forgotten: the worst forgetting metric counts, so RetFail decides."""
    return {**COMPROMISED, "AssocStr": CLEAN["AssocStr"], **changes}


def _runs(method, values, spread=0.0, seeds=5, **more):
    """Runs whose RetFail lies around a value, in steps of `spread`."""
    steps = np.linspace(-1, 1, seeds) if seeds > 1 else [0.0]
    return [record(method, _values(RetFail=values + spread * step), seed=n, **more) for n, step in enumerate(steps)]


def _row(comparison, title):
    return next(row for row in comparison.rows if row.title == title)


def test_rows_that_cannot_be_told_apart_share_a_rank():
    runs = [*_runs("a", 0.10, 0.03), *_runs("b", 0.105, -0.031), *_runs("c", 0.20, 0.001)]
    comparison = compare_records([*references(), *runs])
    assert [(row.title, row.place, row.tie_group) for row in comparison.rows[2:]] == [
        ("a", "=1", 1),
        ("b", "=1", 1),
        ("c", "3", 2),
    ]
    assert comparison.between("a", "b").outcome == "tie"
    assert (_row(comparison, "a").wins, _row(comparison, "a").ties, _row(comparison, "c").losses) == (1, 1, 2)


def test_a_difference_seen_from_the_other_side_is_turned():
    comparison = compare_records([*references(), *_runs("a", 0.05, 0.001), *_runs("b", 0.2, 0.001)])
    there, back = comparison.between("a", "b"), comparison.between("b", "a")
    assert (there.outcome, back.outcome) == ("better", "worse")
    assert back.difference == -there.difference
    assert (back.low, back.high) == (-there.high, -there.low)
    assert (there.wins, there.losses) == (back.losses, back.wins) == (1, 0)
    assert back.metrics["RetFail"].outcome == "worse"
    assert back.metrics["RetFail"].low == -there.metrics["RetFail"].high
    assert comparison.between("a", "nobody") is None


def test_single_runs_say_that_seeds_are_not_covered_and_claim_little():
    runs = [record("near", _values(RetFail=0.1, AssocStr=0.22)), record("far", _values(RetFail=0.13, AssocStr=0.24))]
    comparison = compare_records([*references(), *runs])
    found = comparison.between("near", "far")
    assert 0.05 < found.difference < 0.19
    assert (found.outcome, found.unit, found.units) == ("tie", "single run", 1)
    assert [row.place for row in comparison.rows[2:]] == ["=1", "=1"]
    assert "training-seed noise is not covered" in comparison.testing
    # The same difference over five seeds that hardly vary is a difference.
    runs = [r.model_copy(update={"spec": r.spec.model_copy(update={"seed": seed})}) for r in runs for seed in range(5)]
    comparison = compare_records([*references(), *runs])
    assert comparison.between("near", "far").outcome == "better"
    assert [row.place for row in comparison.rows[2:]] == ["1", "2"]
    assert "5 training seeds" in comparison.testing


def test_no_difference_below_what_hardware_makes_is_called():
    comparison = compare_records([*references(), *_runs("a", 0.1), *_runs("b", 0.1 + 1e-5)])
    found = comparison.between("a", "b")
    assert found.corrected < 0.05
    assert found.outcome == "tie"


def test_runs_are_paired_by_seed():
    noise = np.array([0.03, -0.04, 0.01, 0.05, -0.02])
    runs = [record("a", _values(RetFail=0.15 + e), seed=n) for n, e in enumerate(noise)]
    runs += [record("b", _values(RetFail=0.17 + e + 1e-4 * n), seed=n) for n, e in enumerate(noise)]
    assert compare_records([*references(), *runs]).between("a", "b").outcome == "better"
    shuffled = [r if r.spec.method == "a" else r.model_copy(update={"spec": r.spec.model_copy(update={"seed": (r.spec.seed + 2) % 5})}) for r in runs]  # fmt: skip
    assert compare_records([*references(), *shuffled]).between("a", "b").outcome == "tie"


def _instance(seed, records, shift=0.0):
    """The same records as of another instance, every score shifted."""
    return [
        r.model_copy(
            update={
                "spec": r.spec.model_copy(update={"benchmark_options": {"seed": seed, "identities": 4}}),
                "provenance": r.provenance.model_copy(update={"data_fingerprint": f"d{seed}"}),
                "scores": {n: s.model_copy(update={"value": s.value + shift}) for n, s in r.scores.items()},
            }
        )
        for r in records
    ]


def test_instances_are_pooled_and_each_run_is_measured_against_its_own_references():
    runs = [*_runs("a", 0.1185, 0.01, seeds=2), *_runs("b", 0.2, 0.01, seeds=2)]
    records = [r for seed, shift in ((2, 0.2), (0, 0.0), (1, 0.1)) for r in _instance(seed, [*references(), *runs], shift)]
    comparison = compare_records(records)
    assert comparison.bench_seeds == (0, 1, 2)
    assert comparison.benchmark_options == {"seed": [0, 1, 2], "identities": 4}
    row = _row(comparison, "a")
    assert (row.runs, row.seeds, row.bench_seeds) == (6, (0, 1), (0, 1, 2))
    assert row.cells["RetFail"].value == pytest.approx(0.2185)
    assert row.cells["RetFail"].gap == pytest.approx(0.5)
    assert _row(comparison, "Clean").cells["RetFail"].value == pytest.approx(0.101)
    assert _row(comparison, "Compromised").cells["RetFail"].gap == pytest.approx(1.0)
    found = comparison.between("a", "b")
    assert (found.unit, found.units) == ("bench seed", 3)
    assert row.command.startswith("salmu compare a --benchmark mini --seeds 0,1 --bench-seeds 0,1,2")


def test_a_missing_reference_of_one_instance_is_named():
    records = [*_instance(0, [*references(), record("a", _values(RetFail=0.1))]), *_instance(1, [references()[1], record("a", _values(RetFail=0.1))])]  # fmt: skip
    comparison = compare_records(records)
    assert any("Clean reference row of bench seed 1 is missing" in n and "--bench-seed 1" in n for n in comparison.notes)
    assert _row(comparison, "a").cells["RetFail"].gap is None


def test_other_options_and_other_data_of_one_seed_still_share_no_table():
    first = _instance(0, references())
    other = [r.model_copy(update={"spec": r.spec.model_copy(update={"benchmark_options": {"seed": 1, "identities": 9}})}) for r in _instance(1, references())]  # fmt: skip
    with pytest.raises(BadRecord, match="2 different benchmarks"):
        compare_records([*first, *other])
    with pytest.raises(BadRecord, match="2 different benchmarks"):
        compare_records([*first, *(r.model_copy(update={"provenance": r.provenance.model_copy(update={"data_fingerprint": "x"})}) for r in first)])  # fmt: skip


def _with_rows(folder: Path, records, people):
    """Each record with rows of which its scores are the means: one for each person, who differ as `people` do."""
    folders, kept = [], []
    for number, r in enumerate(records):
        place = folder / str(number)
        place.mkdir()
        arrays = {}
        for name in METRICS:
            arrays[f"{name}/rows"] = r.scores[name].value + people[name]
            arrays[f"{name}/cluster"] = np.arange(len(people[name]))
        write_rows(place, arrays)
        folders.append(place)
        kept.append(r.model_copy(update={"rows_file": "rows.safetensors"}))
    return kept, folders


def test_identities_are_resampled_where_rows_were_kept(tmp_path):
    rng = np.random.default_rng(0)
    people = {name: (x := rng.normal(scale=0.05, size=12)) - x.mean() for name in METRICS}
    records = [*references(), *_runs("a", 0.10, 0.01), *_runs("b", 0.12, 0.0101)]
    records, folders = _with_rows(tmp_path, records, people)
    plain, resampled = compare_records(records), compare_records(records, folders)
    assert plain.between("a", "b").identity_low is None
    assert "kept no rows" in plain.testing
    assert "kept no rows" not in resampled.testing
    there, here = resampled.between("a", "b"), plain.between("a", "b")
    # Every person moves both methods and both references alike, so next to nothing is left of them in the difference.
    assert there.difference == here.difference
    assert there.identity_low < there.difference < there.identity_high
    assert there.high - there.low == pytest.approx(here.high - here.low, rel=0.05)


def test_people_whom_methods_treat_differently_widen_the_interval(tmp_path):
    rng = np.random.default_rng(1)
    people = {name: np.zeros(12) for name in METRICS}
    records, folders = _with_rows(tmp_path, [*references(), *_runs("a", 0.10, 0.01), *_runs("b", 0.12, 0.0101)], people)
    narrow = compare_records(records, folders).between("a", "b")
    for r, place in zip(records, folders, strict=True):
        if r.spec.method == "b":
            own = rng.normal(scale=0.2, size=12)
            arrays = {f"{name}/rows": np.full(12, r.scores[name].value) for name in METRICS}
            arrays["RetFail/rows"] = arrays["RetFail/rows"] + own - own.mean()
            arrays |= {f"{name}/cluster": np.arange(12) for name in METRICS}
            write_rows(place, arrays)
    wide = compare_records(records, folders).between("a", "b")
    assert wide.identity_high - wide.identity_low > 10 * (narrow.identity_high - narrow.identity_low)
    assert wide.high - wide.low > 1.1 * (narrow.high - narrow.low)


def test_every_row_carries_a_command_that_remakes_all_of_it():
    runs = [record("m", _values(RetFail=0.1), seed=n, options={"lr": 1e-4, "layers": [1, 2]}, budget=5.0) for n in (0, 1)]
    runs = [r.model_copy(update={"provenance": r.provenance.model_copy(update={"command": f"salmu run m --seed {r.spec.seed}"})}) for r in runs]  # fmt: skip
    comparison = compare_records([*references(), *runs, record("n", _values(RetFail=0.2))])
    words = "salmu compare m --benchmark mini --seeds 0,1 --budget 5 --set m.lr=0.0001 --set 'm.layers=[1, 2]' --preset none"
    assert _row(comparison, "m 5x").command == words
    assert _row(comparison, "n").command == "salmu run n"
    assert all(row.command for row in comparison.rows)
    assert {"RetFail": CLEAN["RetFail"]} == {"RetFail": _row(comparison, "Clean").cells["RetFail"].value}


def test_only_so_many_rows_are_compared_and_the_others_hold_no_rank(monkeypatch):
    monkeypatch.setattr("salmu_core.comparison.compare.MOST_COMPARED", 2)
    runs = [*_runs("a", 0.10, 0.001), *_runs("b", 0.15, 0.001), *_runs("c", 0.20, 0.001)]
    comparison = compare_records([*references(), *runs])
    assert [(row.title, row.place) for row in comparison.rows[2:]] == [("a", "1"), ("b", "2"), ("c", "")]
    assert [(d.row, d.other) for d in comparison.differences] == [("a", "b")]
    assert any("best 2 of 3 rows" in note for note in comparison.notes)


def test_rows_that_differ_in_their_start_alone_have_titles_of_their_own():
    runs = [record("a", _values(RetFail=0.1), seed=n, start=start) for n in (0, 1) for start in ("compromised", "clean")]
    comparison = compare_records([*references(), *runs])
    assert {row.title: row.runs for row in comparison.rows[2:]} == {"a": 2, "a from Clean": 2}
    assert len(comparison.differences) == 1
