"""A chart for pages without a script: where a value was before, where it is after, and where it is in what never learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from salmu_core.files.names import visible

#: Model -> words of the key, in the order in which marks are drawn.
MARKS = {"clean": "never learned", "compromised": "before", "unlearned": "after"}

STYLE = Markup(Path(__file__).with_name("chart.css").read_text(encoding="utf-8"))


def dot_chart(
    rows: Sequence[tuple[str, Mapping[str, float | None]]], words: str, *, low: float, high: float, log: bool = False
) -> Markup:
    """A row of marks on one axis for each of `rows`; empty where no row has a value.

    Args:
        rows: label, and value by model as in `MARKS`; None where it was not measured.
        words: what the chart shows, for who does not see it.
        low, high: ends of the axis.
        log: a logarithmic axis, for places; `low` has to be above 0.
    """
    drawn = [
        (label, {which: value for which in MARKS if (value := values.get(which)) is not None}) for label, values in rows
    ]
    drawn = [(label, values) for label, values in drawn if values]
    if not drawn or not low < high:
        return Markup("")

    def place(value: float) -> float:
        inside = min(max(value, low), high)
        share = math.log(inside / low) / math.log(high / low) if log else (inside - low) / (high - low)
        return round(100 * share, 2)

    lines = [_row(label, values, place) for label, values in drawn]
    seen = [which for which in MARKS if any(which in values for _, values in drawn)]
    key = "".join(f'<span><i class="{which}"></i>{MARKS[which]}</span>' for which in reversed(seen))
    form = ",.0f" if log else ".2f"
    ends = f'<div class="axis"><span>{low:{form}}</span><span>{high:{form}}</span></div>'
    return Markup(
        f'<div class="dots" role="img" aria-label="{escape(words)}"><div class="key">{key}</div>{"".join(lines)}{ends}</div>'
    )


def _row(label: str, values: Mapping[str, float], place: Callable[[float], float]) -> str:
    at = {which: place(value) for which, value in values.items()}
    told = ", ".join(f"{MARKS[which]} {value:,.4g}" for which, value in values.items())
    line = ""
    if {"compromised", "unlearned"} <= at.keys():
        left, right = sorted((at["compromised"], at["unlearned"]))
        line = f'<i class="line" style="left:{left}%;width:{right - left:.2f}%"></i>'
    marks = "".join(f'<i class="{which}" style="left:{share}%"></i>' for which, share in at.items())
    track = f'<div class="track">{line}{marks}</div>'
    return f'<div class="row" title="{escape(told)}"><span class="label">{escape(visible(label))}</span>{track}</div>'
