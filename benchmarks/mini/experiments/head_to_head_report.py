"""Tables and picture of the head-to-head, from its stored results alone.

    uv run python benchmarks/mini/experiments/head_to_head_report.py

Writes `benchmarks/mini/results/head_to_head.md`, the README's table and `docs/images/head-to-head.png`. A test fails when page or
table is stale. `--results FOLDER` makes page and picture of what `head_to_head.py --size tiny` left in `FOLDER`, and writes them there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.isotonic import IsotonicRegression

sys.path.insert(0, str(Path(__file__).parent))

from attacks import summarised
from head_to_head import COMMAND, RESULTS, every_stored
from matrix import (
    Cell,
    Summary,
    against_the_best,
    alike,
    cells_of,
    deterministic,
    mean_parts,
    pareto_front,
    summarise,
    worst_verdict,
)
from paper import IN_THE_PAPER, WITHOUT_NUMBERS, baseline_rows, holdout_distance, rank_correlations, table_rows

from salmu_core.comparison.overall import Parts, basis
from salmu_core.files.writing import write_text
from salmu_core.plugins.loading import load_plugins
from salmu_core.records.schema import ScoreRecord

PAGE = RESULTS.parent / "head_to_head.md"
PICTURE = Path(__file__).parents[3] / "docs" / "images" / "head-to-head.png"
METRICS = ("RetFail", "AssocStr", "ACS", "IdZSC", "CoreAssoc", "GenKnow", "InterIdSim", "IntraIdSim", "VisIdInt", "FragSim")
HOLDOUTS = ("InterIdSim", "IntraIdSim")
PAPERS_BUDGET = 5.0
NEAR = 0.05  # gaps that count as equal
Point = tuple[float, float, float]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def points_of(summaries: Sequence[Summary], budget: float) -> dict[str, Point]:
    """Method -> its point, of those that were measured by every metric that it takes."""
    points = {s.method: point_of(s) for s in summaries if s.budget == budget and s.scores}
    return {method: point for method, point in points.items() if not np.isnan(point).any()}


def point_of(summary: Summary) -> Point:
    """Forgotten, holdouts kept, general knowledge kept: 1 is the goal in each. Forgetting counts all five of its metrics."""
    forgetting = [summary.gaps[name] for name in METRICS[:5]]
    return (
        1 - float(np.mean(forgetting)),
        1 - max(summary.gaps[name] for name in HOLDOUTS),
        1 - summary.gaps["GenKnow"],
    )


def leaderboard(
    summaries: Sequence[Summary], references: Mapping[str, Mapping[str, float]], budget: float, cells_behind: Sequence[Cell]
) -> str:
    """Best first. Rows that are the same as another one in all runs are shown once."""
    same = alike(cells_behind)
    rows = [[which, *[f"{scores[name]:.3f}" for name in METRICS], "", "", "", ""] for which, scores in references.items()]
    for item in (s for s in summaries if s.budget == budget):
        cells = [f"{item.scores[m]:.3f} ({item.gaps[m]:.2f})" if m in item.scores else "–" for m in METRICS]
        verdicts = ", ".join(f"{name} {count}" for name, count in item.verdicts.items())
        several = item.cells > 1
        overall = f"{item.overall:.3f} [{item.low:.3f}, {item.high:.3f}]" if several else f"{item.overall:.3f}"
        steady = deterministic(cells_behind, item.method, budget)
        spread = " / ".join(
            "deterministic" if steady and sd == item.over_seeds else "–" if np.isnan(sd) else f"{sd:.3f}"
            for sd in (item.over_instances, item.over_seeds)
        )
        if (item.method, budget) in same:
            continue
        rows.append([item.method, *cells, verdicts, overall, spread, f"{item.seconds:.1f}"])
    header = ["method", *METRICS, "verdicts of the runs", "overall [95 %]", "sd over instances / seeds", "seconds"]
    note = ", ".join(
        f"{method} (as {other} {at:g}x)" for (method, own), (other, at) in sorted(same.items()) if own == budget
    )
    return table(header, rows) + (f"\nThe same in every score of every run, and shown once: {note}.\n" if note else "")


def tests(cells: Sequence[Cell], summaries: Sequence[Summary], budget: float) -> str:
    """Paired differences to the best ranked method."""
    parts = []
    plugins = load_plugins()
    controls = {name for name, entry in plugins.methods.items() if entry.cls.family == "control"}
    published = {name for name, entry in plugins.methods.items() if entry.cls.paper and name not in controls}
    for title, among in (
        ("the best of all", None),
        ("the best published method", published),
        ("the best control", controls),
    ):
        found = against_the_best(cells, summaries, budget, among)
        if not found:
            parts.append(f"{title[:1].upper()}{title[1:]}: none holds a rank in all of its runs at this budget.\n")
            continue
        rows = [
            [d.method, f"{d.mean:+.3f}", f"[{d.low:+.3f}, {d.high:+.3f}]", f"{d.p:.1e}", f"{d.corrected:.1e}"] for d in found
        ]
        header = ["method", "difference", "95 %", "p", "p, Holm"]
        parts.append(f"Against {title}, **{found[0].best}**:\n\n" + table(header, rows))
    return "\n".join(parts)


def findings(summaries: Sequence[Summary], budgets: Sequence[float]) -> str:
    """SALMUBench's findings beside these."""
    header = ["method", "SALMUBench says", "its row by salmu's rule", "runs here", "agrees", "holdouts apart, there", "here"]
    parts = [
        "SALMUBench's own words, and what salmu's rule says of its 5x rows: the rule reads each as its authors do, and calls the two without a failure mode over-generalised, since both lost "
        "over half of the holdouts. `generic-captions` is called ineffective, without numbers that could be read. *Holdouts apart*: |gap of InterIdSim - gap of IntraIdSim|; 0: one falls as far as the other.\n"
    ]  # fmt: skip
    paper = {title: row.scores for title, row in table_rows().items()}
    for budget in budgets:
        own = {s.method: s for s in summaries if s.budget == budget and s.scores}
        if not own:
            continue
        parts += [f"**The paper's baselines, {budget:g}x.**\n", table(header, baseline_rows(summaries, budget))]
        distance = {m: holdout_distance(s.gaps) for m, s in own.items()}
        near = sum(value <= NEAR for value in distance.values())
        far = sorted(distance, key=lambda m: -distance[m])[:3]
        theirs = [distance[m] for m in IN_THE_PAPER.values() if m in distance]
        text = f"**InterIdSim ~ IntraIdSim, {budget:g}x.** The two gaps are within {NEAR} of each other for {sum(d <= NEAR for d in theirs)} of the paper's {len(theirs)} methods with numbers (there: for all) and for {near} of all {len(distance)}; farthest apart: "
        parts.append(text + ", ".join(f"{m} ({distance[m]:.2f})" for m in far) + ".\n")
        correlations = rank_correlations(summaries, paper, budget)
        if correlations:
            listed = ", ".join(f"{name} {value:+.2f}" for name, (value, _) in correlations.items())
            count = max(number for _, number in correlations.values())
            parts.append(
                f"**Spearman's rank correlation with the paper's 5x table, {budget:g}x** ({count} methods; of seven, chance alone gives up to .79 in 19 of 20 tables): {listed}.\n"
            )
    return "\n".join(parts)


