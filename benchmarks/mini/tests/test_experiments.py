"""What the long experiments share and make of their runs, on small made-up ones: they must end in time and lose nothing."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import planned
from curves import coarse_first, driver, values_of
from curves_report import Curve, Point, at_level, curves_of, page
from old_and_new import DOCS, RESULTS, docs, rows_of, title_of

from salmu_core.comparison.verdict import Thresholds
from salmu_core.options import Between
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.schema import RunSpec
from salmu_core.runner.run import Settings
from salmu_core.spec.resolve import resolve

pytest.importorskip("salmu_audits")
pytest.importorskip("salmu_gradient_ascent")

import attacks


def _item(budget: float = 1.0, method: str = "m") -> SimpleNamespace:
    return SimpleNamespace(resolved=SimpleNamespace(spec=SimpleNamespace(budget=budget, method=method)), folder=Path("x"))


@pytest.mark.parametrize(("minutes", "kept"), [(None, 3), (0.0, 1)])
def test_runs_are_kept_as_they_end_and_none_is_begun_after_the_time(monkeypatch, capsys, minutes, kept) -> None:
    begun, closed = [], []

    def finished_runs(runs, settings, workers, threads):
        try:
            for position in range(len(runs)):
                begun.append(position)
                spec = SimpleNamespace(method="m", budget=1.0, seed=0, benchmark_options={})
                yield position, SimpleNamespace(spec=spec, status="ok")
        finally:
            closed.append(True)

    monkeypatch.setattr(planned, "finished_runs", finished_runs)
    done: list[int] = []
    left = planned.carry_out([_item(), _item(), _item()], None, 2, lambda item, record: done.append(1), minutes)  # type: ignore[arg-type,list-item]
    assert (len(done), len(begun), left, closed) == (kept, kept, 3 - kept, [True])
    assert ("The time is over: 2 of 3" in capsys.readouterr().out) == bool(left)


def test_values_span_the_range_with_two_digits() -> None:
    assert values_of(Between(1e-6, 1e-3), 4) == [1e-6, 1e-5, 1e-4, 1e-3]
    assert values_of(Between(-0.2, 0.6, log=False), 3) == [-0.2, 0.2, 0.6]
    assert coarse_first(7) == [0, 2, 4, 6, 1, 3, 5]
    assert sorted(coarse_first(6)) == list(range(6))


def test_a_rate_drives_what_trains_up_to_that_of_pretraining() -> None:
    plugins = load_plugins()
    found = driver("gradient-ascent", plugins, 2e-4)
    assert found is not None
    assert (found[0], found[1].high) == ("lr", 2e-4)
    assert driver("none", plugins, 2e-4) is None


def _curve(*points: tuple[float, float, float]) -> Curve:
    return Curve("m", "lr", 0, 1.0, tuple(Point(float(n), f, k, g, "") for n, (f, k, g) in enumerate(points)), ())


def test_what_is_kept_at_a_level_lies_on_the_line_between_two_runs() -> None:
    curve = _curve((0.2, 0.9, 1.0), (0.6, 0.5, 0.8), (0.4, 0.1, 0.2))
    assert at_level(curve, 0.1) == pytest.approx((0.95, 1.0))  # from the untouched model on
    # Reached twice, before and after the turn: the better one counts.
    assert at_level(curve, 0.5) == pytest.approx((0.6, 0.85))
    assert at_level(curve, 0.7) is None


def _score(value: float, target: str, aspect: str) -> dict[str, object]:
    return {"value": value, "target": target, "aspect": aspect, "primary": True}


def _references(forget: float, holdout: float, general: float) -> dict[str, object]:
    return {"F": _score(forget, "clean", "forgetting"), "H": _score(holdout, "compromised", "holdout"), "G": _score(general, "compromised", "general")}  # fmt: skip


def _stored() -> dict[str, object]:
    common = {"method": "m", "option": "lr", "seed": 0, "budget": 1.0, "error": None, "weight_change": 0.1, "seconds": 1.0}
    return {
        "instance": 0,
        "references": {"clean": _references(0.0, 0.0, 0.9), "compromised": _references(0.8, 0.8, 0.8)},
        "runs": [
            {**common, "id": "a", "value": 1e-4, "status": "ok", "scores": {"F": 0.2, "H": 0.6, "G": 0.9}},
            {**common, "id": "b", "value": 1e-3, "status": "ok", "scores": {"F": -0.4, "H": 0.2, "G": 0.4}},
            {**common, "id": "c", "value": 1e-2, "status": "diverged", "scores": {}},
        ],
    }


def test_a_curve_holds_the_shares_of_its_runs_and_what_diverged(tmp_path: Path) -> None:
    [curve] = curves_of(_stored())
    gentle, harsh = curve.points
    assert (gentle.forgotten, gentle.kept, gentle.general) == pytest.approx((0.75, 0.75, 1.0))  # a rise is no loss
    assert (harsh.forgotten, harsh.kept, harsh.general) == pytest.approx((1.0, 0.25, 0.5))  # past Clean is there
    assert curve.diverged == (1e-2,)
    (tmp_path / "instance-0.json").write_text(json.dumps(_stored()))
    text = page(tmp_path)
    assert "| m | lr | 0.83 (0.83, 1.00) |" in text
    assert "m (lr 0.01)" in text


def _attacked(title: str, instance: int, share: float | None, *, counts: bool = True) -> dict[str, object]:
    one = {"audit": "a", "clean": 0.0, "compromised": 0.5, "seconds": 2.0, "samples": 10, "references": [], "reason": None}
    return {"instance": instance, "title": title, "id": "x", "verdict": "selective", "attacks": [{**one, "recovered": share, "counts": counts}]}  # fmt: skip


def test_models_that_never_learned_are_clean_trained_on_with_retain_pairs(tmp_path: Path) -> None:
    pytest.importorskip("salmu_retain_finetuning")
    found = attacks.never_learned([0, 1], {"size": "tiny"}, tmp_path, Settings(cache=tmp_path), load_plugins())
    assert [attacks.title_of(item) for item in found] == [f"{attacks.NEVER}, seed 0", f"{attacks.NEVER}, seed 1"]  # type: ignore[arg-type]
    assert {item.resolved.spec.start for item in found} == {"clean"}
    assert len({item.folder for item in found}) == 2


ABOUT = {"command": "attacks.py", "version": "2", "audits": "fast"}


def test_attacked_runs_are_kept_one_by_one_and_joined_over_instances(tmp_path: Path) -> None:
    for run in (
        _attacked("m", 0, 0.1), _attacked("m", 1, 0.3), _attacked("m", 0, 0.5),
        _attacked(f"{attacks.NEVER}, seed 0", 0, 0.02), _attacked(f"{attacks.NEVER}, seed 1", 0, 0.08), _attacked("n", 0, None),
    ):  # fmt: skip
        attacks.keep(run, tmp_path, ABOUT)
    stored = json.loads((tmp_path / "attacks.json").read_text())
    assert len(stored["runs"]) == 5
    table = attacks.summarised(stored["runs"])
    assert table["m"]["most"] == pytest.approx(0.4)
    assert table[attacks.NEVER]["most"] == pytest.approx(0.08)
    assert table["n"]["most"] is None
    assert "| m | selective | 40 | a | 40 |" in (tmp_path / "attacks.md").read_text()
    attacks.keep(_attacked("m", 0, 0.1), tmp_path, {**ABOUT, "version": "3"})
    assert len(json.loads((tmp_path / "attacks.json").read_text())["runs"]) == 1


def test_the_committed_attacks_find_nothing_where_nothing_was_learned_and_what_word_removal_left() -> None:
    path = attacks.RESULTS / "attacks.json"
    if not path.is_file():
        pytest.skip("no results are committed")
    stored = json.loads(path.read_text(encoding="utf-8"))
    table = attacks.summarised(stored["runs"])
    most = table[attacks.NEVER]["most"]
    limit = Thresholds().recovered
    assert table[attacks.NEVER]["runs"] >= 3
    assert most <= limit
    assert f"{max(most, 0):.2f} at most" in (attacks.RESULTS.parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8")
    assert table["word-removal"]["most"] > limit
    zoo = {name for name, entry in load_plugins().methods.items() if name != "none" and entry.cls.family != "control"}
    assert zoo <= table.keys()
    assert len(zoo) >= 40
    assert path.with_suffix(".md").read_text(encoding="utf-8") == attacks.as_markdown(stored)


def test_the_card_of_the_attacks_says_how_much_they_train_on_with_the_defaults(tmp_path: Path) -> None:
    from salmu_audits import relearning
    from salmu_audits.inversion import NameInversion

    mini = resolve(RunSpec(method="none", benchmark="mini"), load_plugins(), tmp_path).benchmark
    forget, retain = mini.split("forget"), len(mini.split("retain"))
    facts = len(set(zip(forget.columns["identity_id"], forget.columns["data_field"], strict=True)))
    photos = len(forget) // facts  # of every association
    rows = {
        relearning.BenignRelearning: retain,
        relearning.FewShotRelearning: photos * round(relearning.FewShotRelearning().options.share * facts),
        relearning.OnePhotoRelearning: facts,
    }
    trained = {"name-inversion": (own := NameInversion().options).steps * own.batch_size * len(own.lrs)}
    for cls, count in rows.items():
        given = cls().options
        steps = int(given.epochs * count / given.batch_size)
        trained[cls.name] = steps * given.batch_size * len(given.lrs) * len(given.towers)
    card = (attacks.RESULTS.parents[2] / "plugins" / "salmu-audits" / "README.md").read_text(encoding="utf-8")
    said = {name: int(count.replace(",", "")) for count, name in re.findall(r"([\d,]+) (?:pairs )?by `([a-z-]+)`", card)}
    assert said == trained


def test_the_old_score_gave_to_what_lost_the_holdouts_and_todays_does_not() -> None:
    content = _stored()
    runs: list[dict[str, object]] = content["runs"]  # type: ignore[assignment]
    content["runs"] = [
        {
            **runs[0],
            "title": "half",
            "scores": {"F": 0.0, "H": 0.2, "G": 0.8},
        },  # all forgotten, three quarters of the holdouts lost
        {**runs[0], "title": "goal", "scores": {"F": 0.0, "H": 0.8, "G": 0.8}},
        {**runs[0], "title": "clean", "scores": {"F": 0.0, "H": 0.0, "G": 0.8}},
    ]
    found = {cells[0]: cells[1:3] for cells in rows_of(content)}
    # 1 - sqrt(.75^2 / 2), since half of what is not forgetting is whole.
    assert found == {"goal": ["1.00", "1.00"], "half": ["0.47", "0.25"], "clean": ["0.29", "0.00"]}


def test_the_committed_table_is_made_of_the_committed_runs() -> None:
    if not RESULTS.is_file():
        pytest.skip("no results are committed")
    assert docs(json.loads(RESULTS.read_text(encoding="utf-8"))) == DOCS.read_text(encoding="utf-8")


def test_scores_are_shown_under_the_options_that_made_them() -> None:
    spec = SimpleNamespace(method="word-removal", method_options={"variant": "rare", "r": 1.0})
    item = SimpleNamespace(resolved=SimpleNamespace(spec=spec))
    assert title_of(item) == "`word-removal` variant=rare r=1"  # type: ignore[arg-type]
