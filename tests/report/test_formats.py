"""The leaderboard as CSV and LaTeX."""

import csv
import io
import json

from records import CLEAN, COMPROMISED, published, record, references, with_published
from salmu_core.comparison.compare import compare_records
from salmu_core.report.formats import FORMATS, render, render_csv, render_latex


def _comparison(*more):
    values = {**COMPROMISED, "RetFail": 0.01}
    runs = [record("a_method & more", {**values, "RetFail": 0.01 + 0.01 * seed}, seed=seed) for seed in (0, 1)]
    return compare_records([*references(), *runs, *more])


def test_csv_has_every_digit_and_reads_back():
    rows = list(csv.DictReader(io.StringIO(render_csv(_comparison()))))
    assert [row["row"] for row in rows] == ["Clean", "Compromised", "a_method & more"]
    assert float(rows[0]["AssocStr"]) == CLEAN["AssocStr"]
    assert float(rows[2]["RetFail"]) == 0.015
    assert abs(float(rows[2]["RetFail_sd"]) - 0.0070710678) < 1e-9
    assert rows[2]["seeds"] == "0 1"
    assert rows[2]["rank"] == "1"
    assert rows[0]["rank"] == ""


def test_a_title_is_no_formula_in_a_spreadsheet():
    rows = list(csv.DictReader(io.StringIO(render_csv(_comparison(record("=HYPERLINK()", COMPROMISED))))))
    assert rows[-1]["row"].startswith("'=")


def test_latex_escapes_and_is_a_whole_table():
    text = render_latex(_comparison(record("under_100%_{x}^2~\\", COMPROMISED)))
    assert r"a\_method \& more" in text
    assert r"under\_100\%\_\{x\}\textasciicircum{}2\textasciitilde{}\textbackslash{}" in text
    assert r"$0.015 \pm 0.007$" in text
    assert text.count(r"\midrule") == 2
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    lines = [line for line in text.splitlines() if line.endswith(r"\\") and r"\&" not in line]
    assert all(line.count(" & ") == len(columns) - 1 for line in lines)


def test_published_rows_and_missing_metrics_have_their_place():
    result = published("CLIPErase 5x", {"RetFail": 0.001}, source="A report")
    comparison = compare_records([*with_published(result), record("m", COMPROMISED)])
    assert "CLIPErase 5x [1] & $0.001$ & --" in render_latex(comparison)
    rows = list(csv.DictReader(io.StringIO(render_csv(comparison))))
    assert rows[-1]["kind"] == "published"
    assert rows[-1]["AssocStr"] == ""


def test_every_format_is_text():
    comparison = _comparison()
    assert all(render(comparison, form).endswith("\n") for form in FORMATS)
    assert json.loads(render(comparison, "json"))["rows"][2]["title"] == "a_method & more"
