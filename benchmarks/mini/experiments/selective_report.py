"""Page about `selective`, from its stored results alone.

    uv run python benchmarks/mini/experiments/selective_report.py

Writes `benchmarks/mini/results/selective.md`; a test fails when it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from selective import ABLATIONS, BASELINES, COMMAND, RESULTS, Kept

from salmu_core.files import write_text

PAGE = RESULTS.with_suffix(".md")
FORGETTING = ("RetFail", "AssocStr", "ACS", "IdZSC", "CoreAssoc")
HOLDOUTS = ("InterIdSim", "IntraIdSim")
METRICS = (*FORGETTING, "GenKnow", *HOLDOUTS, "VisIdInt", "FragSim")
Scores = Mapping[str, float]


def gap(name: str, value: float, clean: Scores, compromised: Scores) -> float:
    """`|value - Clean| / |Compromised - Clean|`."""
    return abs(value - clean[name]) / abs(compromised[name] - clean[name])


#: A target: words, the figure of a run, whether it is met, how it is printed.
Target = tuple[str, Callable[[Scores, Scores, Scores], float], Callable[[float], bool], str]


def targets() -> list[Target]:
    """The targets, in order of the metrics."""

    def forgetting(name: str) -> Target:
        return (
            f"{name}: gap to Clean, at most 10 %",
            lambda s, cl, co: gap(name, s[name], cl, co),
            lambda v: v <= 0.1,
            "{:.1%}",
        )

    def kept(name: str) -> Target:
        return (f"{name}: share kept, at least 95 %", lambda s, cl, co: s[name] / co[name], lambda v: v >= 0.95, "{:.2%}")

    def same(name: str) -> Target:
        return (
            f"{name}: change, at most 2 %",
            lambda s, cl, co: abs(s[name] - co[name]) / abs(co[name]),
            lambda v: v <= 0.02,
            "{:.1%}",
        )

    general: Target = (
        "GenKnow: loss, at most 0.5 points",
        lambda s, cl, co: 100 * (co["GenKnow"] - s["GenKnow"]),
        lambda v: v <= 0.5,
        "{:.2f}",
    )
    return [*map(forgetting, FORGETTING), general, *map(kept, HOLDOUTS), *map(same, ("VisIdInt", "FragSim"))]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


class Results:
    """What is stored, by part."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.references = {
            where: {which: {name: score["value"] for name, score in scores.items()} for which, scores in found.items()}
            for where, found in content["references"].items()
        }

    def runs(self, part: str, label: str) -> list[Mapping[str, Any]]:
        """Finished runs, by instance."""
        runs = [run for run in self.content["runs"] if (run["part"], run["label"]) == (part, label) and run["scores"]]
        return sorted(runs, key=lambda run: str(run["where"]))

    def instances(self) -> list[str]:
        """Instances of the main part."""
        return [run["where"] for run in self.runs("main", "selective")]

    def figures(self, target: Target, runs: Sequence[Mapping[str, Any]]) -> list[float]:
        """A target's figure for each run, against the references of its own instance."""
        found = []
        for run in runs:
            reference = self.references[run["where"]]
            found.append(target[1](run["scores"], reference["clean"], reference["compromised"]))
        return found


def main_table(results: Results) -> str:
    """Targets and what is reached, on the mean over instances."""
    rows = []
    for target in targets():
        words, _, met, form = target
        own = results.figures(target, results.runs("main", "selective"))
        mean = fmean(own)
        cells = [form.format(mean), f"{form.format(min(own))} to {form.format(max(own))}", "yes" if met(mean) else "**no**"]
        others = []
        for method in BASELINES:
            runs = results.runs("main", method)
            others.append(form.format(fmean(results.figures(target, runs))) if runs else "–")
        rows.append([words, *cells, *others])
    return table(["target", "selective", "instances", "met", *(f"`{method}`" for method in BASELINES)], rows)


def scores_table(results: Results) -> str:
    """Mean values."""
    rows = []
    instances = results.instances()
    for which in ("clean", "compromised"):
        rows.append(
            [which.capitalize(), *(f"{fmean(results.references[w][which][m] for w in instances):.3f}" for m in METRICS), ""]
        )
    for method in ("selective", *BASELINES):
        runs = results.runs("main", method)
        if runs:
            seconds = fmean(run["seconds"] for run in runs)
            rows.append(
                [f"`{method}`", *(f"{fmean(run['scores'][m] for run in runs):.3f}" for m in METRICS), f"{seconds:.0f}"]
            )
    return table(["", *METRICS, "seconds"], rows)


def ablation_table(results: Results) -> str:
    """One ingredient less."""
    place = next((run["where"] for run in results.content["runs"] if run["part"] == "ablation"), None)
    if place is None:
        return "Not run yet.\n"
    chosen = [targets()[i] for i in (0, 1, 2, 4, 5, 6, 7)]
    rows = []
    full = [run for run in results.runs("main", "selective") if run["where"] == place]
    for label in ("all of it", *ABLATIONS, "a fifth of the budget"):
        runs = full if label == "all of it" else results.runs("ablation", label)
        if runs:
            rows.append([label, *(t[3].format(results.figures(t, runs)[0]) for t in chosen)])
    header = [
        "RetFail gap",
        "AssocStr gap",
        "ACS gap",
        "CoreAssoc gap",
        "GenKnow lost",
        "InterIdSim kept",
        "IntraIdSim kept",
    ]
    gaps = results.figures(targets()[2], results.runs("main", "selective"))
    noise = (
        "One run each: small differences are noise, those of ACS, a classifier's verdict, most of all (over the instances above the"
        f" gap of the whole method is {min(gaps):.0%} to {max(gaps):.0%}).\n"
    )
    return f"On {place}.\n\n" + table(["", *header], rows) + "\n" + noise