@dataclass(frozen=True)
class Results:
    """What is kept of every instance, where all methods are through, and what it says."""

    stored: list[dict[str, Any]]
    cells: list[Cell]
    summaries: list[Summary]


@cache
def results(folder: Path = RESULTS) -> Results:
    """The committed results, or those in another folder, read and judged once."""
    stored = every_stored(folder)
    through = finished_everywhere([one["runs"] for one in stored])
    stored = [{**one, "runs": runs} for one, runs in zip(stored, through, strict=True)]
    cells = [cell for one in stored for cell in cells_of(one)]
    return Results(stored, cells, summarise(cells))


def finished_everywhere(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[Mapping[str, Any]]]:
    """Runs of each instance without those of a budget and seed that some method of this budget has yet to do there: methods are
    compared on the same runs, also while the matrix grows."""
    methods: dict[float, set[str]] = {}
    for run in (run for own in runs for run in own):
        methods.setdefault(run["budget"], set()).add(run["method"])
    done: list[list[Mapping[str, Any]]] = []
    for own in runs:
        through: dict[tuple[float, int], set[str]] = {}
        for run in own:
            through.setdefault((run["budget"], run["seed"]), set()).add(run["method"])
        done.append([run for run in own if through[run["budget"], run["seed"]] == methods[run["budget"]]])
    return done


