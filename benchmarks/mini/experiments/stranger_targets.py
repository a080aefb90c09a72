"""What each part of `stranger-targets` does on mini, and what it costs: ablations, and oracles that are shown the holdouts.

    uv run python benchmarks/mini/experiments/stranger_targets.py                                    # development instance 3
    uv run python benchmarks/mini/experiments/stranger_targets.py --instances 0,1,2 --variants full  # instances nothing was chosen on

Writes `benchmarks/mini/results/stranger_targets.json` and `.md` after every run; the same command goes on where it was cut, and keeps what
other calls measured. `--minutes N` begins no run after N minutes. `--size tiny` tries this script and writes below `--out`. All runs are
in one process of one thread.

An oracle holds the captions, the pictures or both of the holdout splits beside what the method makes up: more than any method may see. It
is the method with its own budget and a limit for what better neighbours could give, not for what is possible.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from salmu_stranger_targets import StrangerTargets

from salmu_authors.testing import toy_context
from salmu_core import DualEncoder, UnlearnContext
from salmu_core.benchmark import Benchmark
from salmu_core.comparison.overall import Scores, basis
from salmu_core.data.cache import DataCache
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.files.writing import write_json, write_text
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunSpec
from salmu_core.runner.compare import MethodChoice
from salmu_core.runner.planned import plan_comparison
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.spec.resolve import make_benchmark, make_metrics

RESULTS = Path(__file__).parents[1] / "results"
DOCS = Path(__file__).parents[3] / "docs" / "stranger-targets.md"
START, END = (
    "<!-- stranger targets: benchmarks/mini/results/stranger_targets.json -->\n",
    "<!-- end of stranger targets -->\n",
)
COMMAND = "uv run python benchmarks/mini/experiments/stranger_targets.py"
#: Title -> options.
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "text encoder alone": {"faces": 0.0},
    "no made-up neighbours": {"neighbours": 0},
    "no other values": {"swapped": 0},
    "one stranger for all": {"strangers": 1},
    "a stranger for each person": {"strangers": 60, "candidates": 60},
    "faces all the way": {"faces": 1.0},
    "kept twice as hard": {"keep": 2.0},
}
HOLDOUTS = ("holdout_identity", "holdout_association")


class WithHoldouts(StrangerTargets):
    """The method, shown the holdouts' captions among those that stay: not a method, an oracle."""

    shown: Sequence[str] = ()

    def see(self, benchmark: Benchmark) -> None:
        """Read what no method may."""
        self.shown = [caption for name in HOLDOUTS for caption in benchmark.split(name).render(None)]

    def captions_that_stay(self, draw: random.Random) -> list[str]:
        """Half of them are the holdouts' own."""
        made_up = super().captions_that_stay(draw)
        return [*made_up[::2], *(draw.choice(self.shown) for _ in made_up[1::2])]


class WithClean(StrangerTargets):
    """The method with what Clean makes of a forgotten caption in the place of a stranger's: not a method, an oracle. Both models come from
    one first stage, so their spaces can be compared."""

    clean: DualEncoder

    def see(self, benchmark: Benchmark) -> None:
        """Read what no method may."""
        self.clean = benchmark.load_model("clean").requires_grad_(False).eval()

    @torch.no_grad()
    def prepare(self, ctx: UnlearnContext) -> None:
        """Made-up captions of forgotten people get Clean's targets as well."""
        super().prepare(ctx)
        tokens = self._moved[0]
        self._moved = tokens, torch.cat([self.clean.encode_text(part) for part in tokens.split(256)])

    def forgotten_as(self, rows: Sequence[int]) -> torch.Tensor:
        """What Clean makes of them."""
        return self.clean.encode_text(self._ctx.tokenize([self._request.captions[row] for row in rows]))


#: Title -> class.
ORACLES: dict[str, type[WithHoldouts | WithClean]] = {
    "oracle: holdouts' captions held": WithHoldouts,
    "oracle: Clean's own targets": WithClean,
}


def run_oracle(
    benchmark: Benchmark, oracle: type[WithHoldouts | WithClean], budget: float, plugins: Plugins, data: DataCache
) -> Scores:
    """Train as a run does, with what the oracle sees in sight, and score."""
    method = oracle(StrangerTargets.Options())
    method.see(benchmark)
    with toy_context(method, budget=budget, benchmark=benchmark) as ctx:
        method.unlearn(ctx)
        model = ctx.model
    spec = RunSpec(method="stranger-targets", benchmark="mini", benchmark_options=benchmark.options.model_dump())
    return evaluate_model(model, benchmark, make_metrics(plugins, {}, benchmark, spec), data=data).scores


def measured(title: str, instance: int, scores: Scores, clean: Scores, compromised: Scores) -> dict[str, Any]:
    """Parts of the score, and where every metric went: 0 Clean and 1 Compromised for forgetting, the change for all others."""
    counted = basis(clean, compromised)
    parts = counted.of(scores)
    assert parts is not None
    values = {}
    for name, kind in counted.kinds.items():
        low, high, value = clean[name].value, compromised[name].value, scores[name].value
        if kind.aspect == "forgetting":
            values[name] = (value - low) / (high - low)
        elif kind.aspect == "holdout":
            values[name] = (value - high) / abs(high - low)
        elif kind.aspect == "general":
            values[name] = value - high
        else:
            values[name] = value / high - 1
    numbers = {"overall": parts.overall, "forgotten": parts.forgotten, "kept": parts.kept, "general": parts.general}
    return {
        "title": title,
        "instance": instance,
        **{name: round(float(v), 4) for name, v in numbers.items()},
        "metrics": {name: round(float(v), 4) for name, v in values.items()},
    }


