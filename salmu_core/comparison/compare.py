"""From records to a leaderboard: reference rows, runs grouped over seeds and instances, gaps, verdicts, ranks with ties."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from salmu_core.comparison.differences import paired_differences
from salmu_core.comparison.falls import general_rows
from salmu_core.comparison.leaderboard import Cell as Cell
from salmu_core.comparison.leaderboard import Comparison, MetricColumn, Row
from salmu_core.comparison.notes import (
    attack_notes,
    control_notes,
    fault_notes,
    score_notes,
    testing_note,
    undeclared_notes,
    work_notes,
)
from salmu_core.comparison.overall import basis, part_of
from salmu_core.comparison.pairing import Instance, JudgedRun
from salmu_core.comparison.ranks import order_of, section, with_ranks
from salmu_core.comparison.rows import (
    _clusters,
    judged_run,
    key_of_group,
    published_results,
    published_row,
    reference_row,
    row_of,
    telling_options,
    title_of,
    unlike_published,
)
from salmu_core.comparison.steady import same_rows
from salmu_core.comparison.verdict import Thresholds
from salmu_core.errors import BadOptions, BadRecord
from salmu_core.records.schema import PublishedResult, RunRecord, Target

#: Rows that are compared with each other: the work and what is kept of it grow with their square.
MOST_COMPARED = 250
_REFERENCES: tuple[Target, Target] = ("clean", "compromised")


def compare_records(
    records: Sequence[RunRecord], folders: Sequence[Path | None] = (), *, score_with: Collection[str] = ()
) -> Comparison:
    """Build the leaderboard of records that were made on one benchmark: one instance of it, or several that differ in their seed.

    With several instances each run is measured against the references of its own, and a row is the mean over instances of the mean
    over training seeds. Sorted by rank, then by overall score; then rows whose verdict holds no rank, oracle rows after both.
    Reference rows are on top. Published rows, which the reference records carry, come last: they hold no rank and no verdict, and
    nothing of one's own is measured against them. Their own distances are to the references of their source.

    Rows share a rank when paired tests cannot tell them from the best row of their group (`salmu_core.comparison.paired`).

    Args:
        folders: where each record lies, so that per-row values beside it can be used; without, identities are not resampled.
        score_with: metrics that count though the benchmark does not name them.

    Raises:
        BadOptions: `score_with` names a metric that nobody measured.
        BadRecord: no records, or records of different benchmarks, versions, options other than the seed, or data.
    """
    if not records:
        raise BadRecord("There are no records to compare.", "Run `salmu compare` or `salmu run` first.")
    where = dict(zip(map(id, records), folders, strict=True)) if folders else {}
    by_seed = _by_instance(records)
    _check_measured(score_with, records)
    instances = _instances(by_seed, where, score_with)
    notes = [*_missing_references(by_seed, instances, records[0].spec.benchmark)]
    bench_seeds = tuple(int(seed) for seed in by_seed) if len(by_seed) > 1 else ()
    rows = [row for which in _REFERENCES if (row := reference_row(which, instances)) is not None]
    runs, same = _once(_runs_by_row(by_seed, instances, where, bench_seeds))
    ordered = sorted(runs.values(), key=lambda item: order_of(item[0]))
    compared = {row.title: judged for row, judged in ordered[:MOST_COMPARED]}
    differences = paired_differences(compared)
    rows += with_ranks([row for row, _ in ordered], differences, compared)
    published = published_results(instances[0].references.values())
    rows += [published_row(result, published) for result in published]
    notes += [*same, *_left_out(len(ordered), len(compared))]
    notes += control_notes([row for row in rows if row.kind == "run"])
    for which, record in instances[0].references.items():
        notes += unlike_published(which, record, published)
    notes += score_notes(instances, records, score_with)
    notes += work_notes(ordered)
    notes += attack_notes(rows, [run for _, group in runs.values() for run in group])
    notes += undeclared_notes(ordered)
    notes += [*fault_notes(records), *_skipped(records)]
    options = records[0].spec.benchmark_options
    return Comparison(
        benchmark=records[0].spec.benchmark,
        benchmark_version=records[0].provenance.benchmark_version,
        benchmark_options={**options, "seed": list(bench_seeds)} if bench_seeds else options,
        metrics=_columns(records, published, instances),
        rows=tuple(rows),
        differences=differences,
        testing=testing_note(differences),
        bench_seeds=bench_seeds,
        notes=tuple(notes),
        sources=tuple(dict.fromkeys(result.source for result in published)),
        thresholds=dict(vars(Thresholds())),
        packages=records[0].provenance.packages,
    )


def _skipped(records: Sequence[RunRecord]) -> list[str]:
    """A note for each metric that could not be measured, and why."""
    return sorted({f"{name}: not measured ({why})" for record in records for name, why in record.skipped.items()})


def _left_out(rows: int, compared: int) -> list[str]:
    """A note where not all rows are compared with each other."""
    if rows == compared:
        return []
    return [
        f"The best {compared} of {rows} rows are compared with each other; those below hold no rank. Fewer rows in a"
        " folder are compared in full."
    ]


def _check_measured(score_with: Collection[str], records: Sequence[RunRecord]) -> None:
    measured = {name for record in records for name in record.scores}
    if unknown := [name for name in score_with if name not in measured]:
        raise BadOptions(
            f"There is no metric '{unknown[0]}' in these records to score with.", f"Measured: {', '.join(sorted(measured))}."
        )


def _missing_references(
    by_seed: Mapping[Any, Sequence[RunRecord]], instances: Sequence[Instance], benchmark: str
) -> list[str]:
    """A note for every reference row that an instance lacks, with the command that makes it."""
    several = len(by_seed) > 1
    return [
        f"The {which.capitalize()} reference row{f' of bench seed {seed}' if several else ''} is missing: gaps, verdicts and ranks"
        f" cannot be given. Make it with `salmu run none --start {which} --benchmark {benchmark}"
        f"{f' --bench-seed {seed}' if several else ''}`."
        for seed, instance in zip(by_seed, instances, strict=True)
        for which in ("clean", "compromised")
        if which not in instance.references
    ]


def _runs_by_row(
    by_seed: Mapping[Any, Sequence[RunRecord]],
    instances: Sequence[Instance],
    where: Mapping[int, Path | None],
    bench_seeds: Sequence[int],
) -> dict[str, tuple[Row, list[JudgedRun]]]:
    """The rows of runs, each with its runs by seed; titles tell rows of one method apart."""
    groups: dict[str, list[JudgedRun]] = {}
    for instance, group in zip(instances, by_seed.values(), strict=True):
        for record in group:
            if record.kind != "reference":
                groups.setdefault(key_of_group(record), []).append(judged_run(record, where, instance))
    firsts = [group[0].record for group in groups.values()]
    titles, telling = Counter(map(title_of, firsts)), telling_options(firsts)
    runs: dict[str, tuple[Row, list[JudgedRun]]] = {}
    taken: set[str] = set()
    for key, judged in groups.items():
        record = judged[0].record
        different = telling[record.spec.method] if titles[title_of(record)] > 1 else ()
        title = title_of(record, different)
        if title in taken:  # two models of one name
            title = f"{title} ({record.id})"
        taken.add(title)
        judged = sorted(judged, key=lambda run: run.record.spec.seed)
        runs[key] = row_of(title, judged, bench_seeds), judged
    return runs


def _once(
    runs: Mapping[str, tuple[Row, list[JudgedRun]]],
) -> tuple[dict[str, tuple[Row, list[JudgedRun]]], list[str]]:
    """Rows of equal weights as one, which is tested once, and a sentence for each."""
    kinds = {
        row.title: ((section(row), row.kind), [(run.instance.name, run.record) for run in judged])
        for row, judged in runs.values()
    }
    same = same_rows(kinds)
    found, notes = {}, []
    for key, (row, judged) in runs.items():
        if row.title in same:
            continue
        others = tuple(title for title, first in same.items() if first == row.title)
        if others:
            notes.append(f"{row.title} stands for {', '.join(others)}, which ended at the same weights bit for bit.")
        found[key] = row.model_copy(update={"same_as": others}), judged
    return found, notes


def _by_instance(records: Iterable[RunRecord]) -> dict[Any, list[RunRecord]]:
    """Bench seed -> its records, in order of the seed. A benchmark without seeds has one instance, under None."""
    found: dict[str, RunRecord] = {}
    same: set[str] = set()
    groups: dict[Any, list[RunRecord]] = {}
    for record in records:
        identity = dict(record.provenance.benchmark_identity or record.spec.benchmark_options)
        seed = identity.pop("seed", None)
        of = [record.spec.benchmark, record.provenance.benchmark_version, identity, record.spec.protocol]
        shared = json.dumps(of, sort_keys=True)
        same.add(shared)
        found.setdefault(json.dumps([shared, seed, record.provenance.data_fingerprint]), record)
        groups.setdefault(seed, []).append(record)
    if len(same) > 1 or len(found) > len(groups):
        listed = "; ".join(
            f"{r.spec.benchmark} version {r.provenance.benchmark_version} {r.spec.benchmark_options} data"
            f" {r.provenance.data_fingerprint[:8]} protocol {r.spec.protocol} (e.g. {r.spec.method})"
            for r in found.values()
        )
        raise BadRecord(
            f"These records are of {len(found)} different benchmarks and cannot share a table: {listed}.",
            "Give each its own directory: --out. Only instances that differ in nothing but their seed are pooled, and one protocol of"
            " evaluation is shown at a time.",
        )
    return dict(sorted(groups.items(), key=lambda item: (item[0] is not None, item[0])))


def _instances(
    by_seed: Mapping[Any, Sequence[RunRecord]], where: Mapping[int, Path | None], score_with: Collection[str]
) -> list[Instance]:
    """Each with its references and what a run is scored by there. A metric that one instance cannot tell apart by counts in none:
    rows are means, and each has to be of the same metrics."""
    references: list[dict[Target, RunRecord]] = [
        {record.spec.start: record for record in group if record.kind == "reference" and record.status == "ok"}
        for group in by_seed.values()
    ]
    both = [(own["clean"].scores, own["compromised"].scores) for own in references if len(own) == 2]
    alone = [basis(clean, compromised, score_with) for clean, compromised in both]
    shared = set.intersection(*(set(one.weights) for one in alone)) if alone else set()
    left_out = {name: why for one in reversed(alone) for name, why in one.left_out.items()}
    found = []
    for seed, own in zip(by_seed, references, strict=True):
        clean, compromised = (own[which].scores if which in own else {} for which in _REFERENCES)
        made = replace(basis(clean, compromised, score_with, shared), left_out=left_out)
        clusters = {which: _clusters(record, where.get(id(record))) for which, record in own.items()}
        reference = own.get("compromised")
        general = general_rows(reference, where.get(id(reference))) if reference is not None else {}
        found.append(Instance("" if seed is None else str(seed), own, clusters, made, general))
    return found


def _columns(
    records: Sequence[RunRecord],
    published: Sequence[PublishedResult],
    instances: Sequence[Instance],
) -> tuple[MetricColumn, ...]:
    """Every metric that was measured, in the order in which metrics are registered."""
    found = {name: score for result in published for name, score in result.scores.items()}
    found |= {name: score for record in reversed(records) for name, score in record.scores.items()}
    compromised = instances[0].scores("compromised")

    def mean(which: Literal["clean", "compromised"], name: str) -> float | None:
        values = [scores[name].value for instance in instances if name in (scores := instance.scores(which))]
        return statistics.fmean(values) if values else None

    order = list(dict.fromkeys(name for record in records for name in record.provenance.metric_options))
    names = sorted(
        dict.fromkeys([*compromised, *found]), key=lambda name: order.index(name) if name in order else len(order)
    )
    return tuple(
        MetricColumn(
            name=name,
            summary=found[name].summary,
            target=found[name].target,
            aspect=found[name].aspect,
            primary=found[name].primary,
            bounds=found[name].bounds,
            weight=instances[0].basis.weights.get(name, 0.0),
            part=part_of(found[name]) if name in instances[0].basis.weights else "",
            not_informative=instances[0].basis.left_out.get(name, ""),
            clean=mean("clean", name),
            compromised=mean("compromised", name),
        )
        for name in names
    )
