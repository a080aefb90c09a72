"""Do intervals and tests hold what they claim for three to five instances? A simulation of whole leaderboards.

    uv run python benchmarks/mini/experiments/coverage.py

A leaderboard of 20 methods is drawn many times. A method's score on an instance is its true mean, plus how the instance suits it, plus
what a training seed adds. Methods differ in how steady they are: a third have no training noise at all, the others have standard
deviations from log-normal distributions like those on `mini` (median .03, some above .1). Shown are, for three and five instances and
one to three seeds:

- coverage of the 95 % interval of a method's mean: by resampling instances and seeds (as before 0.2), by a t interval of the method's
  own, and by the t interval with variances moderated over methods that `salmu compare` and the head-to-head use;
- coverage of the 95 % interval of a difference, and its power after Holm's correction for all 190 comparisons, for true differences of
  .1, .2 and .35: as before 0.2 (the better of a t-test and a test that assumes a noise of .12 for each run, doubled) and as now;
- how often a leaderboard of equal methods shows any winner at all: it may be 5 %.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy import special

from salmu_core.comparison.paired import LEVEL, OVERALL_NOISE, holm, mean_intervals, paired_test, paired_tests
from salmu_core.files.writing import write_json, write_text
from salmu_core.seeding import numpy_generator

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = "uv run python benchmarks/mini/experiments/coverage.py"
METHODS = 20
NOISE_BEFORE = 0.12  # what was assumed of a run before 0.2
DESIGNS = [(instances, seeds) for instances in (3, 5) for seeds in (1, 2, 3)]
GAPS = (0.1, 0.2, 0.35)


def draw(rng: np.random.Generator, means: np.ndarray, instances: int, seeds: int) -> np.ndarray:
    """Scores, float [methods, instances, seeds]."""
    count = len(means)
    suits = np.minimum(rng.lognormal(math.log(0.03), 0.6, count), 0.2)
    noise = np.where(rng.random(count) < 1 / 3, 0.0, np.minimum(rng.lognormal(math.log(0.03), 0.8, count), 0.2))
    by_instance = suits[:, None] * rng.standard_normal((count, instances))
    by_seed = noise[:, None, None] * rng.standard_normal((count, instances, seeds))
    return means[:, None, None] + by_instance[:, :, None] + by_seed


def resampled_interval(rng: np.random.Generator, values: np.ndarray, draws: int = 400) -> tuple[float, float]:
    """The interval before 0.2: instances are drawn, then their seeds. values: float [instances, seeds]."""
    instances, seeds = values.shape
    rows = rng.integers(instances, size=(draws, instances))
    columns = rng.integers(seeds, size=(draws, instances, seeds))
    means = np.take_along_axis(values[rows], columns, axis=2).mean(axis=(1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def simulate(instances: int, seeds: int, worlds: int) -> dict[str, Any]:
    """Coverage and power of one design."""
    rng = numpy_generator(0, "coverage", instances, seeds)
    inside: dict[str, list[float]] = {}
    told: dict[str, dict[float, list[bool]]] = {"before": {gap: [] for gap in GAPS}, "now": {gap: [] for gap in GAPS}}
    false = {"before": 0, "now": 0}
    first, second = np.triu_indices(METHODS, 1)

    def note(name: str, low: float, high: float, true: float) -> None:
        inside.setdefault(name, []).append(low <= true <= high)

    def both_tests(scores: np.ndarray) -> dict[str, list[Any]]:
        differences = scores[first] - scores[second]
        groups = [[list(own) for own in pair] for pair in differences]
        old = [paired_test(list(pair.mean(axis=1)), noise=NOISE_BEFORE, spread_covers=True) for pair in differences]
        return {"before": old, "now": paired_tests(groups, noise=OVERALL_NOISE)}

    for _ in range(worlds):
        # Two blocks: methods of 0 and one at each gap above them.
        means = np.zeros(METHODS)
        means[: len(GAPS)] = GAPS
        scores = draw(rng, means, instances, seeds)
        own = scores.mean(axis=2)
        half = own.std(axis=1, ddof=1) / math.sqrt(instances) * special.stdtrit(instances - 1, 0.975)
        for number, (low, high) in enumerate(mean_intervals([[list(one) for one in method] for method in scores])):
            note("mean, resampled", *resampled_interval(rng, scores[number]), means[number])
            note("mean, own t", own[number].mean() - half[number], own[number].mean() + half[number], means[number])
            note("mean, moderated t", low, high, means[number])
        for name, tests in both_tests(scores).items():
            corrected = holm([test.p for test in tests])
            for test, p, a, b in zip(tests, corrected, first, second, strict=True):
                note(f"difference, {name}", test.low, test.high, means[a] - means[b])
                if b >= len(GAPS) > a:
                    told[name][GAPS[a]].append(p <= LEVEL and test.mean > 0)
        for name, tests in both_tests(draw(rng, np.zeros(METHODS), instances, seeds)).items():
            false[name] += min(holm([test.p for test in tests])) <= LEVEL
    return {
        "instances": instances,
        "seeds": seeds,
        "coverage": {name: round(float(np.mean(found)), 4) for name, found in inside.items()},
        "power": {
            name: {f"{gap:g}": round(float(np.mean(hits)), 4) for gap, hits in by.items()} for name, by in told.items()
        },
        "any false winner": {name: round(count / worlds, 4) for name, count in false.items()},
    }


def page(content: dict[str, Any]) -> str:
    """The page of the results."""
    columns = list(content["designs"][0]["coverage"])
    lines = [
        "# Coverage and power of the statistics of a leaderboard\n",
        f"Made by `{content['command']}`: {content['worlds']} simulated leaderboards of {METHODS} methods for each line, twice.\n",
        "Coverage of 95 % intervals:\n",
        "| instances | seeds | " + " | ".join(columns) + " |",
        "|---" * (2 + len(columns)) + "|",
        *(
            f"| {one['instances']} | {one['seeds']} | "
            + " | ".join(f"{one['coverage'][name]:.1%}" for name in columns)
            + " |"
            for one in content["designs"]
        ),
        f"\nPower after Holm's correction for all {METHODS * (METHODS - 1) // 2} comparisons, before 0.2 -> now, by true difference; and how"
        " often equal methods show any winner:\n",
        "| instances | seeds | " + " | ".join(f"{gap:g}" for gap in GAPS) + " | any false winner |",
        "|---" * (3 + len(GAPS)) + "|",
        *(
            f"| {one['instances']} | {one['seeds']} | "
            + " | ".join(
                f"{one['power']['before'][f'{gap:g}']:.0%} -> {one['power']['now'][f'{gap:g}']:.0%}" for gap in GAPS
            )
            + f" | {one['any false winner']['before']:.1%} -> {one['any false winner']['now']:.1%} |"
            for one in content["designs"]
        ),
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--worlds", default=300, show_default=True)
def main(worlds: int) -> None:
    """Simulate every design, store and print."""
    designs = []
    for instances, seeds in DESIGNS:
        designs.append(simulate(instances, seeds, worlds))
        print(designs[-1], flush=True)
    content = {"command": f"{COMMAND} --worlds {worlds}", "worlds": worlds, "designs": designs}
    write_json(RESULTS / "coverage.json", content)
    write_text(RESULTS / "coverage.md", page(content))


if __name__ == "__main__":
    main()
