"""How often are two copies of one method told apart? A/A comparisons, simulated: at most one in twenty may be.

    uv run python benchmarks/mini/experiments/aa_comparisons.py

Every trial draws identities and the scores that each model gives them: a method's mean (from the stored head-to-head), what identities
differ by (from the intervals of the references there), what a training seed moves all metrics by together, and what it moves each
identity by. Two or more copies of one method get training seeds of their own and go through the code behind `salmu compare`. A copy that
comes out significantly better than another is a false winner.

What a training seed moves is what runs of a method on one instance differ by, pooled over the instances of the head-to-head. `--runs
FOLDER` reads other runs with several training seeds (made by `salmu compare METHOD ... --seeds 0,1,2`) and stores what they show beside
it. Writes `results/aa.json`, `results/aa.md` and the table of `docs/compare.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))

from head_to_head import RESULTS, every_stored
from matrix import Cell, cells_of

from salmu_core.comparison.differences import PairedDifference, paired_differences
from salmu_core.comparison.gaps import gaps_of
from salmu_core.comparison.overall import basis, overall_score
from salmu_core.comparison.paired import GAP_NOISE, OVERALL_NOISE
from salmu_core.comparison.pairing import Instance, JudgedRun
from salmu_core.comparison.verdict import Verdict
from salmu_core.files.writing import write_json, write_text
from salmu_core.records.rows import ClusterSums, read_cluster_sums
from salmu_core.records.schema import RunRecord, RunSpec, ScoreRecord
from salmu_core.records.store import load_records
from salmu_core.seeding import numpy_generator

PAGE = RESULTS.parent / "aa.md"
DOCS = Path(__file__).parents[3] / "docs" / "compare.md"
START, END = "<!-- aa: benchmarks/mini/results/aa.json -->\n", "<!-- end of aa -->"
STORED = RESULTS.parent / "aa.json"
COMMAND = "uv run python benchmarks/mini/experiments/aa_comparisons.py"
#: What a seed moves single identities by beyond what it moves all, as a share of what identities differ by. In real runs between nothing
#: and 1.6 (results/mini-1/aa.md, results/aa.md); the moves drawn hold what it does to means already, so this is on top.
INTERACTION = 0.5
#: copies of the method, benchmark instances, training seeds
DESIGNS = ((2, 1, 1), (2, 1, 2), (2, 1, 3), (2, 1, 5), (10, 1, 1), (10, 1, 3), (10, 1, 5), (2, 3, 1), (2, 3, 3), (10, 3, 1))
#: Of the stored runs that scores are drawn like: there are most of these.
BUDGET = 1.0


@dataclass(frozen=True)
class World:
    """What scores are drawn from.

    Attributes:
        kinds: metric -> a score of it, with target, aspect, chance and numbers of rows and clusters.
        identity_sd: metric -> what identities differ by.
        references: which -> metric -> mean.
        means: method -> metric -> mean.
        moves: method -> float [runs, metrics], how its runs lie about the mean of their instance; `moves.T @ moves` is the covariance.
    """

    kinds: Mapping[str, ScoreRecord]
    identity_sd: Mapping[str, float]
    references: Mapping[str, Mapping[str, float]]
    means: Mapping[str, Mapping[str, float]]
    moves: Mapping[str, np.ndarray]


def world() -> World:
    """From the stored head-to-head."""
    stored = every_stored()
    # Without the interval, which is that of one model and would go along with every drawn value.
    kinds = {
        name: ScoreRecord(**{**score, "low": None, "high": None})
        for name, score in stored[0]["references"]["compromised"].items()
        if score.get("scored", True)
    }
    sd = {name: float(np.mean([_identity_sd(one["references"]["compromised"][name]) for one in stored])) for name in kinds}
    references = {
        which: {name: float(np.mean([one["references"][which][name]["value"] for one in stored])) for name in kinds}
        for which in ("clean", "compromised")
    }
    several = {
        method: [np.array([[cell.scores[name] for name in kinds] for cell in cells]) for cells in groups]
        for method, groups in cells_with_seeds(stored).items()
    }
    means = {
        method: dict(zip(kinds, np.concatenate(tables).mean(axis=0).tolist(), strict=True))
        for method, tables in several.items()
    }
    moves = {method: _within(tables) for method, tables in several.items()}
    return World(kinds, sd, references, means, moves)


def cells_with_seeds(stored: Sequence[Mapping[str, Any]]) -> dict[str, list[list[Cell]]]:
    """Method -> its measured runs of each instance, for methods with several training seeds on some instance."""
    groups: dict[str, list[list[Cell]]] = {}
    for one in stored:
        own: dict[str, list[Cell]] = {}
        for cell in cells_of(one):
            if cell.scores and cell.budget == BUDGET:
                own.setdefault(cell.method, []).append(cell)
        for method, cells in own.items():
            groups.setdefault(method, []).append(cells)
    return {method: tables for method, tables in groups.items() if any(len(cells) > 1 for cells in tables)}


def _within(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Deviations from the mean of each instance, scaled so that their squares add up to the pooled variance.

    Args:
        tables: float [seeds, ...] of each instance.
    """
    degrees = sum(len(rows) - 1 for rows in tables)
    deviations = np.concatenate([rows - rows.mean(axis=0) for rows in tables])
    return np.asarray(deviations / np.sqrt(degrees))


