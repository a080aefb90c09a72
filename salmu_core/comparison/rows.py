"""The rows of a leaderboard: the runs of one method and its options, the references, and what papers published."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from salmu_core.comparison.falls import fall_tests
from salmu_core.comparison.gaps import gap_of, gaps_of, not_informative
from salmu_core.comparison.leaderboard import CONTROL, VERDICTS, Cell, Row
from salmu_core.comparison.pairing import Clusters, Instance, JudgedRun
from salmu_core.comparison.steady import is_deterministic
from salmu_core.comparison.verdict import Verdict, judge, with_attacks
from salmu_core.records.attacks import read_attacks, recovery
from salmu_core.records.commands import row_command
from salmu_core.records.rows import read_cluster_sums
from salmu_core.records.schema import PublishedResult, RunRecord, Target

# Two measurements of one model agree this far: 0.001 for other hardware and number types, and half of the third decimal that
# tables print, with as much again to spare.
PUBLISHED_TOLERANCE = 2e-3


def _clusters(record: RunRecord, folder: Path | None) -> Clusters:
    return partial(read_cluster_sums, record, folder)


def judged_run(record: RunRecord, where: Mapping[int, Path | None], instance: Instance) -> JudgedRun:
    clean, compromised = instance.scores("clean"), instance.scores("compromised")
    folder, found = where.get(id(record)), instance.basis
    gaps = {name: gap for name, gap in gaps_of(record.scores, clean, compromised).items() if name in found.weights}
    falls = fall_tests(record, folder, instance.general)
    attacked = read_attacks(record, folder)
    verdict = with_attacks(judge(record, clean, compromised, falls=falls, counted=found.weights), attacked)
    parts = found.of(record.scores) if record.scores else None
    return JudgedRun(record, _clusters(record, folder), instance, gaps, parts, verdict, attacked)


def key_of_group(record: RunRecord) -> str:
    content = [record.kind, record.spec.method, record.options, record.spec.budget, record.spec.precision, record.spec.start]
    if record.kind == "evaluation":
        content.append(record.id)
    return json.dumps(content, sort_keys=True)


def telling_options(rows: Iterable[RunRecord]) -> dict[str, set[str]]:
    """Method -> options in which its rows differ; given one record of each row."""
    of_method: dict[str, list[dict[str, Any]]] = {}
    for record in rows:
        of_method.setdefault(record.spec.method, []).append(record.options)
    return {
        method: {
            name
            for name in {name for options in found for name in options}
            if len({json.dumps(options.get(name), sort_keys=True) for options in found}) > 1
        }
        for method, found in of_method.items()
    }


def title_of(record: RunRecord, different: Collection[str] = ()) -> str:
    """The method, with what tells it from other rows of the same method."""
    if record.kind == "evaluation":
        return record.summary.removeprefix("The model ")
    title = record.spec.method + (" from Clean" if record.spec.start == "clean" else "")
    if record.spec.budget != 1:
        title += f" {record.spec.budget:g}x"
    if record.spec.precision != "no":
        title += f" {record.spec.precision}"
    return title + "".join(f" {name}={value}" for name, value in record.options.items() if name in different)


def reference_row(which: Target, instances: Sequence[Instance]) -> Row | None:
    found = [instance for instance in instances if which in instance.references]
    if not found:
        return None
    records = [instance.references[which] for instance in found]
    cells = {
        name: _cell(name, [judged_run(record, {}, instance) for record, instance in zip(records, found, strict=True)])
        for name in dict.fromkeys(name for record in records for name in record.scores)
    }
    record = records[0]
    package = record.provenance.benchmark_package
    commands = tuple(record.provenance.command for record in records if record.provenance.command)
    return Row(
        title=which.capitalize(),
        kind="reference",
        reference="clean" if which == "clean" else "compromised",
        summary="never saw the sensitive pairs" if which == "clean" else "the model every method starts from",
        package=f"{package.name} {package.version}" if package else "",
        cells=cells,
        runs=len(records),
        commands=commands,
        command=" && ".join(commands),
        device=record.provenance.device,
        records=tuple(record.id for record in records),
    )


def published_results(references: Iterable[RunRecord]) -> list[PublishedResult]:
    """What the reference records carry, each result once, in the order of the benchmark."""
    return list({(result.source, result.title): result for record in references for result in record.published}.values())


def published_row(result: PublishedResult, published: Sequence[PublishedResult]) -> Row:
    own = {other.reference: other.scores for other in published if other.source == result.source and other.reference}
    clean, compromised = own.get("clean", {}), own.get("compromised", {})
    cells = {}
    for name, score in result.scores.items():
        known = name in clean and name in compromised and not not_informative(name, clean[name], compromised[name])
        gap = gap_of(score, clean[name], compromised[name]) if known else None
        cells[name] = Cell(value=score.value, gap=gap, extras=score.extras)
    return Row(
        title=result.title,
        kind="published",
        reference=result.reference,
        source=result.source,
        summary=result.note,
        cells=cells,
    )


def unlike_published(which: str, record: RunRecord, published: Sequence[PublishedResult]) -> list[str]:
    """A sentence for each source whose Clean or Compromised is not what was measured here."""
    notes = []
    for number, source in enumerate(dict.fromkeys(result.source for result in published), start=1):
        for result in published:
            if result.source != source or result.reference != which:
                continue
            different = [
                f"{name} {record.scores[name].value:.4f} (published {score.value:g})"
                for name, score in result.scores.items()
                if name in record.scores and abs(record.scores[name].value - score.value) > PUBLISHED_TOLERANCE
            ]
            if different:
                notes.append(
                    f"Your {which.capitalize()} differs from the published one [{number}] by more than"
                    f" {PUBLISHED_TOLERANCE:g}: {', '.join(different)}."
                )
    return notes


def row_of(title: str, group: Sequence[JudgedRun], bench_seeds: Sequence[int]) -> Row:
    records = [run.record for run in group]
    first = records[0]
    worst = min((run.verdict for run in group), key=lambda verdict: VERDICTS.index(verdict.name))
    overall = _by_name([(run.instance.name, run.overall) for run in group if run.overall is not None])
    values = [value for found in overall.values() for value in found]
    package = first.provenance.method_package
    costs = [record.cost for record in records]
    found = recovery([(run.instance.name, run.attacked) for run in group])
    most = found.most
    steady = is_deterministic([(run.instance.name, run.record) for run in group])
    # Seeds that change nothing do not count as spread; instances are.
    spread = len(overall) > 1 or not steady
    return Row(
        title=title,
        kind="evaluation" if first.kind == "evaluation" else "run",
        family=first.family,
        summary=first.summary,
        package=f"{package.name} {package.version}" if package else "",
        paper=first.paper,
        oracle=first.oracle,
        sees=first.sees,
        seeds=tuple(dict.fromkeys(record.spec.seed for record in records)),
        bench_seeds=tuple(seed for seed in bench_seeds if any(run.instance.name == str(seed) for run in group)),
        runs=len(group),
        status=max((record.status for record in records), key=("ok", "diverged", "failed").index),
        budget=first.spec.budget,
        options=first.options,
        cells={name: _cell(name, group, spread) for name in dict.fromkeys(n for r in records for n in r.scores)},
        verdict=worst.name,
        reason=_reason(worst, group),
        verdicts=dict(Counter(run.verdict.name for run in group)),
        overall=_mean_of_means(overall) if overall else None,
        overall_sd=statistics.stdev(values) if len(values) > 1 and spread else None,
        parts=_parts(group),
        deterministic=steady,
        control=first.family == CONTROL,
        seconds=statistics.fmean(cost.seconds.get("unlearn", 0.0) for cost in costs),
        samples=_largest([cost.samples for cost in costs]),
        captions=_largest([cost.captions for cost in costs]),
        encoded=_largest([cost.encoded for cost in costs]),
        columns={role: names for record in records for role, names in record.columns.items()},
        trainable_parameters=max(cost.trainable_parameters for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        weight_change=next((record.weight_change for record in records if record.weight_change is not None), None),
        recovered=None if most is None else most[1],
        recovered_by="" if most is None else most[0],
        attacks=dict(found.shares),
        attacked_runs=found.runs,
        error=next((record.error for record in records if record.error), None),
        commands=tuple(record.provenance.command for record in records if record.provenance.command),
        command=row_command(records),
        device=first.provenance.device,
        records=tuple(record.id for record in records),
    )


def _reason(worst: Verdict, group: Sequence[JudgedRun]) -> str:
    """Why a row has its verdict. Values in it are those of one run, which is named where the table shows means of several."""
    if len(group) == 1:
        return worst.reason
    same = [run for run in group if run.verdict.name == worst.name]
    run = next(run for run in same if run.verdict is worst)
    several = len({other.instance.name for other in group}) > 1
    which = f"instance {run.instance.name}, seed {run.record.spec.seed}" if several else f"seed {run.record.spec.seed}"
    if all(other.verdict.reason == worst.reason for other in same):
        which = "each of them" if len(same) > 1 else which
    return f"{len(same)} of {len(group)} runs. {which.capitalize()}: {worst.reason}"


def _largest(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The largest of each count, over runs."""
    names = dict.fromkeys(name for found in counts for name in found)
    return {name: max(found.get(name, 0) for found in counts) for name in names}