def references(stored: Sequence[Mapping[str, Any]], budget: float) -> dict[str, dict[str, float]]:
    """Means of Clean and Compromised over the instances that have runs at a budget."""
    there = [one["references"] for one in stored if any(run["budget"] == budget for run in one["runs"])]
    return {
        which: {m: float(np.mean([own[which][m]["value"] for own in there])) for m in METRICS}
        for which in ("clean", "compromised")
    }


def extent(stored: Sequence[Mapping[str, Any]], budget: float) -> str:
    """Which runs of each method there are at a budget, in words."""
    pairs = {(one["instance"], run["seed"]) for one in stored for run in one["runs"] if run["budget"] == budget}
    every = {(one["instance"], run["seed"]) for one in stored for run in one["runs"]}
    if pairs == every:
        return f"{len(pairs)} runs a method"
    listed = ", ".join(f"instance {instance} with training seed {seed}" for instance, seed in sorted(pairs))
    return f"{len(pairs)} of {len(every)} runs a method so far: {listed}"


def which_methods(summaries: Sequence[Summary], budget: float) -> str:
    """A sentence where a budget has fewer methods than others."""
    own, every = {s.method for s in summaries if s.budget == budget}, {s.method for s in summaries}
    if own == every:
        return ""
    return f"{len(own)} of {len(every)} methods: those whose options were searched at this budget, and those that have none to search, the controls.\n"


def command_of(stored: Sequence[Mapping[str, Any]], budgets: Sequence[float]) -> str:
    """The command that makes what is stored at these budgets."""
    parts = {
        "--instances": [one["instance"] for one in stored],
        "--seeds": sorted({run["seed"] for one in stored for run in one["runs"]}),
        "--budgets": [f"{budget:g}" for budget in budgets],
    }
    return " ".join([COMMAND, *(f"{flag} {','.join(map(str, values))}" for flag, values in parts.items()), "--cpu"])


def page(folder: Path = RESULTS) -> str:
    """The whole page."""
    found = results(folder)
    stored, cells, summaries = found.stored, found.cells, found.summaries
    budgets = sorted({s.budget for s in summaries})
    devices = sorted({run["device"] for one in stored for run in one["runs"]})
    parts = [
        "# All methods on mini\n",
        f"Made by `{command_of(stored, budgets)}` and `head_to_head_report.py` from `head_to_head/*.json`. Benchmark seeds {', '.join(str(one['instance']) for one in stored)}; "
        f"device {', '.join(devices)}. Options are mini's presets, chosen by `salmu tune` on benchmark seeds 3 and 4, which are none of these, where there are any.\n",
        "In brackets: mean gap to the target (0 reached; 1 for forgetting: nothing forgotten, for holdouts: all lost). The interval is a t interval over instances, its variance moderated over methods (coverage.md).\n",
    ]
    total = sum(run["seconds"] for one in stored for run in one["runs"])
    parts.append(
        f"Cost: {sum(len(one['runs']) for one in stored)} runs, {total / 3600:.1f} hours of unlearning in one-thread processes.\n"
    )
    for budget in budgets:
        parts += [
            f"## Budget {budget:g}x ({extent(stored, budget)})\n",
            which_methods(summaries, budget),
            leaderboard(summaries, references(stored, budget), budget, cells),
        ]
        points = points_of(summaries, budget)
        front = sorted(pareto_front(points), key=lambda m: -points[m][0])
        parts.append(
            "On the Pareto front of forgotten (mean of five metrics), holdouts kept (the worse of two), GenKnow kept: "
            + "; ".join(f"{m} ({points[m][0]:.2f}, {points[m][1]:.2f}, {points[m][2]:.2f})" for m in front) + ".\n"
        )  # fmt: skip
        parts += [f"### Paired tests, {budget:g}x\n", tests(cells, summaries, budget)]
    parts += [
        "## The trade-off\n",
        "![Forgotten against holdouts kept, for each method and budget](../../../docs/images/head-to-head.png)\n",
        "## SALMUBench's findings\n",
        f"Methods that both have: {', '.join(f'{a} = `{b}`' for a, b in IN_THE_PAPER.items())}.\n",
        findings(summaries, budgets),
    ]
    return "\n".join(parts)


README = Path(__file__).parents[3] / "README.md"
START, END = "<!-- leaderboard: benchmarks/mini/results/head_to_head -->\n", "<!-- end of leaderboard -->\n"