def _identity_sd(score: Mapping[str, Any]) -> float:
    """From the width of the interval that resamples them."""
    return float((score["high"] - score["low"]) / 2 / 1.96 * np.sqrt(score["clusters"]))


def draw_rows(
    of: World, methods: Sequence[str], instances: int, seeds: int, noise: float, rng: np.random.Generator
) -> dict[str, list[JudgedRun]]:
    """Runs of every method (one name may stand several times) on new identities, with training seeds of their own."""
    rows: dict[str, list[JudgedRun]] = {f"{number} {method}": [] for number, method in enumerate(methods)}
    for place in range(instances):
        people = {name: rng.standard_normal(kind.clusters) * of.identity_sd[name] for name, kind in of.kinds.items()}
        references = {which: _run("none", 0, of, means, people, None, 0.0, rng) for which, means in of.references.items()}
        scores = {which: record.scores for which, (record, _) in references.items()}
        instance = Instance(
            str(place),
            {"clean": references["clean"][0], "compromised": references["compromised"][0]},
            {
                "clean": lambda sums=references["clean"][1]: sums,
                "compromised": lambda sums=references["compromised"][1]: sums,
            },
            basis(scores["clean"], scores["compromised"]),
        )
        for title, method in zip(rows, methods, strict=True):
            for seed in range(seeds):
                record, sums = _run(method, seed, of, of.means[method], people, of.moves[method], noise, rng)
                gaps = gaps_of(record.scores, scores["clean"], scores["compromised"])
                parts = instance.basis.of(record.scores)
                rows[title].append(JudgedRun(record, lambda sums=sums: sums, instance, gaps, parts, Verdict("", "")))
    return rows


def _run(
    method: str,
    seed: int,
    of: World,
    means: Mapping[str, float],
    people: Mapping[str, np.ndarray],
    moves: np.ndarray | None,
    noise: float,
    rng: np.random.Generator,
) -> tuple[RunRecord, dict[str, ClusterSums]]:
    """A model's scores on given people. A seed's move has the covariance of the method's runs on one instance."""
    moved = np.zeros(len(of.kinds))
    if moves is not None:
        moved = noise * (rng.standard_normal(len(moves)) @ moves)
    scores, sums = {}, {}
    for (name, kind), move in zip(of.kinds.items(), moved, strict=True):
        spread = of.identity_sd[name] * INTERACTION * noise * (moves is not None)
        values = means[name] + people[name] + move + spread * rng.standard_normal(kind.clusters)
        size = kind.n / kind.clusters
        # Nobody has a number of their own in two metrics here; where rows stand for themselves they have none at all.
        label = None if kind.n == kind.clusters else np.arange(kind.clusters)
        sums[name] = ClusterSums(values * size, np.full(kind.clusters, size), label)
        # Not cut at the metric's bounds: that would hide a part of the noise.
        scores[name] = kind.model_copy(update={"value": float(values.mean()), "bounds": (-100.0, 100.0)})
    record = RunRecord(
        id=f"{method} {seed}", status="ok", spec=RunSpec(method=method, seed=seed), scores=scores, created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )  # fmt: skip
    return record, sums