def _parts(group: Sequence[JudgedRun]) -> dict[str, float]:
    names = ("forgotten", "kept", "general")
    runs = [run for run in group if run.parts is not None]
    return {
        name: _mean_of_means(_by_name([(run.instance.name, float(getattr(run.parts, name))) for run in runs]))
        for name in names
        if runs
    }


def _by_name(values: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for name, value in values:
        found.setdefault(name, []).append(value)
    return found


def _mean_of_means(values: Mapping[str, Sequence[float]]) -> float:
    """Over instances, of the means over seeds: one with more runs counts no more."""
    return statistics.fmean(statistics.fmean(found) for found in values.values())


def _cell(name: str, group: Sequence[JudgedRun], spread: bool = True) -> Cell:
    runs = [run for run in group if name in run.record.scores]
    scores = [run.record.scores[name] for run in runs]
    single = scores[0] if len(scores) == 1 or not spread else None
    by_instance = _by_name([(run.instance.name, run.record.scores[name].value) for run in runs])
    gaps = []
    for instance in {run.instance.name: run.instance for run in runs}.values():
        clean, compromised = instance.scores("clean"), instance.scores("compromised")
        if name in clean and name in compromised and name not in instance.basis.left_out:
            mean = scores[0].model_copy(update={"value": statistics.fmean(by_instance[instance.name])})
            gaps.append(gap_of(mean, clean[name], compromised[name]))
    return Cell(
        value=_mean_of_means(by_instance),
        sd=statistics.stdev(score.value for score in scores) if len(scores) > 1 and spread else None,
        n=len(scores),
        low=single.low if single else None,
        high=single.high if single else None,
        gap=statistics.fmean(gaps) if gaps and len(gaps) == len(by_instance) else None,
        extras={key: statistics.fmean(score.extras[key] for score in scores) for key in scores[0].extras},
    )
