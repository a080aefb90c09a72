"""The report's charts, as data for plotly.js. Colours come from the page, so that light and dark both fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from salmu_core.comparison.leaderboard import Comparison, Row
from salmu_core.comparison.ranks import section

# Told apart by shape as well as by colour (Okabe & Ito's palette).
_MARKS = {
    "superficial": ("star-open", "#0072B2"),
    "selective": ("star", "#009E73"), "over-generalised": ("diamond", "#E69F00"), "ineffective": ("circle", "#56B4E9"),
    "catastrophic": ("x", "#D55E00"), "no effect": ("circle-open", "#999999"), "reference": ("square", "#CC79A7"),
    "published": ("triangle-up-open", "#888888"), "control": ("hexagon-open", "#0072B2"),
}  # fmt: skip
MOST_LABELS = 16  # beyond that names would lie on one another
MOST_BARS = 200  # rows of a chart with a line for each; its table has them all
_HIGH = (1.18, 1.12)  # ends of the axes of what is forgotten and what is kept
LOWEST = -0.35  # models farther away are drawn at the edge; hovering tells where they are
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#888", "family": "system-ui, sans-serif"},
    "margin": {"l": 60, "r": 20, "t": 20, "b": 50}, "hoverlabel": {"namelength": -1},
}  # fmt: skip


def trade_off(comparison: Comparison) -> dict[str, Any] | None:
    """Forgetting against what was kept: x is how near the worst forgetting metric is to Clean, y how much of the holdouts
    is left, both 1 at the goal. The metrics that count and are informative."""
    forgetting, holdouts = _counted(comparison, "forgetting"), _counted(comparison, "holdout")
    if not forgetting or not holdouts:
        return None
    places = _places(comparison)
    figure = go.Figure()
    figure.add_shape(
        type="rect", x0=0.8, x1=1.05, y0=0.9, y1=1.05, fillcolor="rgba(0,158,115,0.15)", line_width=0, layer="below"
    )
    groups: dict[str, list[tuple[Row, float, float]]] = {}
    for row, x, y in places:
        group = "published" if row.kind == "published" else "control" if row.control else row.verdict or "reference"
        groups.setdefault(group, []).append((row, x, y))
    line = front(places)
    if len(line) > 1:
        figure.add_scatter(
            x=[max(x, LOWEST) for _, x, _ in line], y=[max(y, LOWEST) for _, _, y in line], mode="lines", name="front",
            line={"color": "#009E73", "width": 1.5, "dash": "dot"}, hoverinfo="skip",
        )  # fmt: skip
    # Published points lie close together; hovering tells their names, and the labels are left to one's own rows. Where there are
    # many of these as well, to the front and the references.
    labelled = [point for group, points in groups.items() if group != "published" for point in points]
    if len(labelled) > MOST_LABELS:
        named = {id(row) for row, _, _ in line}
        labelled = [place for place in labelled if id(place[0]) in named or place[0].kind == "reference"]
    low = _lowest(x for _, x, _ in places) - 0.05, _lowest(y for _, _, y in places) - 0.08
    positions = _label_positions([(row.title, x, y) for row, x, y in labelled], low)
    for verdict, points in groups.items():
        symbol, colour = _MARKS.get(verdict, ("cross", "#888888"))
        figure.add_scatter(
            x=[max(x, LOWEST) for _, x, _ in points], y=[max(y, LOWEST) for _, _, y in points],
            mode="markers" if verdict == "published" else "markers+text", name=verdict, cliponaxis=False,
            text=[_safe(comparison.label(row)) if verdict == "published" or row.title in positions else "" for row, _, _ in points],
            textposition=[positions.get(row.title, "top left") for row, _, _ in points],
            customdata=[[x, y, _safe(comparison.label(row))] for row, x, y in points],
            marker={"symbol": symbol, "size": 13, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate="%{customdata[2]}<br>forgotten %{customdata[0]:.2f}<br>holdouts kept %{customdata[1]:.2f}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(**_LAYOUT, height=520, legend={"orientation": "h", "y": -0.16})
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zeroline": False}
    figure.update_xaxes(range=[low[0], _HIGH[0]], title="forgotten, the worst metric: 0 Compromised, 1 Clean", **grid)
    figure.update_yaxes(range=[low[1], _HIGH[1]], title="holdout associations kept, 1 all", **grid)
    return _plain(figure)


def stays_forgotten(comparison: Comparison) -> dict[str, Any] | None:
    """What was forgotten against what stays forgotten: x as in `trade_off`, y 1 less the most that an attack on the model alone
    brings back. None where nothing was attacked."""
    places = [
        (row, x, 1 - row.recovered) for row, x, _ in _places(comparison) if row.recovered is not None and row.kind == "run"
    ]
    if not places:
        return None
    limit = comparison.thresholds.get("recovered", 0.2)
    figure = go.Figure()
    figure.add_shape(
        type="rect", x0=0.8, x1=1.05, y0=1 - limit, y1=1.05, fillcolor="rgba(0,158,115,0.15)", line_width=0, layer="below"
    )
    line = front(places)
    if len(line) > 1:
        figure.add_scatter(
            x=[max(x, LOWEST) for _, x, _ in line], y=[max(y, LOWEST) for _, _, y in line], mode="lines", name="front",
            line={"color": "#009E73", "width": 1.5, "dash": "dot"}, hoverinfo="skip",
        )  # fmt: skip
    labelled = places if len(places) <= MOST_LABELS else line
    low = _lowest(x for _, x, _ in places) - 0.05, _lowest(y for _, _, y in places) - 0.08
    positions = _label_positions([(row.title, x, y) for row, x, y in labelled], low)
    for verdict in dict.fromkeys(row.verdict for row, _, _ in places):
        points = [place for place in places if place[0].verdict == verdict]
        symbol, colour = _MARKS.get(verdict, ("cross", "#888888"))
        figure.add_scatter(
            x=[max(x, LOWEST) for _, x, _ in points], y=[max(y, LOWEST) for _, _, y in points],
            mode="markers+text", name=verdict, cliponaxis=False,
            text=[_safe(comparison.label(row)) if row.title in positions else "" for row, _, _ in points],
            textposition=[positions.get(row.title, "top left") for row, _, _ in points],
            customdata=[[x, 1 - y, _safe(comparison.label(row)), _safe(row.recovered_by)] for row, x, y in points],
            marker={"symbol": symbol, "size": 13, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate="%{customdata[2]}<br>forgotten %{customdata[0]:.2f}<br>recovered %{customdata[1]:.2f} by"
            " %{customdata[3]}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(**_LAYOUT, height=460, legend={"orientation": "h", "y": -0.18})
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zeroline": False}
    figure.update_xaxes(range=[low[0], _HIGH[0]], title="forgotten: 0 Compromised, 1 Clean", **grid)
    figure.update_yaxes(range=[low[1], _HIGH[1]], title="stays forgotten: 1 less what an attack recovers", **grid)
    return _plain(figure)


def _places(comparison: Comparison) -> list[tuple[Row, float, float]]:
    """Every row that has a place on the chart: how much is forgotten, how much of the holdouts is kept."""
    forgetting, holdouts = _counted(comparison, "forgetting"), _counted(comparison, "holdout")
    places = []
    for row in comparison.rows:
        if row.kind == "published" and row.reference:  # it would stand on one's own Clean or Compromised
            continue
        # A published row has the metrics that its source has.
        gaps = {name: row.cells[name].gap for name in forgetting if name in row.cells}
        measured = {name: gap for name, gap in gaps.items() if gap is not None}
        kept = [row.cells[name].gap for name in holdouts if name in row.cells]
        known = [gap for gap in kept if gap is not None]
        if measured and known and len(known) == len(kept):
            places.append((row, 1 - max(measured.values()), 1 - max(known)))
    return places


def _lowest(values: Iterable[float]) -> float:
    """Where an axis begins: no farther out than there are models, and never beyond the edge."""
    return max(LOWEST, min([0.0, *values]))


def _counted(comparison: Comparison, aspect: str) -> list[str]:
    return [m.name for m in comparison.metrics if m.aspect == aspect and m.weight > 0]


def front(places: Sequence[tuple[Row, float, float]]) -> list[tuple[Row, float, float]]:
    """The Pareto front, from left to right: one's own rows that hold a rank and that none of them beats in both directions."""
    runs = [place for place in places if place[0].kind == "run" and section(place[0]) == 0]
    best: list[tuple[Row, float, float]] = []
    for place in sorted(
        runs, key=lambda place: (-place[1], -place[2])
    ):  # from the right; each has to be higher than all before
        if not best or place[2] > best[-1][2] or place[1:] == best[-1][1:]:
            best.append(place)
    return best[::-1]


