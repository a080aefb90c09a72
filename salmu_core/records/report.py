"""Leaderboard and report files, from a comparison alone."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from salmu_core.files import write_json, write_text
from salmu_core.records.charts import costs, strips, trade_off
from salmu_core.records.compare import Comparison
from salmu_core.records.markdown import render_markdown

_ASPECTS = {
    "forgetting": "Forgetting efficacy: are the requested associations gone? The target is Clean.",
    "holdout": "Holdouts: associations that nobody asked to remove. The target is Compromised.",
    "general": "General knowledge. The target is Compromised.",
    "retained": "Ordinary data near the forgotten people or the sensitive domain. The target is Compromised.",
}
VERDICTS = {
    "selective": "The requested associations are gone and nothing else changed. The goal.",
    "over-generalised": "The requested associations are gone, general knowledge stays, but associations nobody asked to remove are"
    " erased too.",
    "ineffective": "The requested associations survive.",
    "catastrophic": "General knowledge fell: the model is damaged. Holds no rank.",
    "no effect": "The model is as it was. Holds no rank.",
    "diverged": "The loss stopped being finite. Holds no rank.",
    "failed": "The run ended with an error. Holds no rank.",
    "unknown": "A metric or a reference row that the verdict needs is missing. Holds no rank.",
}


def render_html(comparison: Comparison, title: str | None = None) -> str:
    """One self-contained page: no file or address beside it is needed."""
    chart = trade_off(comparison)
    return _template().render(
        title=title or f"{comparison.benchmark} {comparison.benchmark_version}: unlearning leaderboard",
        comparison=comparison,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        aspects=_ASPECTS,
        verdicts={name: words for name, words in VERDICTS.items() if any(row.verdict == name for row in comparison.rows)},
        charts=_json(
            {
                "trade-off": chart,
                "cost": costs(comparison),
                **{f"strip-{i}": c for i, (_, c) in enumerate(strips(comparison))},
            }
        ),
        strips=[(f"strip-{i}", metric) for i, metric in enumerate(comparison.metrics)],
        has_trade_off=chart is not None,
        plotlyjs=get_plotlyjs(),
    )


def write_reports(folder: Path, comparison: Comparison) -> dict[str, Path]:
    """Write `leaderboard.json`, `leaderboard.md` and `report.html` atomically; returns them by format."""
    files = {"json": folder / "leaderboard.json", "md": folder / "leaderboard.md", "html": folder / "report.html"}
    write_json(files["json"], comparison.model_dump(mode="json"))
    write_text(files["md"], render_markdown(comparison))
    write_text(files["html"], render_html(comparison))
    return files


def _json(content: object) -> str:
    """JSON that can stand inside a script element whatever names it holds: no '<' survives, so no element can be closed."""
    import json

    text = json.dumps(content, cls=PlotlyJSONEncoder)
    return (
        text.replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("&", "\\u0026")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("salmu_core.records"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.3f}"
    environment.filters["band"] = _band
    return environment.get_template("report.html.j2")


def _band(gap: float | None) -> str:
    """How near a value is to its target, as a class of the page's style."""
    if gap is None:
        return ""
    return "near" if gap <= 0.1 else "half" if gap <= 0.5 else "far"