def chosen(summaries: Sequence[Summary], controls: Collection[str], best: int = 3) -> list[Summary]:
    """What a short table shows, in the order of the long one: the best few, the two best of the paper's others, and one control."""
    methods = [item.method for item in summaries if item.method not in controls]
    papers = {*IN_THE_PAPER.values(), *WITHOUT_NUMBERS}
    others = [name for name in methods[best:] if name in papers]
    shown = {*methods[:best], *others[:2], "word-removal"}
    return [item for item in summaries if item.method in shown]


def recovered(path: Path | None = None) -> dict[str, float]:
    """Method -> the most that an attack without original weights got back, where `attacks.py` measured it."""
    path = path or RESULTS.parent / "attacks.json"
    if not path.is_file():
        return {}
    runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return {title: row["most"] for title, row in summarised(runs).items() if row["most"] is not None}


def readme() -> str:
    """The README with its table made anew: the smallest budget, in short."""
    found = results()
    budget = min(s.budget for s in found.summaries)
    controls = {name for name, entry in load_plugins().methods.items() if entry.cls.family == "control"}
    back = recovered()
    rows = []
    for item in chosen([s for s in found.summaries if s.budget == budget and s.parts], controls):
        assert item.parts is not None
        rows.append(
            [
                f"*`{item.method}`*, a control" if item.method in controls else f"`{item.method}`",
                f"{item.overall:.2f} [{max(0.0, item.low):.2f}, {item.high:.2f}]",
                f"{item.parts.forgotten:.2f}",
                f"{item.parts.kept:.2f}",
                f"{item.parts.general:.2f}",
                worst_verdict(item.verdicts),
                f"{100 * back[item.method]:.0f} %" if item.method in back else "–",
            ]
        )
    for which, parts in ends(found.stored).items():
        share = {"clean": "0 %", "compromised": "100 %"}[which]
        numbers = [f"{value:.2f}" for value in (parts.overall, parts.forgotten, parts.kept, parts.general)]
        rows.append([f"*{which.title()}*", *numbers, "", share])
    header = ["method", "overall [95 %]", "forgotten", "kept", "general", "worst verdict", "recovered"]
    cells = sorted({s.cells for s in found.summaries if s.budget == budget})
    several = " to ".join(map(str, dict.fromkeys((cells[0], cells[-1]))))
    text = (
        f"`{command_of(found.stored, [budget])}`: budget {budget:g}x, {several} runs a method over instances and training seeds. Shown are"
        " the best three, the next two of the paper's eight baselines, and a control; [all of them](benchmarks/mini/results/head_to_head.md).\n\n"
        f"{table(header, rows)}\n{at_the_papers_budget(found.summaries)}"
    )
    before, rest = README.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    return f"{before}{START}{text}{END}{after}"


def at_the_papers_budget(summaries: Sequence[Summary]) -> str:
    """A sentence about 5x, the budget of the paper's table: how many of its baselines come out here as there."""
    rows = baseline_rows(summaries, PAPERS_BUDGET)
    if not rows:
        return ""
    whole, part = (sum(row[4] == words for row in rows) for words in ("yes", "in part"))
    return (
        f"At {PAPERS_BUDGET:g}x, the budget of SALMUBench's table, {len(rows)} of its baselines were searched and run as well: {whole} get the paper's verdict in all"
        f" of their runs, {part} in some ([table](benchmarks/mini/results/head_to_head.md#salmubenchs-findings)).\n\n"
    )  # fmt: skip


def ends(stored: Sequence[Mapping[str, Any]]) -> dict[str, Parts]:
    """What Clean and Compromised themselves score: means over the instances."""
    found: dict[str, list[Parts]] = {"clean": [], "compromised": []}
    for one in stored:
        references = {
            which: {name: ScoreRecord(**score) for name, score in scores.items()}
            for which, scores in one["references"].items()
        }
        for which, own in found.items():
            parts = basis(references["clean"], references["compromised"]).of(references[which])
            own.extend([] if parts is None else [parts])
    return {which: parts for which, own in found.items() if (parts := mean_parts(own)) is not None}


#: Points that lost more holdouts than this are drawn on the lower edge.
LOWEST = -0.3
#: Names stand in a column on the right for points that forgot more than this, on the left for others.
CROWDED = 0.34


