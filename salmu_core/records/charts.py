"""The report's charts, as data for plotly.js. Colours come from the page, so that light and dark both fit."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from salmu_core.records.compare import Comparison, Row

# Told apart by shape as well as by colour (Okabe & Ito's palette).
_MARKS = {
    "selective": ("star", "#009E73"), "over-generalised": ("diamond", "#E69F00"), "ineffective": ("circle", "#56B4E9"),
    "catastrophic": ("x", "#D55E00"), "no effect": ("circle-open", "#999999"), "reference": ("square", "#CC79A7"),
    "published": ("triangle-up-open", "#888888"),
}  # fmt: skip
LOWEST = -0.35  # models farther away are drawn at the edge; hovering tells where they are
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#888", "family": "system-ui, sans-serif"},
    "margin": {"l": 60, "r": 20, "t": 20, "b": 50}, "hoverlabel": {"namelength": -1},
}  # fmt: skip


def trade_off(comparison: Comparison) -> dict[str, Any] | None:
    """Forgetting against what was kept: x is how far the primary forgetting metric has come to Clean, y how much of the holdouts is
    left, both 1 at the goal."""
    forgetting = next((m.name for m in comparison.metrics if m.aspect == "forgetting" and m.primary), None)
    holdouts = [m.name for m in comparison.metrics if m.aspect == "holdout"]
    if forgetting is None or not holdouts:
        return None
    figure = go.Figure()
    figure.add_shape(
        type="rect", x0=0.8, x1=1.05, y0=0.9, y1=1.05, fillcolor="rgba(0,158,115,0.15)", line_width=0, layer="below"
    )
    groups: dict[str, list[tuple[Row, float, float]]] = {}
    for row in comparison.rows:
        gap = row.cells[forgetting].gap if forgetting in row.cells else None
        kept = [row.cells[name].gap for name in holdouts if name in row.cells]
        if gap is None or not kept or any(value is None for value in kept):
            continue
        if row.kind == "published" and row.reference:  # it would stand on one's own Clean or Compromised
            continue
        group = "published" if row.kind == "published" else row.verdict or "reference"
        groups.setdefault(group, []).append((row, 1 - gap, 1 - max(value for value in kept if value is not None)))
    # Published points lie close together; hovering tells their names, and the labels are left to one's own rows.
    labelled = [point for group, points in groups.items() if group != "published" for point in points]
    positions = _label_positions([(row.title, x, y) for row, x, y in labelled])
    for verdict, points in groups.items():
        symbol, colour = _MARKS.get(verdict, ("cross", "#888888"))
        figure.add_scatter(
            x=[max(x, LOWEST) for _, x, _ in points], y=[max(y, LOWEST) for _, _, y in points],
            mode="markers" if verdict == "published" else "markers+text", name=verdict, cliponaxis=False,
            text=[_safe(comparison.label(row)) for row, _, _ in points],
            textposition=[positions.get(row.title, "top left") for row, _, _ in points], customdata=[[x, y] for _, x, y in points],
            marker={"symbol": symbol, "size": 13, "color": colour, "line": {"width": 2, "color": colour}},
            hovertemplate="%{text}<br>forgotten %{customdata[0]:.2f}<br>holdouts kept %{customdata[1]:.2f}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(**_LAYOUT, height=520, legend={"orientation": "h", "y": -0.16})
    figure.update_xaxes(
        range=[LOWEST - 0.05, 1.18],
        title=f"forgotten: {forgetting}, 0 Compromised, 1 Clean",
        gridcolor="rgba(128,128,128,.25)",
        zeroline=False,
    )
    figure.update_yaxes(
        range=[LOWEST - 0.08, 1.12],
        title="holdout associations kept, 1 all",
        gridcolor="rgba(128,128,128,.25)",
        zeroline=False,
    )
    return _plain(figure)


def _label_positions(points: list[tuple[str, float, float]]) -> dict[str, str]:
    """Where each label stands: on the side of the middle, and above or below in turn, so that near points stay readable."""
    result = {}
    for number, (title, x, _) in enumerate(sorted(points, key=lambda point: -point[2])):
        side = "left" if x > 0.5 else "right"
        result[title] = f"{('top', 'middle', 'bottom')[number % 3]} {side}"
    return result


def strips(comparison: Comparison) -> list[tuple[str, dict[str, Any]]]:
    """For each metric its values with 95 % intervals, and lines at Clean (dashed) and Compromised (dotted)."""
    result = []
    for metric in comparison.metrics:
        rows = [row for row in comparison.rows if metric.name in row.cells and row.reference is None][::-1]
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
        for value, dash, words in ((metric.clean, "dash", "Clean"), (metric.compromised, "dot", "Compromised")):
            if value is not None:
                leftmost = value <= min(v for v in (metric.clean, metric.compromised) if v is not None)
                position = (
                    f"top {'right' if leftmost else 'left'}"
                    if words == "Clean"
                    else f"bottom {'right' if leftmost else 'left'}"
                )
                figure.add_vline(
                    x=value, line_dash=dash, line_color="#CC79A7", annotation_text=words, annotation_position=position
                )
        figure.update_layout(
            **{**_LAYOUT, "margin": {"l": 10, "r": 10, "t": 24, "b": 30}}, height=60 + 26 * max(4, len(rows))
        )
        ends = [c.value for c in cells] + [v for v in (metric.clean, metric.compromised) if v is not None]
        margin = 0.12 * (max(ends, default=1.0) - min(ends, default=0.0)) or 0.1
        span = [min(ends, default=0.0) - margin, max(ends, default=1.0) + margin]
        figure.update_xaxes(gridcolor="rgba(128,128,128,.25)", zeroline=False, range=span)
        figure.update_yaxes(automargin=True)
        result.append((metric.name, _plain(figure)))
    return result


def costs(comparison: Comparison) -> dict[str, Any]:
    """Seconds that each method took."""
    rows = [row for row in comparison.rows if row.kind == "run"][::-1]
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
