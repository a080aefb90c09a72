"""Methods that draw nothing and rows that are one model: shown once, tested once."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from records import COMPROMISED, record, references, write_rows
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.selection import broken
from salmu_core.comparison.steady import is_deterministic, same_rows
from salmu_core.report.markdown import render_markdown
from salmu_core.report.report import render_html
from salmu_core.report.table import leaderboard_renderables


def _run(method, retfail, weights, **more):
    made = record(method, {**COMPROMISED, "RetFail": retfail, "AssocStr": 0.1417}, **more)
    model = {} if weights is None else {"image": "same", "text": weights}
    return made.model_copy(update={"provenance": made.provenance.model_copy(update={"model_fingerprint": model})})


def _steady(method, retfail, **more):
    return [_run(method, retfail, method, seed=seed, **more) for seed in range(3)]


def _drawn(method, retfail):
    return [_run(method, retfail + 0.01 * seed, f"{method}{seed}", seed=seed) for seed in range(3)]


def _row(comparison, title):
    return next(row for row in comparison.rows if row.title == title)


def test_seeds_that_change_nothing_are_no_spread_and_those_that_do_are():
    comparison = compare_records([*references(), *_steady("a", 0.1), *_drawn("b", 0.1)])
    a, b = _row(comparison, "a"), _row(comparison, "b")
    assert (a.deterministic, a.overall_sd, a.cells["RetFail"].sd, a.runs) == (True, None, None, 3)
    assert not b.deterministic
    assert b.overall_sd > 0
    assert b.cells["RetFail"].sd == pytest.approx(0.01)
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in leaderboard_renderables(comparison, 160):
        console.print(part)
    assert "(deterministic)" in console.export_text()
    assert "±.000" not in console.export_text().split("Against")[0]
    assert "| a (deterministic) |" in render_markdown(comparison)
    assert render_html(comparison).count(">deterministic</span>") == 1


def test_one_seed_says_nothing_of_others_and_unknown_weights_nothing_at_all():
    assert not is_deterministic([("", _run("a", 0.1, "w"))])
    assert not is_deterministic([("", _run("a", 0.1, None, seed=seed)) for seed in range(2)])
    assert is_deterministic([("0", _run("a", 0.1, "w")), ("1", _run("a", 0.1, "x")), ("1", _run("a", 0.1, "x", seed=1))])


def test_rows_of_equal_weights_are_one_row_and_one_comparison():
    records = [
        *references(),
        *_steady("a", 0.1),
        *[_run("a", 0.1, "a", seed=s, budget=5.0) for s in range(3)],
        *_drawn("b", 0.1),
    ]
    comparison = compare_records(records)
    assert [row.title for row in comparison.rows if row.kind == "run"] == ["a", "b"]
    assert _row(comparison, "a").same_as == ("a 5x",)
    assert len(comparison.differences) == 1
    assert "a stands for a 5x" in " ".join(comparison.notes)
    assert comparison.between("a 5x", "b") == comparison.between("a", "b")
    assert "the same: a 5x" in render_html(comparison)
    assert "the same: a 5x" in render_markdown(comparison)


def test_conditions_may_name_a_row_that_another_stands_for():
    records = [*references(), *_steady("a", 0.1), *[_run("a", 0.1, "a", seed=s, budget=5.0) for s in range(3)]]
    comparison = compare_records(records)
    assert broken(comparison, ["a 5x: RetFail<=0.2"], []) == []
    assert broken(comparison, ["a 5x: RetFail<=0.05"], []) == ["a: --require 'a 5x: RetFail<=0.05', but RetFail is 0.1."]


def test_a_control_and_a_method_of_equal_weights_keep_their_rows():
    control = [run.model_copy(update={"family": "control"}) for run in _steady("a", 0.1)]
    method = [_run("m", 0.1, "a", seed=seed) for seed in range(3)]
    comparison = compare_records([*references(), *control, *method])
    assert {row.title for row in comparison.rows if row.kind == "run"} == {"a", "m"}


def test_equal_on_one_instance_alone_is_not_equal():
    def runs(second):
        return [("0", _run("a", 0.1, "w")), ("1", _run("a", 0.1, second))]

    assert same_rows({"a": (0, runs("x")), "b": (0, runs("y"))}) == {}
    assert same_rows({"a": (0, runs("x")), "b": (0, runs("x")), "c": (1, runs("x"))}) == {"b": "a"}


def _with_people(folder: Path, records, scale: float):
    rng = np.random.default_rng(0)
    folders = []
    kept = []
    for number, one in enumerate(records):
        place = folder / str(number)
        place.mkdir(parents=True)
        own = rng.normal(scale=scale, size=40)
        arrays = {f"{name}/rows": score.value + own - own.mean() for name, score in one.scores.items()}
        arrays |= {f"{name}/cluster": np.arange(40) for name in one.scores}
        write_rows(place, arrays)
        folders.append(place)
        kept.append(one.model_copy(update={"rows_file": "rows.safetensors"}))
    return kept, folders


def test_two_deterministic_methods_are_judged_by_people_and_not_by_repetitions(tmp_path):
    records = [*references(), *_steady("a", 0.10), *_steady("b", 0.12)]
    comparison = compare_records(records)
    found = comparison.between("a", "b")
    # Three equal differences are one: without rows of people, and with seeds known to do nothing, the assumed noise stays.
    assert (found.units, found.unit, found.outcome) == (1, "deterministic", "tie")
    near, far = ({} for _ in range(2))
    for name, scale, into in (("near", 0.002, near), ("far", 0.2, far)):
        kept, folders = _with_people(tmp_path / name, records, scale)
        into["found"] = compare_records(kept, folders)
    assert near["found"].between("a", "b").outcome == "better"
    assert far["found"].between("a", "b").outcome == "tie"
    assert "Every seed gives the same models" in near["found"].testing


def test_a_deterministic_method_is_compared_with_every_seed_of_another():
    comparison = compare_records([*references(), *_steady("a", 0.1), *_drawn("b", 0.1)])
    assert (comparison.between("a", "b").units, comparison.between("a", "b").unit) == (3, "training seed")
