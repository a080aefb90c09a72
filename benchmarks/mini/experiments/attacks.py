"""Does it stay forgotten? Attacks on every method, and on models that never learned: the table and what each attack costs.

    uv run python benchmarks/mini/experiments/attacks.py                                   # every method at 1x, the fast attacks
    uv run python benchmarks/mini/experiments/attacks.py --instances 0,1 --audits all --methods delete,slug   # do fast ones miss something?

Runs lie where `head_to_head.py` leaves them, so its models are attacked and not made again. After each attacked run
`benchmarks/mini/results/attacks.json` and `attacks.md` are written, or `attacks-all.json` and `attacks-all.md`, and after each attack the run's own `audits.json`: the same command
goes on where it was cut. `--minutes N` begins nothing after N minutes. `--size tiny` tries this script and writes below `--out`.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import click
import torch

sys.path.insert(0, str(Path(__file__).parent))

from planned import carry_out
from salmu_audits.comparison import attack_runs, chosen_audits

from salmu_core import RunSpec, Settings
from salmu_core.comparison.falls import fall_tests, general_rows
from salmu_core.comparison.verdict import judge
from salmu_core.files.writing import write_json, write_text
from salmu_core.models.dual_encoder import WEIGHTS_FILE
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.attacks import read_attacks
from salmu_core.records.store import read_record
from salmu_core.runner.planned import PlannedRun, plan_comparison
from salmu_core.runner.run import finished_record
from salmu_core.spec.resolve import resolve

RESULTS = Path(__file__).parents[1] / "results"
COMMAND = "uv run python benchmarks/mini/experiments/attacks.py"
NEVER = "never learned"  # Clean, trained on: models that nobody can get the facts from
Choice = Literal["fast", "all"]


def never_learned(seeds: Sequence[int], options: Mapping[str, Any], folder: Path, settings: Settings, plugins: Plugins) -> list[PlannedRun]:  # fmt: skip
    """Clean, fine-tuned on retain pairs with several seeds: what attacks find where there is nothing to find."""
    planned = []
    for seed in seeds:
        spec = RunSpec(
            method="retain-finetuning", start="clean", seed=seed, benchmark="mini", benchmark_options=dict(options)
        )
        resolved = resolve(spec, plugins, settings.cache_folder)
        place = folder / "never-learned" / resolved.folder_name
        planned.append(PlannedRun(resolved, place, finished_record(place, resolved) is not None))
    return planned


def title_of(item: PlannedRun) -> str:
    """A run's name in the table."""
    never = item.resolved.spec.start == "clean" and item.resolved.spec.method != "none"
    return f"{NEVER}, seed {item.resolved.spec.seed}" if never else item.resolved.spec.method


def make_runs(planned: Sequence[PlannedRun], settings: Settings, workers: int, minutes: float | None) -> int:
    """Run what is missing, and again what was run and has lost its model. Returns how many were not begun."""

    def lost(item: PlannedRun) -> bool:
        if not item.done or item.resolved.spec.method == "none":
            return False
        return read_record(item.folder).model_file is not None and not (item.folder / WEIGHTS_FILE).is_file()

    missing = [item for item in planned if not item.done]
    left = carry_out(missing, settings, workers, lambda item, record: None, minutes) if missing else 0
    again = [item for item in planned if lost(item)]
    if again and not left:
        left = carry_out(again, replace(settings, overwrite=True), workers, lambda item, record: None, minutes)
    return left


def _attack(spec: RunSpec, folder: Path, title: str, choice: Choice, settings: Settings) -> list[str]:
    """In a worker: what this run's `audits.json` lacks."""
    torch.set_num_threads(1)
    plugins = load_plugins()
    resolved = resolve(spec, plugins, settings.cache_folder)
    problems: list[str] = attack_runs([(resolved.benchmark, folder, title)], choice, settings, plugins)
    return problems


def measured(
    item: PlannedRun,
    references: Mapping[str, PlannedRun],
    instance: int,
    fast: Mapping[str, Mapping[str, Any]],
    choice: Choice,
) -> dict[str, Any]:
    """What is kept of an attacked run.

    Args:
        fast: name -> options of the fast attacks.
        choice: which results are kept, of all that the run's folder holds.
    """
    record = read_record(item.folder)
    clean, compromised = (read_record(references[which].folder) for which in ("clean", "compromised"))
    falls = fall_tests(record, item.folder, general_rows(compromised, references["compromised"].folder))
    names = ("audit", "clean", "compromised", "seconds", "samples", "references", "reason")
    never = title_of(item).startswith(NEVER)
    return {
        "instance": instance,
        "title": title_of(item),
        "id": record.id,
        "verdict": "" if never else judge(record, clean.scores, compromised.scores, falls=falls).name,
        "attacks": [
            {
                **{name: getattr(found, name) for name in names},
                "recovered": found.recovered,
                "counts": found.counts,
                "fast": fast.get(found.audit) == found.options,
            }
            for found in read_attacks(record, item.folder).results
            if choice == "all" or fast.get(found.audit) == found.options
        ],
    }