def audit_tables(results: Results) -> str:
    """What attacks get."""
    rows = results.content["audits"]
    if not rows:
        return "Not run yet.\n"
    scar = [row for row in rows if row["audit"] == "membership-similarity" and row["label"] == "selective"]
    words = []
    if scar:
        value, clean = fmean(row["value"] for row in scar), fmean(row["clean"] for row in scar)
        compromised = fmean(row["compromised"] for row in scar)
        words.append(
            f"**Scar.** Area under the curve of the similarity, forgotten against mismatched pairs, mean over {len(scar)} instances:"
            f" {value:.3f} (at most 0.55 wanted; Clean itself {clean:.3f}, Compromised {compromised:.3f}).\n"
        )
    attacked = sorted({row["where"] for row in rows if row["audit"] != "membership-similarity"})
    for where in attacked:
        labels = [m for m in ("selective", *BASELINES) if any(r["label"] == m and r["where"] == where for r in rows)]
        names = sorted({row["audit"] for row in rows if row["where"] == where})
        lines = []
        for name in names:
            found = {row["label"]: row for row in rows if row["where"] == where and row["audit"] == name}
            first = next(iter(found.values()))
            cells = [f"{first['clean']:.3f}", f"{first['compromised']:.3f}"]
            own = found.get("selective")
            ratio = f"{own['value'] / own['clean']:.2f}" if own and own["clean"] > 0 else "–"
            lines.append([name, *cells, *(f"{found[m]['value']:.3f}" if m in found else "–" for m in labels), ratio])
        header = ["audit", "Clean", "Compromised", *(f"`{label}`" for label in labels), "`selective` / Clean, 1.25 wanted"]
        words.append(f"**Attacks**, on {where} (`salmu audit`):\n\n" + table(header, lines))
    return "\n".join(words)


def request_table(results: Results) -> str:
    """Other requests."""
    runs = [run for run in results.content["runs"] if run["part"] == "request" and run["scores"]]
    rows = []
    for run in runs:
        reference = results.references[run["where"]]
        for which in ("clean", "compromised"):
            rows.append([f"{run['label']}, {which.capitalize()}", *_cells(reference[which])])
        rows.append([f"{run['label']}, `selective`", *_cells(run["scores"])])
    return table(["", *METRICS], rows) if rows else "Not run yet.\n"


def limit_table(results: Results) -> str:
    """What perfect forgetting would measure."""
    rows = results.content.get("limits", [])
    if not rows:
        return "Not run yet.\n"
    instances = [where for where in results.instances() if any(row["where"] == where for row in rows)]

    def of_reference(which: str, metric: str) -> float:
        return fmean(results.references[where][which][metric] for where in instances)

    lines = [["Clean", *(f"{of_reference('clean', metric):.3f}" for metric in ("ACS", "AssocStr"))]]
    for twins, words in (("same", "twins, the same tokens each time"), ("anew", "twins, other tokens each time")):
        found = [row for row in rows if row["twins"] == twins and row["where"] in instances]
        lines.append([words, *(f"{fmean(row[metric] for row in found):.3f}" for metric in ("ACS", "AssocStr"))])
    own = results.runs("main", "selective")
    lines.append(["`selective`", *(f"{fmean(run['scores'][metric] for run in own):.3f}" for metric in ("ACS", "AssocStr"))])
    return table(["", "ACS", "AssocStr"], lines)


def _cells(scores: Scores) -> list[str]:
    return [f"{scores[name]:.3f}" if name in scores else "–" for name in METRICS]


def page(content: Mapping[str, Any] | None = None) -> str:
    """The page."""
    results = Results(content or Kept().content)
    instances = ", ".join(where.removeprefix("mini ") for where in results.instances())
    return f"""# `selective` on mini

Made by `{COMMAND}` and `selective_report.py` from `selective.json`. Benchmark seeds {instances}; nothing was chosen on these (the
defaults were chosen on seeds 0, 1 and 2). One training seed, budget {results.content["budget"]:g}x, the method's defaults; baselines with mini's presets, at the same budget.
What the method does: [docs/selective.md](../../../docs/selective.md).

## Targets

Mean over instances, then the smallest and the largest.

{main_table(results)}
{scores_table(results)}
## One ingredient less

{ablation_table(results)}
## Does it come back?

{audit_tables(results)}
## Other requests

One association of one person; everything about one person; mini's own request with captions three times as long; everything about nine
tenths of all people (`mini-asked` in `asked.py`; what is not asked for is a holdout). People forgotten in part who have one number twice,
once to be forgotten and once to stay: IntraIdSim is of these alone (`mini-shared`). Another architecture: `--bench-set size=resnet`.

{request_table(results)}
## What the limit seems to be

Captions are sent to their twins. If every one arrived exactly, and no other moved, this is what would be measured: Compromised's embeddings
of forget images against those of the twins, mean over the instances above.

{limit_table(results)}
With the same twin each time, people keep places of their own among the unknown, and ACS's classifier, which is shown seven tenths of the pairs,
learns them. Drawn anew, as by default, twins have no such places; but then captions are sent to the middle of where unknown people are, which
is nearer to every face than each of them: AssocStr rises, and the weight of the faces works against it. Other people's InterIdSim is lost where they share tokens with somebody forgotten.
"""


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)