def trade_off_table(comparison: Comparison) -> dict[str, Any]:
    """The chart's numbers, for those who cannot see it."""
    places = _places(comparison)
    on_front = {id(row) for row, _, _ in front(places)}
    rows = [
        [comparison.label(row), f"{x:.3f}", f"{y:.3f}", row.verdict or row.kind, "yes" if id(row) in on_front else ""]
        for row, x, y in places
    ]
    return {"heads": ["method", "forgotten", "holdouts kept", "verdict", "on the front"], "rows": rows}


def stays_forgotten_table(comparison: Comparison) -> dict[str, Any]:
    """What each attack on the model alone brought back, a column for each."""
    attacked = [row for row in comparison.rows if row.recovered is not None]
    names = list(dict.fromkeys(name for row in attacked for name in row.attacks))
    rows = [
        [comparison.label(row), f"{row.recovered:.2f}", row.recovered_by, *(_share(row.attacks.get(name)) for name in names)]
        for row in attacked
    ]
    return {"heads": ["method", "recovered", "most by", *names], "rows": rows}


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def strip_table(comparison: Comparison, metric: str) -> dict[str, Any]:
    """One metric's numbers, references included."""
    rows = []
    for row in comparison.rows:
        if metric in row.cells:
            cell = row.cells[metric]
            ends = "" if cell.low is None or cell.high is None else f"{cell.low:.4f} to {cell.high:.4f}"
            rows.append(
                [
                    comparison.label(row),
                    f"{cell.value:.4f}",
                    ends or ("" if cell.sd is None else f"± {cell.sd:.4f} over {cell.n} seeds"),
                    "" if cell.gap is None else f"{cell.gap:.3f}",
                ]
            )
    return {"heads": ["method", "value", "95 % interval", "distance to the target"], "rows": rows}