def page_of(choice: str, results: Path) -> Path:
    """The table of a choice of attacks; its JSON stands beside it."""
    return results / ("attacks.md" if choice == "fast" else "attacks-all.md")


def keep(run: Mapping[str, Any], results: Path, about: Mapping[str, Any]) -> None:
    """Put a run in the place of an earlier one of the same title and instance, and write the table anew."""
    page = page_of(about["audits"], results)
    path = page.with_suffix(".json")
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": []}
    if stored.get("version", about["version"]) != about["version"]:
        stored = {"runs": []}  # of another version of mini
    place = (run["instance"], run["title"])
    others = [other for other in stored["runs"] if (other["instance"], other["title"]) != place]
    runs = sorted([*others, run], key=lambda one: (one["instance"], one["title"]))
    write_json(path, {**about, "runs": runs})
    write_text(page, as_markdown({**about, "runs": runs}))


def shares(attacks: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Attack -> share recovered, of those that were measured and tell Compromised from Clean."""
    found: dict[str, float] = {}
    for item in attacks:
        if item["recovered"] is not None and (item["counts"] or item["references"]):
            found[item["audit"]] = max(item["recovered"], found.get(item["audit"], item["recovered"]))
    return found


def summarised(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Title -> its shares (means over instances; of models that never learned the largest over their seeds), verdicts, and the most."""
    alone = {item["audit"] for run in runs for item in run["attacks"] if item["counts"]}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(NEVER if run["title"].startswith(NEVER) else run["title"], []).append(run)
    table = {}
    for title, group in groups.items():
        every = [shares(run["attacks"]) for run in group]
        join = max if title == NEVER else fmean
        joined = {
            name: join([own[name] for own in every if name in own]) for name in dict.fromkeys(n for o in every for n in o)
        }
        counted = {name: share for name, share in joined.items() if name in alone}
        by = max(counted, key=lambda name: counted[name], default="")
        verdicts = ", ".join(dict.fromkeys(run["verdict"] for run in group))
        quick = [shares([item for item in run["attacks"] if item.get("fast") and item["counts"]]) for run in group]
        table[title] = {
            "verdict": verdicts,
            "most": counted.get(by),
            "by": by,
            "of fast": max(
                (join(own[name] for own in quick if name in own) for name in alone if any(name in own for own in quick)),
                default=None,
            ),
            "shares": joined,
            "runs": len(group),
        }
    return table


def as_markdown(content: Mapping[str, Any]) -> str:
    """The table of attacks over methods, most recovered first, and what each attack costs."""
    runs = content["runs"]
    every = [item for run in runs for item in run["attacks"]]
    attacks = list(dict.fromkeys(item["audit"] for item in every))
    alone = {item["audit"] for item in every if item["counts"]}
    rows = sorted(summarised(runs).items(), key=lambda item: -(item[1]["most"] or 0.0))
    instances = sorted({run["instance"] for run in runs})
    compared = (" most of the fast |", "---|") if content["audits"] == "all" else ("", "")
    lines = [
        "# Does it stay forgotten?",
        "",
        f"Made by `{content['command']}`: mini {content['version']}, instances {', '.join(map(str, instances))}, budget 1x, one training"
        f" seed, attacks: {content['audits']}. Share recovered: 0 no more than from Clean, 100 all that the same attack gets from"
        " Compromised; means over instances. Attacks in *italics* need original weights or Clean, or tell Compromised from Clean"
        " nowhere, and do not count for *most*.",
        "",
        f"| method | verdict | most | by |{compared[0]} "
        + " | ".join(name if name in alone else f"*{name}*" for name in attacks)
        + " |",
        f"|---|---|---|---|{compared[1]}" + "---|" * len(attacks),
    ]
    for title, row in rows:
        cells = " | ".join("" if row["shares"].get(name) is None else f"{100 * row['shares'][name]:.0f}" for name in attacks)
        most, fast = ("" if row[key] is None else f"{100 * row[key]:.0f}" for key in ("most", "of fast"))
        beside = f" {fast} |" if compared[0] else ""
        lines.append(f"| {title} | {row['verdict']} | {most} | {row['by']} |{beside} {cells} |")
    lines += [
        "",
        f"*{NEVER}* is Clean, fine-tuned on retain pairs: the largest share over its seeds, by attack. Verdicts are those without attacks.",
        "",
        "| attack | from Clean | from Compromised | seconds a model | pairs trained on |",
        "|---|---|---|---|---|",
    ]
    for name in attacks:
        own = {
            key: [item[key] for item in every if item["audit"] == name and item[key] is not None]
            for key in ("clean", "compromised", "seconds", "samples")
        }
        shown = [f"{fmean(own[key]):{form}}" if own[key] else "" for key, form in (("clean", ".3f"), ("compromised", ".3f"), ("seconds", ".1f"), ("samples", ",.0f"))]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


@click.command()
@click.option("--instances", default="0", show_default=True, help="Benchmark seeds.")
@click.option("--methods", default="", help="Comma-separated; default: all that are installed.")
@click.option("--audits", type=click.Choice(["fast", "all"]), default="fast", show_default=True)
@click.option("--never-seeds", default=3, show_default=True, help="Models that never learned, on each instance.")
@click.option("--workers", default=2, show_default=True)
@click.option("--minutes", type=float, help="Begin nothing after so many; the same command goes on.")
@click.option("--size", default="mini", show_default=True, help="Of mini.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/head-to-head"), help="Run directories.")
def main(
    instances: str, methods: str, audits: Choice, never_seeds: int, workers: int, minutes: float | None, size: str, out: Path
) -> None:
    """Run, attack, write."""
    started = time.monotonic()
    plugins, settings = load_plugins(), Settings(cpu=True)
    results = RESULTS if size == "mini" else out / "stored"

    def minutes_left() -> float | None:
        return None if minutes is None else max(0.0, minutes - (time.monotonic() - started) / 60)

    for instance in map(int, instances.split(",")):
        options = {"seed": instance, **({} if size == "mini" else {"size": size})}
        folder = out / f"instance-{instance}"
        planned = plan_comparison(
            methods.split(",") if methods else None,
            benchmark_options=options,
            out=folder,
            settings=settings,
            plugins=plugins,
        )
        planned += never_learned(range(never_seeds), options, folder, settings, plugins)
        planned[0].resolved.benchmark.build()
        about = {
            "command": f"{COMMAND} --instances {instances} --audits {audits}" + (f" --methods {methods}" if methods else ""),
            "version": planned[0].resolved.benchmark.version,
            "audits": audits,
        }
        if make_runs(planned, settings, workers, minutes_left()):
            break
        references = {str(item.resolved.spec.start): item for item in planned if item.resolved.spec.method == "none"}
        attacked = [item for item in planned if item.resolved.spec.method != "none"]
        if not attack_all(attacked, references, instance, audits, settings, workers, minutes_left(), results, about):
            break
    print(f"{page_of(audits, results)}: {time.monotonic() - started:.0f} s")


