"""Attacks in leaderboards: the column, the verdict, what is said where nothing was tried."""

from __future__ import annotations

import csv
import io
import json

import pytest

from records import COMPROMISED, record, references
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.explain import explain
from salmu_core.comparison.leaderboard import VERDICTS
from salmu_core.comparison.selection import select
from salmu_core.comparison.verdict import RANKED, Verdict, recovered_words, with_attacks
from salmu_core.files.seals import SEAL
from salmu_core.records.attacks import Attacked, AuditResult, read_attacks, recovery, write_attacks
from salmu_core.report.charts import stays_forgotten, stays_forgotten_table
from salmu_core.report.formats import render_csv
from salmu_core.report.markdown import render_markdown
from salmu_core.report.report import render_html

FORGOTTEN = {**COMPROMISED, "RetFail": 0.001, "AssocStr": 0.1417}


def found(audit, recovered, **more):
    content = {"audit": audit, "summary": "s", "package": "p 1", "options": {}, "value": 0.1 + 0.5 * recovered, "clean": 0.1,
               "compromised": 0.6}  # fmt: skip
    return AuditResult(**{**content, **more})


def compared(tmp_path, attacks, values=FORGOTTEN):
    """A comparison of methods by name, each with what attacks got from it; None: not attacked."""
    records, folders = [*references()], [None, None]
    for name, results in attacks.items():
        for seed, of_seed in enumerate(results if isinstance(results, tuple) else (results,)):
            records.append(record(name, values, seed=seed))
            folders.append(tmp_path / f"{name}-{seed}")
            folders[-1].mkdir()
            if of_seed is not None:
                write_attacks(folders[-1], records[-1].provenance.model_fingerprint, of_seed, {})
    return compare_records(records, folders)


def test_attacks_whose_checksum_was_taken_out_are_left_out_unless_salmu_0_1_wrote_them(tmp_path):
    made = record("m", COMPROMISED)
    fingerprint, data = made.provenance.model_fingerprint, made.provenance.data_fingerprint
    for about, counts in (({}, 1), ({"data_fingerprint": data}, 0)):
        path = write_attacks(tmp_path, fingerprint, [found("values", 0.1)], about)
        assert len(read_attacks(made, tmp_path).results) == 1
        path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != SEAL}))
        assert len(read_attacks(made, tmp_path).results) == counts
    assert "checksum is gone" in read_attacks(made, tmp_path).problem


def row_of(comparison, title):
    return next(row for row in comparison.rows if row.title == title)


def test_what_comes_back_by_a_cheap_attack_is_superficial(tmp_path):
    comparison = compared(
        tmp_path,
        {
            "hides": [found("values", 0.1), found("names", 0.45)],
            "forgets": [found("values", 0.1), found("names", 0.2)],
            "never": None,
        },
    )
    hides, forgets, never = (row_of(comparison, title) for title in ("hides", "forgets", "never"))
    assert (hides.verdict, hides.recovered_by) == ("superficial", "names")
    assert hides.recovered == pytest.approx(0.45)
    assert "names brings 45% back, more than 20%" in hides.reason
    assert forgets.verdict == "selective"  # 20 % and not more
    assert (never.verdict, never.recovered, never.attacks) == ("selective", None, {})
    assert hides.rank is not None
    assert "superficial" in RANKED
    assert VERDICTS.index("over-generalised") < VERDICTS.index("superficial") < VERDICTS.index("selective")


@pytest.mark.parametrize("name", ["ineffective", "over-generalised", "catastrophic", "no effect", "failed"])
def test_an_attack_changes_no_other_verdict(name):
    attacked = Attacked((found("names", 0.9),))
    assert with_attacks(Verdict(name, "why"), attacked) == Verdict(name, "why")
    assert with_attacks(Verdict("selective", "why"), attacked).name == "superficial"
    assert with_attacks(Verdict("selective", "why"), Attacked()).name == "selective"