def spread_out(heights: Sequence[float], step: float, top: float = np.inf) -> list[float]:
    """Heights in rising order, moved as little as possible (least squares) until neighbours are `step` apart, none above `top`."""
    if not heights:
        return []
    offsets = step * np.arange(len(heights))
    moved = IsotonicRegression().fit_transform(offsets, np.asarray(heights) - offsets)
    return [float(height) for height in np.minimum(moved + offsets, top - offsets[::-1])]


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """The trade-off: forgotten against holdouts kept, colour is general knowledge kept; one panel for each budget."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    budgets = sorted({s.budget for s in summaries})
    figure, axes = plt.subplots(1, len(budgets), figsize=(9.5 * len(budgets), 9), squeeze=False, layout="constrained")
    shown: Any = None
    for axis, budget in zip(axes[0], budgets, strict=True):
        points = points_of(summaries, budget)
        front = pareto_front(points)
        xs, ys = [points[m][0] for m in points], [max(LOWEST, points[m][1]) for m in points]
        colours = [min(1.0, max(0.0, points[m][2])) for m in points]
        shown = axis.scatter(xs, ys, c=colours, cmap="viridis", vmin=0.4, vmax=1.0, s=[110 if m in front else 45 for m in points], edgecolors="black", linewidths=0.6, zorder=3)  # fmt: skip
        axis.axvspan(0.9, 1.02, ymin=0.92, color="tab:green", alpha=0.12)
        axis.text(1.015, 1.03, "goal", color="tab:green", fontsize=8, ha="right", va="center")
        axis.plot([0, 1], [1, 0], color="grey", linewidth=1, linestyle="--", zorder=1)  # forgets everything sensitive alike
        axis.text(0.86, 0.19, "on the line from\nCompromised to Clean", color="grey", fontsize=8, ha="left", va="center")
        axis.axhline(LOWEST, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="forgotten (1 = as if never learned)", ylabel="holdouts kept (1 = all; dotted: this little or less)", title=f"Budget {budget:g}x (large: on the Pareto front)", xlim=(min([0.0, *xs]) - 0.65, 1.55), ylim=(LOWEST - (0.32 if min(ys) <= LOWEST else 0.02), 1.05))  # fmt: skip
        axis.grid(alpha=0.3)
        line = {"arrowstyle": "-", "color": "grey", "lw": 0.5}
        placed = -1.0  # labels on the edge hang from it, in the order of their points
        for m, x in sorted(((m, points[m][0]) for m in points if points[m][1] <= LOWEST), key=lambda item: item[1]):
            placed = max(x, placed + 0.032)
            axis.annotate(m, (x, LOWEST), xytext=(placed, LOWEST - 0.05), rotation=-50, ha="left", va="top", rotation_mode="anchor", fontsize=8, arrowprops=line)  # fmt: skip
        shown_points = {m: points[m][:2] for m in points if points[m][1] > LOWEST}
        left = min([0.0, *(x for x, _ in shown_points.values())]) - 0.1
        for side, align, within in ((left, "right", lambda x: x < CROWDED), (1.05, "left", lambda x: x >= CROWDED)):
            column = sorted((m for m in shown_points if within(shown_points[m][0])), key=lambda m: (shown_points[m][1], m))
            for m, height in zip(column, spread_out([shown_points[m][1] for m in column], 0.03, 1.03), strict=True):
                place = {"xytext": (side, height), "ha": align, "va": "center"}
                from_its_end = {**line, "relpos": (float(align == "right"), 0.5)}
                axis.annotate(m, shown_points[m], fontsize=8, arrowprops=from_its_end, zorder=2, **place)
    figure.colorbar(shown, ax=axes[0].tolist(), label="general knowledge kept", shrink=0.7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


@click.command()
@click.option("--results", "folder", type=click.Path(path_type=Path, exists=True), help="Not the committed ones.")
def main(folder: Path | None) -> None:
    """Write page and picture."""
    written = (
        PAGE if folder is None else folder / "head_to_head.md",
        PICTURE if folder is None else folder / "head_to_head.png",
    )
    write_text(written[0], page(folder or RESULTS))
    draw(results(folder or RESULTS).summaries, written[1])
    if folder is None:
        write_text(README, readme())
    print("\n".join(map(str, written)))


if __name__ == "__main__":
    main()