def naive_winner(found: PairedDifference) -> bool:
    """What a reader would call a winner who looks at identities alone: their interval leaves zero out."""
    return found.identity_low is not None and (found.identity_low > 0 or (found.identity_high or 0.0) < 0)


def simulate(
    of: World, design: tuple[int, int, int], trials: int, *, method: str | None = None, noise: float = 1.0
) -> dict[str, int]:
    """Trials with a false winner: by the tests of `salmu compare`, by identities alone (for two copies), on any metric.

    Args:
        method: None: another one, drawn among all, in each trial.
        noise: multiplies what seeds move.
    """
    copies, instances, seeds = design
    rng = numpy_generator(0, "aa", *design, method, noise)
    methods = sorted(of.means)
    found = {"overall": 0, "naive": 0, "metrics": 0}
    for _ in range(trials):
        chosen = method or methods[rng.integers(len(methods))]
        differences = paired_differences(draw_rows(of, [chosen] * copies, instances, seeds, noise, rng))
        found["overall"] += any(d.outcome != "tie" for d in differences)
        found["naive"] += any(naive_winner(d) for d in differences)
        found["metrics"] += any(m.outcome != "tie" for d in differences for m in d.metrics.values())
    return found


def real_pairs(of: World, instances: int, seeds: int, trials: int) -> dict[str, int]:
    """Two methods drawn among all: how often they are told apart, and how often the wrong way round."""
    rng = numpy_generator(0, "aa", "real pairs", instances, seeds)
    truth = {method: _true_overall(of, method) for method in of.means}
    methods = sorted(of.means)
    found = {"told apart": 0, "the wrong way round": 0}
    for _ in range(trials):
        first, second = rng.choice(methods, 2, replace=False)
        [d] = paired_differences(draw_rows(of, [first, second], instances, seeds, 1.0, rng))
        found["told apart"] += d.outcome != "tie"
        found["the wrong way round"] += d.outcome != "tie" and (d.difference > 0) != (truth[first] > truth[second])
    return found


def _true_overall(of: World, method: str) -> float:
    def scores(means: Mapping[str, float]) -> dict[str, ScoreRecord]:
        return {name: of.kinds[name].model_copy(update={"value": value}) for name, value in means.items()}

    clean, compromised, own = scores(of.references["clean"]), scores(of.references["compromised"]), scores(of.means[method])
    return overall_score(own, clean, compromised) or 0.0


def stored_noise() -> dict[str, dict[str, Any]]:
    """The largest standard deviations of a method's runs on one instance: of the overall score, and of a distance."""
    stored = every_stored()
    groups, kinds = cells_with_seeds(stored), stored[0]["references"]["compromised"]

    def sd(method: str, value: Callable[[Cell], float]) -> float:
        deviations = _within([np.array([value(cell) for cell in cells]) for cells in groups[method]])
        return float(np.sqrt((deviations**2).sum()))

    overall = {method: sd(method, lambda cell: cell.overall) for method in groups}
    gaps = {
        (method, name): sd(method, lambda cell, name=name: cell.gaps[name])
        for method, tables in groups.items()
        for name in tables[0][0].gaps
        if kinds[name].get("scored", True)
    }
    noisiest, (method, metric) = max(overall, key=lambda m: overall[m]), max(gaps, key=lambda key: gaps[key])
    return {
        "overall": {"sd": overall[noisiest], "method": noisiest},
        "gap": {"sd": gaps[method, metric], "method": method, "metric": metric},
    }


