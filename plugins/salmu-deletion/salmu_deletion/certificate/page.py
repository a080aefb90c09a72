"""A certificate for people: one self-contained HTML page, and a PDF. Both are made from the sealed JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from salmu_core.errors import SalmuError
from salmu_core.report.html import decimals, html_template
from salmu_deletion.certificate.lettering import Lettering
from salmu_deletion.certificate.sealed import key_name
from salmu_deletion.chart import STYLE, dot_chart
from salmu_deletion.wording import kind_of_fact, outcome_of, when

TITLE = "Report of a deletion from a model"


def render_page(sealed: Mapping[str, Any]) -> str:
    """The page."""
    measured = sealed["content"]["measured"]
    marks = [
        (item["name"], {"compromised": item["before"], "unlearned": item["after"], "clean": item["never_learned"]})
        for item in measured["metrics"]
    ]
    values = [value for _, by_model in marks for value in by_model.values() if value is not None]
    return _template().render(
        title=TITLE,
        sealed=sealed,
        key=key_name(sealed),
        outcome=outcome_of(measured["verdict"]),
        chart=dot_chart(marks, "Each score before and after", low=min([0.0, *values]), high=max([0.1, *values])),
        check=check_command(sealed),
        style=STYLE,
        **{"terms": (), "request": None, "predecessor": None, **sealed["content"]},
    )


def check_command(sealed: Mapping[str, Any]) -> str:
    """The command that compares a certificate with its own hash, its signature and the model, in the folder of both."""
    return "salmu certificate --verify certificate.json --model ." + (" --public-key public.pem" if key_name(sealed) else "")


def write_pdf(sealed: Mapping[str, Any], path: Path) -> None:
    """The same on paper.

    Raises:
        SalmuError: fpdf2 is not installed.
    """
    try:
        from fpdf import FPDF
    except ImportError:
        raise SalmuError(
            "A PDF takes the package fpdf2, which is not installed.", "pip install 'salmu-deletion[certificate]'"
        ) from None
    content = sealed["content"]
    requested, measured = content["requested"], content["measured"]
    pdf = FPDF()
    pdf.set_title(TITLE)
    pdf.set_creation_date(datetime.fromisoformat(content["run"]["finished"]))  # the same file for the same record
    pdf.set_auto_page_break(True, margin=18)
    pdf.add_page()
    lettering = Lettering(pdf, content)

    def heading(text: str) -> None:
        pdf.ln(3)
        pdf.multi_cell(0, 7, lettering.choose(text, "B", 13), new_x="LMARGIN", new_y="NEXT")

    def line(text: str, style: str = "", size: float = 10) -> None:
        shown, wrap = lettering.choose(text, style, size), "CHAR" if " " not in text else "WORD"
        pdf.multi_cell(0, size / 2, shown, new_x="LMARGIN", new_y="NEXT", wrapmode=wrap)

    pdf.set_font("Helvetica", "B", 18)
    pdf.multi_cell(0, 9, TITLE, new_x="LMARGIN", new_y="NEXT")
    line(f"Run {content['run']['record']}, finished {when(content['run']['finished'])}")
    heading("What was requested")
    line(
        f"{requested['rows']} pairs of picture and caption, {requested['associations']} associations of {requested['identities']}"
        " identities."
    )
    if requested["fields"]:
        line("Fields: " + ", ".join(f"{field} {count}" for field, count in requested["fields"].items()))
    line(f"SHA-256 over the hashes of all rows: {requested['rows_sha256']}", size=8)
    if requested["names_in_clear"]:
        for person in requested["people"]:
            line(
                f"{person['identity']} {person['name'] or ''}: {', '.join(person['fields'])} ({person['rows']} rows)", size=8
            )
    heading("What was measured")
    line(f"Verdict: {measured['verdict']}. {measured['verdict_means']}", "B")
    line(measured["reason"])
    for item in measured["answers"]:
        line(item["question"], "B")
        line(item["answer"])
    line(measured["reference"])
    line(measured["audits"]["words"])
    pdf.ln(2)
    pdf.set_font("Helvetica", "", 8.5)
    with pdf.table(col_widths=(30, 22, 22, 34, 26, 26), text_align=("LEFT", *(["RIGHT"] * 4), "LEFT")) as table:
        rows = [("Metric", "Before", "After", "95 % interval", "Never learned", "Should be as")]
        rows += [
            (
                item["name"], _number(item["before"]), _number(item["after"]),
                "" if item["interval"] is None else " to ".join(map(_number, item["interval"])),
                _number(item["never_learned"]), item["should_be_as"],
            )
            for item in measured["metrics"]
        ]  # fmt: skip
        for cells in rows:
            row = table.row()
            for cell in cells:
                row.cell(lettering.choose(cell, "", 8.5))
    for name, reason in measured["not_measured"].items():
        line(f"{name}: not measured ({reason})", size=8)
    for part, title in (("chain", "Earlier requests"), ("index", "Stored vectors")):
        if found := (content.get("request") or {}).get(part):
            heading(title)
            for item in found["answers"]:
                line(item["question"], "B")
                line(item["answer"])
    if predecessor := content.get("predecessor"):
        line(
            f"Comes after run {predecessor['record']}, certificate SHA-256 {predecessor['certificate_sha256'] or 'none'}",
            size=8,
        )
    heading("With what")
    line(f"Method: {content['method']['name']} ({content['method']['package']})")
    line(f"Data: {content['data']['benchmark']} {content['data']['version']}, fingerprint {content['data']['fingerprint']}")
    for which in ("before", "after"):
        digests = ", ".join(f"{tower} {digest}" for tower, digest in content["model"][which].items())
        line(f"Model {which}: {digests}", size=8)
    line(f"File of weights after: SHA-256 {content['model']['after_file_sha256']}", size=8)
    line("Packages: " + ", ".join(f"{name} {version}" for name, version in content["run"]["packages"].items()), size=8)
    if content.get("terms"):
        heading("Terms of what the model was made from")
        for item in content["terms"]:
            licence = f" ({item['licence']})" if item["licence"] else ""
            line(f"{item['what']}{licence}: {item['words']} {item['page']}", size=8)
    heading("What this does not show")
    for limit in content["limits"]:
        line(f"- {limit}")
    heading("Check it")
    line(f"SHA-256 of the content: {sealed['sha256']}", size=8)
    line(f"Signed with the key {key}" if (key := key_name(sealed)) else "Not signed.", size=8)
    line(check_command(sealed), size=8)
    if lettering.bracketed:
        line("Letters in brackets, as [U+5F20], are those that could not be shown; certificate.json has them.", size=8)
    path.write_bytes(bytes(pdf.output()))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@cache
def _template() -> jinja2.Template:
    filters: dict[str, Callable[..., Any]] = {
        "number": decimals(4),
        "when": when,
        "fact": kind_of_fact,
        "share": lambda value: "–" if value is None else f"{value:.0%}",
    }
    return html_template("salmu_deletion.certificate", "certificate.html.j2", filters)