def attack_all(
    runs: Sequence[PlannedRun],
    references: Mapping[str, PlannedRun],
    instance: int,
    choice: Choice,
    settings: Settings,
    workers: int,
    minutes: float | None,
    results: Path,
    about: Mapping[str, Any],
) -> bool:
    """Attack runs, a few at a time, and keep each. The first is attacked alone: what attacks get from the references is kept for all.

    Returns:
        Were all attacked, before the time was over?
    """
    started, waiting, done = time.monotonic(), list(runs), 0
    fast = {audit.name: audit.options.model_dump(mode="json") for audit in chosen_audits(load_plugins(), "fast")}
    going: dict[Future[list[str]], PlannedRun] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while waiting or going:
            over = minutes is not None and time.monotonic() - started > 60 * minutes
            while waiting and not over and len(going) < (workers if done else 1):
                item = waiting.pop(0)
                going[pool.submit(_attack, item.resolved.spec, item.folder, title_of(item), choice, settings)] = item
            if not going:
                break
            for future in wait(going, return_when=FIRST_COMPLETED).done:
                item = going.pop(future)
                for problem in future.result():
                    print(f"  {problem}", flush=True)
                keep(measured(item, references, instance, fast, choice), results, about)
                done += 1
                elapsed = time.monotonic() - started
                print(
                    f"{done}/{len(runs)} {elapsed:.0f} s attacked {title_of(item)} on instance {instance}; about"
                    f" {elapsed / done * (len(runs) - done) / 60:.0f} minutes left",
                    flush=True,
                )
    if waiting:
        print(
            f"The time is over: {len(waiting)} of {len(runs)} runs are not attacked. The same command goes on.", flush=True
        )
    return not waiting


if __name__ == "__main__":
    main()