def test_attacks_with_original_weights_never_make_a_run_superficial(tmp_path):
    results = [found("soup", 0.9, references=("compromised",)), found("values", 0.05)]
    row = row_of(compared(tmp_path, {"m": results}), "m")
    assert (row.verdict, row.recovered_by) == ("selective", "values")
    assert row.attacks == {"values": pytest.approx(0.05)}


def test_the_worst_seed_speaks_for_the_row_and_the_column_is_a_mean(tmp_path):
    row = row_of(compared(tmp_path, {"m": ([found("names", 0.4)], [found("names", 0.1)])}), "m")
    assert row.verdict == "superficial"
    assert row.verdicts == {"superficial": 1, "selective": 1}
    assert row.recovered == pytest.approx(0.25)
    assert row.attacked_runs == 2


def test_shares_are_means_over_instances_of_attacks_that_every_run_had():
    runs = [
        ("0", Attacked((found("names", 0.4), found("values", 0.9)))),
        ("0", Attacked((found("names", 0.2),))),
        ("1", Attacked((found("names", 0.9),))),
        ("1", Attacked()),
    ]
    assert recovery(runs).shares == {"names": pytest.approx((0.3 + 0.9) / 2)}
    assert recovery(runs).runs == 3
    # The same attack with other options: the larger share counts.
    twice = Attacked((found("names", 0.4), found("names", 0.3, options={"lrs": [1.0]})))
    assert recovery([("0", twice)]).most == ("names", pytest.approx(0.4))


def test_rows_that_were_attacked_otherwise_are_named(tmp_path):
    attacks = {"more": [found("values", 0.1), found("names", 0.2)], "less": [found("values", 0.1)]}
    comparison = compared(tmp_path, attacks)
    assert any("less had fewer of the 2 attacks" in note for note in comparison.notes)


def test_an_attack_that_gets_more_from_clean_than_from_compromised_says_nothing():
    assert found("a", 0.0, value=0.5, clean=0.6, compromised=0.1).recovered is None


def test_every_form_of_the_leaderboard_shows_the_column(tmp_path):
    comparison = compared(tmp_path, {"hides": [found("names", 0.45)], "never": None})
    text = render_markdown(comparison)
    assert "45% (names)" in text
    assert "not attacked" in text
    [header, *rows] = csv.reader(io.StringIO(render_csv(comparison)))
    of_row = {row[1]: dict(zip(header, row, strict=True)) for row in rows}
    assert float(of_row["hides"]["recovered"]) == pytest.approx(0.45)
    assert of_row["hides"]["recovered_by"] == "names"
    assert of_row["never"]["recovered"] == ""
    page = render_html(comparison)
    assert "Does it stay forgotten?" in page
    assert "not attacked" in page
    chart = stays_forgotten(comparison)
    assert chart is not None
    assert stays_forgotten_table(comparison)["rows"] == [["hides", "0.45", "names", "0.45"]]
    assert any("names brings most back: 45%" in sentence for sentence in explain(row_of(comparison, "hides"), comparison))


def test_a_leaderboard_without_attacks_has_no_chart_of_them(tmp_path):
    comparison = compared(tmp_path, {"never": None})
    assert stays_forgotten(comparison) is None
    assert "Does it stay forgotten?" not in render_html(comparison)


def test_rows_can_be_chosen_and_sorted_by_what_came_back(tmp_path):
    comparison = compared(tmp_path, {"a": [found("n", 0.5)], "b": [found("n", 0.1)], "c": None})

    def own(**how):
        return [row.title for row in select(comparison, **how).rows if row.kind == "run"]

    assert own(where=["recovered<=0.2"]) == ["b"]
    assert own(sort="recovered") == ["b", "a", "c"]
    assert own(verdicts=["superficial"]) == ["a"]


def test_sentences_for_certificates_and_inspections():
    assert recovered_words(Attacked((found("names", 0.45), found("values", 0.1)))).startswith(
        "Yes: of 2 attacks on the model alone, names brings most back, 45%"
    )
    assert recovered_words(Attacked((found("names", 0.1),))).startswith("No: of 1 attack")
    assert "was not tried" in recovered_words(Attacked())
    assert "none of them" in recovered_words(Attacked((found("soup", 0.9, references=("clean",)),)))
