"""Leaderboard and report files, from records and what lies beside them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from salmu_core.comparison.explain import ELSEWHERE, VERDICTS
from salmu_core.comparison.leaderboard import Comparison
from salmu_core.comparison.ranks import section
from salmu_core.files.names import visible
from salmu_core.files.writing import write_text
from salmu_core.records.schema import RunRecord
from salmu_core.report.beside_records import Evidence, gather
from salmu_core.report.charts import (
    costs,
    stays_forgotten,
    stays_forgotten_table,
    strip_table,
    strips,
    trade_off,
    trade_off_table,
)
from salmu_core.report.html import decimals, html_template
from salmu_core.report.markdown import render_markdown
from salmu_core.report.run_data import up_close
from salmu_core.report.table import counts

_ASPECTS = {
    "forgetting": "Forgetting efficacy: are the requested associations gone? The target is Clean.",
    "holdout": "Holdouts: associations that nobody asked to remove. The target is Compromised.",
    "general": "General knowledge. The target is Compromised.",
    "retained": "Ordinary data near the forgotten people or the sensitive domain. The target is Compromised.",
}
_REPORT = ("kept.js", "theme.js", "figures.js", "board.js", "up_close.js", "live.js")
#: Runs of which a page holds pictures and curves.
MOST_UP_CLOSE = 300
_WAITING = ("kept.js", "live.js")


@dataclass(frozen=True)
class Live:
    """A page that is served while results grow: what it shows, and the runs that are not finished."""

    version: str
    going: Sequence[str] = ()


def render_html(
    comparison: Comparison,
    title: str | None = None,
    evidence: Evidence | None = None,
    *,
    live: Live | None = None,
    problems: Sequence[str] = (),
) -> str:
    """One self-contained page: no file or address beside it is needed.

    Args:
        evidence: what lies beside the records; without it single runs have no pictures.
        live: the page is served, and asks its server for changes.
        problems: sentences on what could not be read.
    """
    evidence = evidence or Evidence()
    chart, attacked = trade_off(comparison), stays_forgotten(comparison)
    named = [(f"strip-{i}", metric) for i, metric in enumerate(comparison.metrics)]
    close = up_close(comparison, evidence)
    tables = {identifier: strip_table(comparison, metric.name) for identifier, metric in named}
    return _template("report.html.j2").render(
        title=title or f"{comparison.benchmark} {comparison.benchmark_version}: unlearning leaderboard",
        comparison=comparison,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        glance=_glance(comparison),
        aspects=_ASPECTS,
        verdicts={name: words for name, words in VERDICTS.items() if any(row.verdict == name for row in comparison.rows)},
        elsewhere=ELSEWHERE,
        strips=named,
        has_trade_off=chart is not None,
        has_attacks=attacked is not None,
        live=live,
        problems=[*problems, *evidence.problems],
        data=_json(
            {
                "charts": {
                    "trade-off": chart,
                    "stays-forgotten": attacked,
                    "costs": costs(comparison),
                    **{f"strip-{i}": c for i, (_, c) in enumerate(strips(comparison))},
                },
                "tables": {
                    "trade-off": trade_off_table(comparison),
                    "stays-forgotten": stays_forgotten_table(comparison),
                    **tables,
                },
                "close": close,
            }
        ),
        plotly=_packed_plotly(),
        script=_script(_REPORT),
        style=_page_file("report.css"),
        policy=content_policy(live=live is not None),
    )


def render_waiting(title: str, message: str, live: Live, problems: Sequence[str] = ()) -> str:
    """The served page while there is nothing to compare, or why what is there cannot be compared."""
    return _template("waiting.html.j2").render(
        title=title, message=message, live=live, problems=problems, script=_script(_WAITING), style=_page_file("report.css"),
        policy=content_policy(live=True),
    )  # fmt: skip


def write_reports(folder: Path, comparison: Comparison, records: Iterable[tuple[RunRecord, Path]] = ()) -> dict[str, Path]:
    """Write `leaderboard.json`, `leaderboard.md` and `report.html` atomically; returns them by format.

    Args:
        records: with the file of each: what lies beside them is shown too.
    """
    files = {"json": folder / "leaderboard.json", "md": folder / "leaderboard.md", "html": folder / "report.html"}
    write_text(files["json"], comparison.model_dump_json(indent=2) + "\n")
    write_text(files["md"], render_markdown(comparison))
    write_text(files["html"], render_html(comparison, evidence=lying_beside(comparison, records)))
    return files


def lying_beside(comparison: Comparison, records: Iterable[tuple[RunRecord, Path]]) -> Evidence:
    """What lies beside the records of a comparison, of at most `MOST_UP_CLOSE` runs, the best ones: a page holds all that it shows.

    Args:
        records: with the file of each.
    """
    every = list(records)
    ranked = [record for row in comparison.rows if row.kind != "reference" for record in row.records]
    chosen = set(ranked[:MOST_UP_CLOSE])
    found = gather([(record, file) for record, file in every if record.kind == "reference" or record.id in chosen])
    if len(ranked) > len(chosen):
        words = f"The best {len(chosen)} of {len(ranked)} runs have pictures here: fewer runs in a folder are shown in full."
        return replace(found, problems=[*found.problems, words])
    return found


@cache
def content_policy(*, live: bool) -> str:
    """What a page may do: run its own scripts, known by their hashes, show pictures that stand in it, and nothing else.

    Styles have to be allowed inline, since plotly.js sets them on what it draws.
    """
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in (_script(_REPORT), _script(_WAITING), get_plotlyjs()))
    asking = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; {asking}base-uri 'none';"
        " form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _script(names: tuple[str, ...]) -> str:
    return '"use strict";\n' + "\n".join(_page_file(name) for name in names)


@cache
def _packed_plotly() -> str:
    """plotly.js as the installed package ships it, compressed: the page has two fifths of the size, and opens without reading it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _page_file(name: str) -> str:
    return Path(__file__).with_name("page").joinpath(name).read_text(encoding="utf-8")


def _glance(comparison: Comparison) -> str:
    """The comparison in a sentence or two."""
    rows = [row for row in comparison.rows if row.kind == "run"]
    counted = Counter(row.verdict for row in rows)
    words = f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}: {', '.join(f'{n} {name}' for name, n in counted.most_common())}."
    best = next((row for row in rows if row.rank == 1), None)
    if best is not None and best.overall is not None:
        words += f" First by overall score: {best.title} ({best.overall:.3f}), {best.verdict}."
    if rows and not counted.get("selective"):
        words += " None is selective."
    return words if rows else "No method has been run yet."


def _json(content: object) -> str:
    """JSON that can stand inside a script element whatever names it holds: no '<' survives, so no element can be closed."""
    text = visible(json.dumps(content, cls=PlotlyJSONEncoder, separators=(",", ":"), ensure_ascii=False))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _template(name: str) -> jinja2.Template:
    filters: dict[str, Callable[..., Any]] = {"number": decimals(3), "band": _band, "section": section, "counts": counts}
    return html_template("salmu_core.report", name, filters, folder="page")


def _band(gap: float | None) -> str:
    """How near a value is to its target, as a class of the page's style."""
    if gap is None:
        return ""
    return "near" if gap <= 0.1 else "half" if gap <= 0.5 else "far"
