"""Page and picture of the curves, from what `curves.py` stored alone.

    uv run python benchmarks/mini/experiments/curves_report.py

Writes `benchmarks/mini/results/curves.md` and `docs/images/curves.png`. `--results FOLDER` makes them of what `curves.py --size tiny` left
in `FOLDER`, and writes them there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from curves import COMMAND, RESULTS, every_stored
from head_to_head_report import table
from matrix import cells_of

from salmu_core.comparison.gaps import informative, left_of
from salmu_core.comparison.overall import basis
from salmu_core.files.writing import write_text
from salmu_core.records.schema import ScoreRecord

PAGE = RESULTS.parent / "curves.md"
PICTURE = Path(__file__).parents[3] / "docs" / "images" / "curves.png"
#: Shares of forgetting at which methods are compared.
LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Point:
    """One run of a curve.

    Attributes:
        forgotten: mean over the forgetting metrics of the share of the way from Compromised to Clean; past Clean counts as there.
        kept: of the holdout metrics the worst 1 - gap.
        general: of the general metrics the worst share of the level above chance that is left, at most 1.
    """

    value: float
    forgotten: float
    kept: float
    general: float
    verdict: str


@dataclass(frozen=True)
class Curve:
    """A method on one instance, by rising values of its option."""

    method: str
    option: str
    instance: int
    budget: float
    points: tuple[Point, ...]
    diverged: tuple[float, ...]


def curves_of(stored: Mapping[str, Any]) -> list[Curve]:
    """The curves of one instance."""
    references = {
        w: {name: ScoreRecord(**score) for name, score in scores.items()} for w, scores in stored["references"].items()
    }
    clean, compromised = references["clean"], references["compromised"]
    counted = basis(clean, compromised).weights
    names = [name for name in informative(clean, compromised)[0] if name in counted]
    groups: dict[tuple[str, float, str], list[tuple[float, Point | None]]] = {}
    for run, cell in zip(stored["runs"], cells_of(stored), strict=True):
        point = None
        if cell.scores:
            left = [
                min(
                    1.0,
                    left_of(
                        compromised[name].model_copy(update={"value": cell.scores[name]}), clean[name], compromised[name]
                    ),
                )
                for name in names
                if compromised[name].aspect == "forgetting"
            ]
            of = {
                aspect: [1 - cell.gaps[name] for name in names if compromised[name].aspect == aspect]
                for aspect in ("holdout", "general")
            }
            # Above Compromised is no loss of general knowledge.
            risen = [
                1.0 if cell.scores[name] >= compromised[name].value else 1 - cell.gaps[name]
                for name in names
                if compromised[name].aspect == "general"
            ]
            point = Point(
                run["value"], 1 - float(np.mean(left)) if left else 0.0, max(0.0, min(of["holdout"], default=1.0)),
                max(0.0, min(risen, default=1.0)), cell.verdict,
            )  # fmt: skip
        groups.setdefault((run["method"], run["budget"], run["option"]), []).append((run["value"], point))
    return [
        Curve(
            method, option, stored["instance"], budget,
            tuple(point for _, point in sorted(found, key=lambda item: item[0]) if point is not None),
            tuple(value for value, point in found if point is None),
        )
        for (method, budget, option), found in sorted(groups.items())
    ]  # fmt: skip


def at_level(curve: Curve, level: float) -> tuple[float, float] | None:
    """Kept and general where a curve first reaches a share of forgetting, coming from the gentle end: on the straight line between the two
    runs beside it. Where several stretches reach it, the one that keeps most (kept x general). None where it never does."""
    found = [
        (first.kept + share * (second.kept - first.kept), first.general + share * (second.general - first.general))
        for first, second in pairwise((Point(0.0, 0.0, 1.0, 1.0, ""), *curve.points))
        if first.forgotten != second.forgotten
        and 0 <= (share := (level - first.forgotten) / (second.forgotten - first.forgotten)) <= 1
    ]
    return max(found, key=lambda item: item[0] * item[1], default=None)


def over_instances(curves: Sequence[Curve]) -> dict[tuple[str, float], list[Curve]]:
    """(method, budget) -> its curves."""
    groups: dict[tuple[str, float], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.method, curve.budget), []).append(curve)
    return groups


def mean_at(curves: Sequence[Curve], level: float) -> tuple[float, float] | None:
    """Mean over instances of what is kept at a level; None where one of them never reaches it."""
    found = [at_level(curve, level) for curve in curves]
    if any(one is None for one in found):
        return None
    kept, general = zip(*(one for one in found if one is not None), strict=True)
    return float(np.mean(kept)), float(np.mean(general))


def page(folder: Path) -> str:
    """The whole page."""
    stored = every_stored(folder)
    curves = [curve for one in stored for curve in curves_of(one)]
    groups = over_instances(curves)
    instances = ", ".join(str(one["instance"]) for one in stored)
    parts = [
        "# How methods trade forgetting for what is kept\n",
        f"Made by `{COMMAND} --instances {instances.replace(' ', '')}` and `curves_report.py` from `curves/*.json`:"
        f" {sum(len(one['runs']) for one in stored)} runs, one training seed. Every method is driven by the first option of its search"
        " space over its whole range; all other options are mini's presets or the defaults. *Forgotten*: mean over the forgetting metrics"
        " of the share of the way from Compromised to Clean, past Clean counts as there. *Kept*: the worst holdout metric. *General*: the"
        " share of general knowledge above chance.\n",
        "![Kept and general against forgotten, for each method](../../../docs/images/curves.png)\n",
        "## At equal forgetting\n",
        "Kept x general (and both) on the straight lines between runs, from the untouched model on; –: no value of the option forgets so"
        " much. Sorted by the middle column.\n",
    ]
    rows = []
    for (method, budget), own in groups.items():
        found = [mean_at(own, level) for level in LEVELS]
        cells = ["–" if one is None else f"{one[0] * one[1]:.2f} ({one[0]:.2f}, {one[1]:.2f})" for one in found]
        middle = found[len(LEVELS) // 2]
        title = method if budget == 1 else f"{method} {budget:g}x"
        most = max((point.forgotten for curve in own for point in curve.points), default=0.0)
        rows.append((-1.0 if middle is None else middle[0] * middle[1], [title, own[0].option, *cells, f"{most:.2f}"]))
    rows.sort(key=lambda row: -row[0])
    header = ["method", "option", *(f"at {level:g} forgotten" for level in LEVELS), "most forgotten"]
    parts += [table(header, [cells for _, cells in rows]), "## The runs\n"]
    runs = [
        [
            curve.method, str(curve.instance), f"{curve.option} {point.value:g}", f"{point.forgotten:.2f}", f"{point.kept:.2f}",
            f"{point.general:.2f}", point.verdict,
        ]
        for curve in curves
        for point in curve.points
    ]  # fmt: skip
    parts.append(table(["method", "instance", "option", "forgotten", "kept", "general", "verdict"], runs))
    lost = [
        f"{curve.method} ({curve.option} {', '.join(f'{v:g}' for v in curve.diverged)})"
        for curve in curves
        if curve.diverged
    ]
    if lost:
        parts.append(f"Without scores, since they diverged or failed: {'; '.join(lost)}.\n")
    return "\n".join(parts)


def draw(folder: Path, path: Path) -> None:
    """A panel for each method: kept and general against forgotten, a line for each instance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = over_instances([curve for one in every_stored(folder) for curve in curves_of(one)])
    columns = min(6, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.3 * rows), squeeze=False, sharex=True, sharey=True, layout="constrained")  # fmt: skip
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, ((method, budget), own) in zip(axes.flat, groups.items(), strict=False):
        for curve in own:
            start = [Point(0.0, 0.0, 1.0, 1.0, ""), *curve.points]
            xs = [point.forgotten for point in start]
            axis.plot(xs, [point.kept for point in start], color="tab:blue", marker=".", linewidth=1)
            axis.plot(xs, [point.general for point in start], color="tab:orange", marker=".", linewidth=1, linestyle="--")
        axis.plot(1, 1, marker="*", color="tab:green", markersize=9)
        axis.set_title(method if budget == 1 else f"{method} {budget:g}x", fontsize=7)
        axis.set(xlim=(-0.03, 1.06), ylim=(-0.03, 1.08))
        axis.grid(alpha=0.3)
    figure.suptitle("Kept (blue) and general knowledge (orange, dashed) against forgotten; the star is the goal", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


@click.command()
@click.option("--results", "folder", type=click.Path(path_type=Path, exists=True), help="Not the committed ones.")
def main(folder: Path | None) -> None:
    """Write page and picture."""
    written = (PAGE, PICTURE) if folder is None else (folder / "curves.md", folder / "curves.png")
    write_text(written[0], page(folder or RESULTS))
    draw(folder or RESULTS, written[1])
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