def as_markdown(stored: Mapping[str, Any]) -> str:
    """One row for each variant: means over instances."""
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for run in stored["runs"]:
        groups.setdefault((run["title"], run["instance"] in (3, 4)), []).append(run)
    names = list(stored["runs"][0]["metrics"]) if stored["runs"] else []
    lines = [
        f"Made by `{stored['command']}`: mini {stored['version']}, budget {stored['budget']:g}x, one training seed. Instances 3 and 4 are"
        " those the design was chosen on. RetFail to CoreAssoc: 0 is Clean, 1 Compromised. InterIdSim and IntraIdSim: change in units of"
        " Compromised less Clean. GenKnow: change. VisIdInt and FragSim: relative change.",
        "",
        "| variant | instances | overall | forgotten | kept | general | " + " | ".join(names) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(names),
    ]
    for (title, _), runs in groups.items():
        instances = ", ".join(str(run["instance"]) for run in runs)
        cells = [sum(run[part] for run in runs) / len(runs) for part in ("overall", "forgotten", "kept", "general")]
        changes = [sum(run["metrics"][name] for run in runs) / len(runs) for name in names]
        shown = " | ".join([*(f"{cell:.2f}" for cell in cells), *(f"{change:+.3f}" for change in changes)])
        lines.append(f"| {title} | {instances} | {shown} |")
    return "\n".join([*lines, ""])


@dataclass
class Table:
    """The runs of one instance, written as they end.

    Attributes:
        place: folder of the results.
        about: what stands beside the runs.
        references: Clean's and Compromised's scores.
    """

    place: Path
    about: Mapping[str, Any]
    instance: int
    references: dict[str, Scores] = field(default_factory=dict)

    def stored(self) -> dict[str, Any]:
        """What is there."""
        path = self.place / "stranger_targets.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": []}

    def has(self, title: str) -> bool:
        """Was it measured?"""
        return any((run["title"], run["instance"]) == (title, self.instance) for run in self.stored()["runs"])

    def keep(self, title: str, scores: Scores) -> None:
        """Put a run in the place of an earlier one of the same title and instance."""
        run = measured(title, self.instance, scores, self.references["clean"], self.references["compromised"])
        others = [r for r in self.stored()["runs"] if (r["title"], r["instance"]) != (title, self.instance)]
        content = {**self.about, "runs": [*others, run]}
        write_json(self.place / "stranger_targets.json", content)
        table = as_markdown(content)
        write_text(self.place / "stranger_targets.md", f"# Stranger targets on mini: parts and limits\n\n{table}")
        if self.place == RESULTS:
            before, _, rest = DOCS.read_text(encoding="utf-8").partition(START)
            write_text(DOCS, before + START + table + END + rest.partition(END)[2])
        print(json.dumps(run), flush=True)


@click.command()
@click.option("--instances", default="3", show_default=True, help="Benchmark seeds.")
@click.option("--variants", default="", help="Titles, separated by semicolons; default: all, with oracles.")
@click.option("--budget", default=5.0, show_default=True)
@click.option("--minutes", type=float, help="Begin no run after so many; the same command goes on.")
@click.option("--size", default="mini", show_default=True, help="Of mini.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/stranger-targets"), help="Run directories.")
def main(instances: str, variants: str, budget: float, minutes: float | None, size: str, out: Path) -> None:
    """Run what is missing and write the table."""
    torch.set_num_threads(1)
    started, plugins, settings = time.monotonic(), load_plugins(), Settings(cpu=True)
    chosen = variants.split(";") if variants else [*VARIANTS, *ORACLES]

    def stop_when_late() -> None:
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            print("The time is over. The same command goes on.")
            sys.exit(2)

    for instance in map(int, instances.split(",")):
        options = {"seed": instance, **({} if size == "mini" else {"size": size})}
        benchmark = make_benchmark("mini", options, plugins, settings.cache_folder)
        benchmark.build()
        about = {"command": COMMAND, "version": benchmark.version, "budget": budget}
        table = Table(RESULTS if size == "mini" else out, about, instance)
        variants_chosen = [MethodChoice("stranger-targets", VARIANTS[title]) for title in chosen if title in VARIANTS]
        planned = plan_comparison(
            variants_chosen or [MethodChoice("none")],  # the references alone
            benchmark_options=options,
            budgets=[budget],
            preset="none",
            out=out / f"instance-{instance}",
            settings=settings,
            plugins=plugins,
        )
        for item in sorted(planned, key=lambda item: item.resolved.spec.method != "none"):  # references first
            stop_when_late()
            scores, spec = run_resolved(item.resolved, item.folder, settings, plugins).scores, item.resolved.spec
            if spec.method == "none":
                table.references[str(spec.start)] = scores
            else:
                title = next(t for t in chosen if VARIANTS.get(t) == dict(spec.method_options))
                table.keep(title, scores)
        for title in [title for title in chosen if title in ORACLES and not table.has(title)]:
            stop_when_late()
            data = settings.data_cache(plugins, title)
            table.keep(title, run_oracle(benchmark, ORACLES[title], budget, plugins, data))


if __name__ == "__main__":
    main()