def rate(count: int, trials: int) -> dict[str, float]:
    """A share with its exact 95 % interval (Clopper & Pearson 1934)."""
    interval = stats.binomtest(count, trials).proportion_ci(0.95)
    return {
        "count": count,
        "trials": trials,
        "rate": count / trials,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def measured(folder: Path) -> list[dict[str, Any]]:
    """What training seeds really move, of every method below a folder with at least two: standard deviations of the overall score and
    of the largest-moved metric's distance, and what they move single identities by as a share of what identities differ by."""
    loaded = load_records(folder)
    references = {r.spec.start: r for r in loaded.records if r.kind == "reference"}
    clean, compromised = references["clean"].scores, references["compromised"].scores
    groups: dict[str, list[tuple[RunRecord, Path]]] = {}
    for record, place in zip(loaded.records, loaded.folders, strict=True):
        if record.kind == "run" and record.scores:
            groups.setdefault(record.spec.method, []).append((record, place))
    found = []
    for method, runs in sorted(groups.items()):
        if len(runs) < 2:
            continue
        gaps = [gaps_of(record.scores, clean, compromised) for record, _ in runs]
        overall = [overall_score(record.scores, clean, compromised) or 0.0 for record, _ in runs]
        spread = {name: float(np.std([one[name] for one in gaps], ddof=1)) for name in gaps[0]}
        tables = [read_cluster_sums(record, place) for record, place in runs]
        shares = [s for name in gaps[0] if (s := _interaction([t[name] for t in tables if name in t])) is not None]
        widest = max(spread, key=lambda name: spread[name])
        found.append(
            {
                "method": method, "seeds": len(runs), "overall": float(np.mean(overall)), "overall_sd": float(np.std(overall, ddof=1)),
                "widest": widest, "gap_sd": spread[widest], "interaction": float(np.median(shares)) if shares else None,
            }
        )  # fmt: skip
    return found


def _interaction(tables: Sequence[ClusterSums]) -> float | None:
    """sd of what a seed does to one identity beyond what it does to all, over the sd of identities."""
    if len(tables) < 2 or len({len(table.sums) for table in tables}) > 1:
        return None
    values = np.array([table.sums / table.sizes for table in tables])
    between = float(values.mean(axis=0).std(ddof=1))
    own = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    degrees = (values.shape[0] - 1) * (values.shape[1] - 1)
    return None if between == 0 else float(np.sqrt((own**2).sum() / degrees)) / between


def share(found: Mapping[str, float]) -> str:
    """A rate with its interval, in words."""
    return f"{found['rate']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def docs(content: Mapping[str, Any]) -> str:
    """The page on comparisons with its table made anew."""
    rows = [
        f"| {one['copies']} | {one['instances']} | {one['seeds']} | {share(one['overall'])} | {share(one['metrics'])} | {share(one['naive'])} |"
        for one in content["aa"]
        if one["method"] == "all"
    ]
    head = [
        "| copies | instances | training seeds | false winner, overall | false winner, any metric | by identities alone |",
        "|---|---|---|---|---|---|",
    ]
    before, rest = DOCS.read_text(encoding="utf-8").split(START)
    return before + START + "\n".join([*head, *rows, "", noise_in_words(content), ""]) + END + rest.split(END)[1]


def noise_in_words(content: Mapping[str, Any]) -> str:
    """What training seeds move at most, beside what comparisons assume."""
    noise = content["noise"]
    return (
        f"On one instance, runs of one of the {content['methods']} methods that differ in their training seeds have a standard deviation of at most"
        f" {noise['overall']['sd']:.3f} in the overall score ({noise['overall']['method']}) and {noise['gap']['sd']:.3f} in a distance to the"
        f" target ({noise['gap']['method']}, {noise['gap']['metric']}); comparisons assume {OVERALL_NOISE:g} and {GAP_NOISE:g} where"
        " seeds do not show it."
    )


def page(content: Mapping[str, Any]) -> str:
    """The page of what `main` stores."""
    lines = [
        "# Two copies of one method: how often is one called better?\n",
        f"Made by `{content['command']}`. Each line: {content['trials']} simulated comparisons (of ten copies {content['trials'] // 4}) of copies of one method that differ in their training"
        " seeds alone; a false winner is a copy that `salmu compare` calls significantly better than another, on the overall score or, in"
        " the next column, on any metric. In brackets: exact 95 % intervals. The last column is what one would get by looking at identities"
        " alone, as an interval over identities does.\n",
        "| method | copies | instances | training seeds | false winner, overall | false winner, any metric | by identities alone |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['method']} | {one['copies']} | {one['instances']} | {one['seeds']} | {share(one['overall'])} | {share(one['metrics'])} | {share(one['naive'])} |"
        for one in content["aa"]
    ]
    lines += [
        f"\n{noise_in_words(content)}\n",
        "## Two different methods\n",
        f"{content['trials']} pairs drawn among the {content['methods']} methods of the head-to-head, their true values those of its means:\n",
        "| instances | training seeds | told apart | the wrong way round |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one['instances']} | {one['seeds']} | {share(one['told apart'])} | {share(one['the wrong way round'])} |"
        for one in content["pairs"]
    ]
    if content["measured"]:
        lines += [
            "\n## What training seeds really move\n",
            f"Runs on one instance of mini (`{content['measured_command']}`), presets, budget 1x:\n",
            "| method | seeds | overall | sd over seeds | metric that moves most | sd of its distance | identities: what a seed moves them / what they differ by |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {m['method']} | {m['seeds']} | {m['overall']:.3f} | {m['overall_sd']:.3f} | {m['widest']} | {m['gap_sd']:.3f} | {'–' if m['interaction'] is None else format(m['interaction'], '.2f')} |"
            for m in content["measured"]
        ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--trials", default=1000, show_default=True)
@click.option("--runs", type=click.Path(path_type=Path, exists=True), help="Real runs with several training seeds.")
def main(trials: int, runs: Path | None) -> None:
    """Simulate, store, and write the page."""
    of = world()
    before = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}
    aa = []
    noise_there = stored_noise()
    cases: list[tuple[str | None, float]] = [(None, 1.0), (noise_there["overall"]["method"], 1.0), (None, 2.0)]
    for method, noise in cases:
        for design in (
            DESIGNS if method is None and noise == 1 else [d for d in DESIGNS if d in ((2, 1, 1), (2, 1, 3), (10, 1, 3))]
        ):
            # Ten copies are 45 comparisons a trial, and take as much longer.
            tries = trials if design[0] == 2 else trials // 4
            found = simulate(of, design, tries, method=method, noise=noise)
            title = (method or "all") + ("" if noise == 1 else f", {noise:g} times the noise")
            one = dict(zip(("copies", "instances", "seeds"), design, strict=True))
            aa.append({"method": title, **one, **{name: rate(count, tries) for name, count in found.items()}})
            print(title, *design, found, flush=True)
    pairs = []
    for instances, seeds in ((1, 1), (1, 3), (1, 5), (3, 1), (3, 3)):
        told = {name: rate(count, trials) for name, count in real_pairs(of, instances, seeds, trials).items()}
        pairs.append({"instances": instances, "seeds": seeds, **told})
        print("pairs", instances, seeds, told["told apart"]["rate"], told["the wrong way round"]["rate"], flush=True)
    content = {
        "command": f"{COMMAND} --trials {trials}",
        "trials": trials,
        "methods": len(of.means),
        "noise": noise_there,
        "aa": aa,
        "pairs": pairs,
        "measured": measured(runs) if runs else before.get("measured", []),
        "measured_command": "salmu compare METHOD ... --seeds 0,1,2,... --cpu",
    }
    write_json(STORED, content)
    write_text(PAGE, page(content))
    write_text(DOCS, docs(content))


if __name__ == "__main__":
    main()