#: Width and height of a plot on a phone, and a letter, a line and the way from a mark to its label there, in pixels: what does not
#: collide there collides nowhere.
_PHONE, _LETTER, _LINE, _APART = (270, 360), 5.6, 13, 10


def _label_positions(points: list[tuple[str, float, float]], low: tuple[float, float]) -> dict[str, str]:
    """Where each label stands, so that none lies on another or leaves the plot. The references come first, then from the top; a label
    that fits nowhere is left out, and hovering tells it.

    Args:
        points: title and place.
        low: where the axes begin.
    """
    wide, tall = (_HIGH[0] - low[0]) / _PHONE[0], (_HIGH[1] - low[1]) / _PHONE[1]
    taken: list[tuple[float, float, float, float]] = []
    result: dict[str, str] = {}
    for title, at_x, at_y in sorted(
        points, key=lambda point: (point[0] not in ("Clean", "Compromised"), -point[2], -point[1])
    ):
        x, y = max(at_x, LOWEST), max(at_y, LOWEST)
        width, height = len(title) * _LETTER * wide, _LINE * tall
        for side in ("right", "left") if x <= 0.5 else ("left", "right"):
            left = x + _APART * wide if side == "right" else x - _APART * wide - width
            for where, up in (("middle", 0), ("top", 1), ("bottom", -1)):
                middle = y + up * (_APART + _LINE / 4) * tall
                box = (left, middle - height / 2, left + width, middle + height / 2)
                inside = low[0] <= box[0] and box[2] <= _HIGH[0] and low[1] <= box[1] and box[3] <= _HIGH[1]
                if title not in result and inside and not any(_overlap(box, other) for other in taken):
                    taken.append(box)
                    result[title] = f"{where} {side}"
    return result


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def strips(comparison: Comparison) -> list[tuple[str, dict[str, Any]]]:
    """For each metric its values with 95 % intervals, and lines at Clean (dashed) and Compromised (dotted)."""
    result = []
    for metric in comparison.metrics:
        rows = [row for row in comparison.rows if metric.name in row.cells and row.reference is None][:MOST_BARS][::-1]
        figure = go.Figure()
        cells = [row.cells[metric.name] for row in rows]
        high = [(c.high - c.value) if c.high is not None else c.sd for c in cells]
        low = [(c.value - c.low) if c.low is not None else c.sd for c in cells]
        figure.add_scatter(
            x=[c.value for c in cells], y=[_safe(comparison.label(row)) for row in rows], mode="markers",
            marker={
                "size": 9, "color": [_MARKS.get(row.verdict, ("", "#888888"))[1] for row in rows],
                "symbol": [_MARKS["published"][0] if row.kind == "published" else "circle" for row in rows],
            },
            error_x={"type": "data", "array": high, "arrayminus": low, "thickness": 1.5, "color": "#888"},
            hovertemplate="%{y}: %{x:.4f}<extra></extra>", showlegend=False,
        )  # fmt: skip
        ends = [c.value for c in cells] + [v for v in (metric.clean, metric.compromised) if v is not None]
        margin = 0.12 * (max(ends, default=1.0) - min(ends, default=0.0)) or 0.1
        span = [min(ends, default=0.0) - margin, max(ends, default=1.0) + margin]
        for value, dash, words in ((metric.clean, "dash", "Clean"), (metric.compromised, "dot", "Compromised")):
            band = next(
                (row.cells[metric.name] for row in comparison.rows
                 if row.kind == "reference" and row.title == words and metric.name in row.cells), None,
            )  # fmt: skip
            if band is not None and band.low is not None and band.high is not None:
                figure.add_vrect(x0=band.low, x1=band.high, fillcolor="rgba(204,121,167,.16)", line_width=0, layer="below")
            if value is not None:
                side = "left" if value > sum(span) / 2 else "right"  # a label on the outer side would be cut
                position = f"{'top' if words == 'Clean' else 'bottom'} {side}"
                figure.add_vline(
                    x=value, line_dash=dash, line_color="#CC79A7", annotation_text=words, annotation_position=position
                )
        figure.update_layout(
            **{**_LAYOUT, "margin": {"l": 10, "r": 10, "t": 24, "b": 30}}, height=60 + 26 * max(4, len(rows))
        )
        figure.update_xaxes(gridcolor="rgba(128,128,128,.25)", zeroline=False, range=span)
        figure.update_yaxes(automargin=True)
        result.append((metric.name, _plain(figure)))
    return result


def costs(comparison: Comparison) -> dict[str, Any]:
    """Seconds that each method took."""
    rows = [row for row in comparison.rows if row.kind == "run"][:MOST_BARS][::-1]
    figure = go.Figure()
    figure.add_bar(
        x=[row.seconds for row in rows], y=[_safe(row.title) for row in rows], orientation="h", marker_color="#56B4E9",
        hovertemplate="%{y}: %{x:.1f} s<extra></extra>",
    )  # fmt: skip
    figure.update_layout(**{**_LAYOUT, "margin": {"l": 10, "r": 10, "t": 10, "b": 40}}, height=60 + 26 * max(3, len(rows)))
    figure.update_xaxes(title="seconds to unlearn", gridcolor="rgba(128,128,128,.25)")
    figure.update_yaxes(automargin=True)
    return _plain(figure)


def _safe(text: str) -> str:
    """plotly.js reads some markup in labels; names come from third parties."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(figure: go.Figure) -> dict[str, Any]:
    content: dict[str, Any] = figure.to_plotly_json()
    content["layout"].pop("template", None)
    return content
