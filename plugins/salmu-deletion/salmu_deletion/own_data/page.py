"""What `forget` found out about a request, as one self-contained HTML page of counts and scores: no row of the data is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2

from salmu_core.comparison.explain import VERDICTS
from salmu_core.records.schema import RunRecord, Target
from salmu_core.report.html import decimals, html_template
from salmu_deletion.chart import STYLE, dot_chart
from salmu_deletion.statements import statements, verdict_of
from salmu_deletion.wording import file_name, outcome_of, when, without_clean


def render_request(
    record: RunRecord, references: Mapping[Target, RunRecord], request: Mapping[str, Any], notes: Sequence[str] = ()
) -> str:
    """The page.

    Args:
        request: the content of `request.json`.
        notes: what could not be done or measured, in sentences.
    """
    clean, compromised = (row.scores if (row := references.get(which)) else {} for which in ("clean", "compromised"))
    verdict = verdict_of(record, clean, compromised)
    rows = [
        {
            "name": name,
            "summary": score.summary,
            "before": compromised[name].value if name in compromised else None,
            "now": score.value,
            "never": clean[name].value if name in clean else None,
            "goal": "never learned" if score.target == "clean" else "before",
        }
        for name, score in record.scores.items()
    ]
    marks = [
        (str(row["name"]), {"compromised": row["before"], "unlearned": row["now"], "clean": row["never"]}) for row in rows
    ]
    values = [value for _, by_model in marks for value in by_model.values() if value is not None]
    asked = record.spec.benchmark_options.get("forget")
    return _template().render(
        record=record,
        request=request,
        verdict=verdict,
        means=without_clean(VERDICTS.get(verdict.name, "").replace(" Holds no rank.", "")),
        reason=without_clean(verdict.reason),
        answers=[
            {"question": item.question, "answer": without_clean(item.answer)}
            for item in (statements(record, clean, compromised) if record.status == "ok" else [])
        ],
        rows=rows,
        chart=dot_chart(marks, "Each score before and after", low=min([0.0, *values]), high=max([0.1, *values])),  # type: ignore[arg-type]
        name=file_name(str(asked)) if asked else "",
        outcome=outcome_of(verdict.name),
        finished=when(record.created_at.isoformat()),
        style=STYLE,
        notes=list(notes),
    )


@cache
def _template() -> jinja2.Template:
    return html_template("salmu_deletion.own_data", "request.html.j2", {"number": decimals(4)})
