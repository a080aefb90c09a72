"""Does it stay forgotten? Attacks on every method, and on models that never learned: the table and what each attack costs.

    python benchmarks/mini/experiments/attacks.py --bench-seeds 100                  # every method at 1x, the fast attacks
    python benchmarks/mini/experiments/attacks.py --bench-seeds 100,101 --audits all delete slug

Runs and attacks that are done are read back, so it can be stopped and called again. Writes `results/attacks.json` and
`results/attacks.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from salmu_audits.comparison import attack_runs

from salmu_core import RunSpec, Settings, compare
from salmu_core.files.writing import write_json, write_text
from salmu_core.plugins.registry import Plugins, load_plugins
from salmu_core.records.attacks import AuditResult, read_attacks
from salmu_core.records.schema import RunRecord
from salmu_core.runner.compare import MethodChoice
from salmu_core.runner.run import run_resolved
from salmu_core.spec.resolve import resolve

RESULTS = Path(__file__).parents[1] / "results"
NEVER = "never learned"  # Clean, trained on: models that nobody can get the facts from


def never_learned(
    seeds: Sequence[int], bench_seed: int, out: Path, settings: Settings, plugins: Plugins, choice: Literal["fast", "all"]
) -> list[tuple[RunRecord, Path]]:
    """Clean, fine-tuned on retain pairs with several seeds, and attacked: what the attacks find where there is nothing to find."""
    found = []
    for seed in seeds:
        spec = RunSpec(
            method="retain-finetuning", start="clean", seed=seed, benchmark="mini", benchmark_options={"seed": bench_seed}
        )
        resolved = resolve(spec, plugins, settings.cache_folder)
        folder = out / "never-learned" / resolved.folder_name
        record = run_resolved(resolved, folder, settings, plugins)
        for problem in attack_runs([(resolved.benchmark, folder, f"{NEVER}, seed {seed}")], choice, settings, plugins):
            print(problem)
        found.append((record, folder))
    return found


def shares(results: Sequence[AuditResult]) -> dict[str, float]:
    """Attack -> share recovered, of those that were measured and tell Compromised from Clean."""
    found: dict[str, float] = {}
    for item in results:
        if item.recovered is not None and (item.counts or item.references):
            found[item.audit] = max(item.recovered, found.get(item.audit, item.recovered))
    return found


def as_markdown(content: Mapping[str, Any]) -> str:
    """The table of attacks over methods, most recovered first, and what each attack costs."""
    attacks, alone = list(content["attacks"]), set(content["alone"])
    rows = sorted(content["rows"].items(), key=lambda item: -(item[1]["most"] or 0.0))
    lines = [
        "# Does it stay forgotten?",
        "",
        f"Made by `{content['command']}`: mini {content['version']}, instances {content['bench_seeds']}, budget 1x, one training seed."
        " Share recovered: 0 no more than from Clean, 100 all that the same attack gets from Compromised; means over instances."
        " Attacks in *italics* need original weights or Clean and do not count for *most*.",
        "",
        "| method | verdict | most | by | " + " | ".join(name if name in alone else f"*{name}*" for name in attacks) + " |",
        "|---|---|---|---|" + "---|" * len(attacks),
    ]
    for title, row in rows:
        cells = " | ".join("" if row["shares"].get(name) is None else f"{100 * row['shares'][name]:.0f}" for name in attacks)
        most = "" if row["most"] is None else f"{100 * row['most']:.0f}"
        lines.append(f"| {title} | {row['verdict']} | {most} | {row['by']} | {cells} |")
    lines += [
        "",
        f"*{NEVER}* is Clean, fine-tuned on retain pairs: the largest share over its seeds, by attack.",
        "",
        "| attack | from Clean | from Compromised | seconds a model | pairs trained on |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {cost['clean']:.3f} | {cost['compromised']:.3f} | {cost['seconds']:.1f} | {cost['samples']:,.0f} |"
        for name, cost in content["costs"].items()
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Run, attack, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: all that are installed")
    parser.add_argument("--bench-seeds", default="100")
    parser.add_argument("--audits", choices=("fast", "all"), default="fast")
    parser.add_argument("--never-seeds", type=int, default=3, help="models that never learned, on each instance")
    parser.add_argument("--out", type=Path, default=Path("results/attacks"))
    parser.add_argument("--cache", type=Path, default=None)
    given = parser.parse_args()
    plugins, settings = load_plugins(), Settings(cache=given.cache, cpu=True)
    bench_seeds = [int(seed) for seed in given.bench_seeds.split(",")]
    rows: dict[str, dict[str, list[Any]]] = {}
    every: list[AuditResult] = []
    version = ""
    for bench_seed in bench_seeds:
        out = given.out / f"seed{bench_seed}"
        options = {"seed": bench_seed}
        methods: list[str | MethodChoice] | None = list(given.methods) or None
        result = compare(
            methods, benchmark_options=options, out=out, settings=settings, plugins=plugins, audits=given.audits
        )
        version = result.comparison.benchmark_version
        for row in result.comparison.rows:
            if row.kind == "run":
                [folder] = [
                    path.parent
                    for path in (out / "runs").glob("*/record.json")
                    if path.parent.name.endswith(row.records[0][:8])
                ]
                record = next(item for item in result.records if item.id == row.records[0])
                attacked = read_attacks(record, folder).results
                every += attacked
                known = rows.setdefault(row.title, {"verdict": [], "shares": []})
                known["verdict"].append(row.verdict)
                known["shares"].append(shares(attacked))
        for record, folder in never_learned(range(given.never_seeds), bench_seed, out, settings, plugins, given.audits):
            attacked = read_attacks(record, folder).results
            every += attacked
            known = rows.setdefault(NEVER, {"verdict": [""], "shares": []})
            known["shares"].append(shares(attacked))
    names = list(dict.fromkeys(item.audit for item in every))
    alone = [name for name in names if any(item.counts for item in every if item.audit == name)]
    table: dict[str, Any] = {}
    for title, known in rows.items():
        join = max if title == NEVER else fmean
        joined = {
            name: join([found[name] for found in known["shares"] if name in found])
            for name in names
            if any(name in found for found in known["shares"])
        }
        counted = {name: share for name, share in joined.items() if name in alone}
        by = max(counted, key=lambda name: counted[name], default="")
        table[title] = {
            "verdict": ", ".join(dict.fromkeys(known["verdict"])), "most": counted.get(by), "by": by, "shares": joined,
        }  # fmt: skip
    costs = {
        name: {
            key: fmean(
                [getattr(item, key) for item in every if item.audit == name and getattr(item, key) is not None] or [0.0]
            )
            for key in ("clean", "compromised", "seconds", "samples")
        }
        for name in names
    }
    command = f"python benchmarks/mini/experiments/attacks.py --bench-seeds {given.bench_seeds} --audits {given.audits}"
    content = {
        "command": " ".join([command, *given.methods]), "version": version, "bench_seeds": bench_seeds, "attacks": names,
        "alone": alone, "rows": table, "costs": costs,
    }  # fmt: skip
    write_json(RESULTS / "attacks.json", content)
    write_text(RESULTS / "attacks.md", as_markdown(content))
    print(as_markdown(content))


if __name__ == "__main__":
    main()
