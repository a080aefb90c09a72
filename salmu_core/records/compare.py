"""From records to a leaderboard: reference rows, runs grouped over seeds, gaps, verdicts, ranks."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from salmu_core.errors import BadRecord
from salmu_core.records.gaps import gap_of, gaps_of
from salmu_core.records.overall import metric_weights, overall_score
from salmu_core.records.schema import Aspect, PublishedResult, RunRecord, ScoreRecord, Target
from salmu_core.records.verdict import RANKED, Thresholds, judge

COMPARISON_VERSION = 2
# Two measurements of one model agree this far: 0.001 for other hardware and number types, and half of the third decimal that
# tables print, with as much again to spare.
PUBLISHED_TOLERANCE = 2e-3
# The worse verdict of several seeds speaks for the row: a method that destroys one model in three is not selective.
_SEVERITY = (
    "failed", "diverged", "catastrophic", "no effect", "unknown", "ineffective", "over-generalised", "selective"
)  # fmt: skip


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class MetricColumn(_Frozen):
    """What a reader needs to know of a metric."""

    name: str
    summary: str
    target: Target
    aspect: Aspect
    primary: bool
    bounds: tuple[float, float]
    weight: float
    clean: float | None
    compromised: float | None


class Cell(_Frozen):
    """One metric of one row: mean over seeds; the interval is bootstrapped over identities and given for single runs."""

    value: float
    sd: float | None = Field(None, description="standard deviation over seeds, from two seeds on")
    n: int = 1
    low: float | None = None
    high: float | None = None
    gap: float | None = None
    extras: dict[str, float] = Field(default_factory=dict)


class Row(_Frozen):
    """One row of the leaderboard: a method with its options and budget, over its seeds."""

    title: str
    kind: Literal["reference", "run", "evaluation", "published"]
    reference: Target | None = Field(None, description="Clean or Compromised: of this comparison, or of a published source")
    source: str = Field("", description="on published rows: who measured, and where it stands")
    rank: int | None = None
    family: str = ""
    summary: str = ""
    package: str = ""
    paper: str | None = None
    oracle: bool = False
    sees: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    budget: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, Cell] = Field(default_factory=dict)
    verdict: str = ""
    reason: str = ""
    verdicts: dict[str, int] = Field(default_factory=dict, description="verdict -> seeds")
    overall: float | None = None
    overall_sd: float | None = None
    seconds: float = 0.0
    samples: dict[str, int] = Field(default_factory=dict)
    trainable_parameters: int = 0
    peak_memory_bytes: int = 0
    weight_change: float | None = None
    error: str | None = None
    commands: tuple[str, ...] = ()
    device: str = ""
    records: tuple[str, ...] = Field((), description="ids of the records behind the row, in order of its seeds")


class Comparison(_Frozen):
    """A leaderboard: everything that tables and reports show, and nothing that needs a model."""

    version: int = COMPARISON_VERSION
    benchmark: str
    benchmark_version: str
    benchmark_options: dict[str, Any]
    metrics: tuple[MetricColumn, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = Field(
        (), description="where published rows come from; rows are marked by their number, from 1"
    )
    thresholds: dict[str, float] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)

    def label(self, row: Row) -> str:
        """The row's title, with the number of its source where others measured it."""
        return f"{row.title} [{self.sources.index(row.source) + 1}]" if row.kind == "published" else row.title


def compare_records(records: Sequence[RunRecord]) -> Comparison:
    """Build the leaderboard of records that were made on one and the same benchmark data.

    Sorted by overall score: ranked rows first, then rows whose verdict holds no rank, oracle rows after both. Reference rows
    are on top. Published rows, which the reference records carry, come last: they hold no rank and no verdict, and nothing of
    one's own is measured against them. Their own distances are to the references of their source.

    Raises:
        BadRecord: no records, or records of different benchmarks, versions, options or data.
    """
    if not records:
        raise BadRecord("There are no records to compare.", "Run `salmu compare` or `salmu run` first.")
    _same_benchmark(records)
    notes: list[str] = []
    references: dict[str, RunRecord] = {}
    for record in records:
        if record.kind == "reference" and record.status == "ok":
            references[record.spec.start] = record
    for which in ("clean", "compromised"):
        if which not in references:
            notes.append(
                f"The {which.capitalize()} reference row is missing: gaps, verdicts and ranks cannot be given."
                f" Make it with `salmu run none --start {which} --benchmark {records[0].spec.benchmark}`."
            )
    clean = references["clean"].scores if "clean" in references else {}
    compromised = references["compromised"].scores if "compromised" in references else {}
    common = {name: score for name, score in compromised.items() if name in clean}
    weights = metric_weights(common)
    rows = [
        _reference_row(which, references[which], clean, compromised)
        for which in ("clean", "compromised")
        if which in references
    ]
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        if record.kind != "reference":
            groups.setdefault(_group_key(record), []).append(record)
    titles = Counter(_title(group[0], []) for group in groups.values())
    runs = []
    for group in groups.values():
        rivals = [other[0] for other in groups.values() if other[0].spec.method == group[0].spec.method]
        title = _title(group[0], rivals if titles[_title(group[0], [])] > 1 else [])
        runs.append(_row(title, sorted(group, key=lambda record: record.spec.seed), clean, compromised, weights))
    rows += _ranked(runs)
    published = _published_results(references.values())
    rows += [_published_row(result, published) for result in published]
    notes += [note for which, record in references.items() for note in _differences(which, record, published)]
    skipped = {f"{name}: not measured ({why})" for record in records for name, why in record.skipped.items()}
    first = records[0]
    return Comparison(
        benchmark=first.spec.benchmark,
        benchmark_version=first.provenance.benchmark_version,
        benchmark_options=first.spec.benchmark_options,
        metrics=_columns(records, published, clean, compromised, weights),
        rows=tuple(rows),
        notes=(*notes, *sorted(skipped)),
        sources=tuple(dict.fromkeys(result.source for result in published)),
        thresholds=dict(vars(Thresholds())),
        packages=first.provenance.packages,
    )


def _same_benchmark(records: Iterable[RunRecord]) -> None:
    found: dict[str, RunRecord] = {}
    for record in records:
        instance = record.provenance.benchmark_identity or record.spec.benchmark_options
        content = [record.spec.benchmark, record.provenance.benchmark_version, instance]
        found.setdefault(json.dumps([*content, record.provenance.data_fingerprint], sort_keys=True), record)
    if len(found) > 1:
        listed = "; ".join(
            f"{r.spec.benchmark} version {r.provenance.benchmark_version} {r.spec.benchmark_options} data"
            f" {r.provenance.data_fingerprint[:8]} (e.g. {r.spec.method})"
            for r in found.values()
        )
        raise BadRecord(
            f"These records are of {len(found)} different benchmarks and cannot share a table: {listed}.",
            "Give each its own directory: --out.",
        )


def _group_key(record: RunRecord) -> str:
    content = [record.kind, record.spec.method, record.options, record.spec.budget, record.spec.precision, record.spec.start]
    if record.kind == "evaluation":
        content.append(record.id)
    return json.dumps(content, sort_keys=True)


def _title(record: RunRecord, rivals: Sequence[RunRecord]) -> str:
    """The method, with what tells it from other rows of the same method."""
    if record.kind == "evaluation":
        return record.summary.removeprefix("The model ")
    title = record.spec.method
    if record.spec.budget != 1:
        title += f" {record.spec.budget:g}x"
    if record.spec.precision != "no":
        title += f" {record.spec.precision}"
    different = {
        name: value for name, value in record.options.items() if any(rival.options.get(name) != value for rival in rivals)
    }
    return title + "".join(f" {name}={value}" for name, value in different.items())


def _reference_row(which: str, record: RunRecord, clean: dict[str, ScoreRecord], compromised: dict[str, ScoreRecord]) -> Row:
    cells = {
        name: Cell(
            value=score.value, low=score.low, high=score.high, extras=score.extras,
            gap=gap_of(score, clean[name], compromised[name]) if name in clean and name in compromised else None,
        )
        for name, score in record.scores.items()
    }  # fmt: skip
    package = record.provenance.benchmark_package
    return Row(
        title=which.capitalize(),
        kind="reference",
        reference="clean" if which == "clean" else "compromised",
        summary="never saw the sensitive pairs" if which == "clean" else "the model every method starts from",
        package=f"{package.name} {package.version}" if package else "",
        cells=cells,
        commands=(record.provenance.command,) if record.provenance.command else (),
        device=record.provenance.device,
        records=(record.id,),
    )


def _published_results(references: Iterable[RunRecord]) -> list[PublishedResult]:
    """What the reference records carry, each result once, in the order of the benchmark."""
    return list({(result.source, result.title): result for record in references for result in record.published}.values())


def _published_row(result: PublishedResult, published: Sequence[PublishedResult]) -> Row:
    own = {other.reference: other.scores for other in published if other.source == result.source and other.reference}
    clean, compromised = own.get("clean", {}), own.get("compromised", {})
    cells = {}
    for name, score in result.scores.items():
        gap = gap_of(score, clean[name], compromised[name]) if name in clean and name in compromised else None
        cells[name] = Cell(value=score.value, gap=gap, extras=score.extras)
    return Row(
        title=result.title,
        kind="published",
        reference=result.reference,
        source=result.source,
        summary=result.note,
        cells=cells,
    )


def _differences(which: str, record: RunRecord, published: Sequence[PublishedResult]) -> list[str]:
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


def _row(
    title: str,
    group: Sequence[RunRecord],
    clean: dict[str, ScoreRecord],
    compromised: dict[str, ScoreRecord],
    weights: dict[str, float],
) -> Row:
    first = group[0]
    verdicts = [judge(record, clean, compromised) for record in group]
    worst = min(verdicts, key=lambda verdict: _SEVERITY.index(verdict.name))
    start = gaps_of(compromised, clean, compromised)
    overall = [
        overall_score(gaps, start, weights) for record in group if (gaps := gaps_of(record.scores, clean, compromised))
    ]
    package = first.provenance.method_package
    costs = [record.cost for record in group]
    return Row(
        title=title,
        kind="evaluation" if first.kind == "evaluation" else "run",
        family=first.family,
        summary=first.summary,
        package=f"{package.name} {package.version}" if package else "",
        paper=first.paper,
        oracle=first.oracle,
        sees=first.sees,
        seeds=tuple(record.spec.seed for record in group),
        budget=first.spec.budget,
        options=first.options,
        cells={name: _cell(name, group, clean, compromised) for name in dict.fromkeys(n for r in group for n in r.scores)},
        verdict=worst.name,
        reason=worst.reason,
        verdicts=dict(Counter(verdict.name for verdict in verdicts)),
        overall=statistics.fmean(overall) if overall else None,
        overall_sd=statistics.stdev(overall) if len(overall) > 1 else None,
        seconds=statistics.fmean(cost.seconds.get("unlearn", 0.0) for cost in costs),
        samples={
            role: max(cost.samples.get(role, 0) for cost in costs)
            for role in dict.fromkeys(r for c in costs for r in c.samples)
        },
        trainable_parameters=max(cost.trainable_parameters for cost in costs),
        peak_memory_bytes=max(cost.peak_memory_bytes for cost in costs),
        weight_change=next((record.weight_change for record in group if record.weight_change is not None), None),
        error=next((record.error for record in group if record.error), None),
        commands=tuple(record.provenance.command for record in group if record.provenance.command),
        device=first.provenance.device,
        records=tuple(record.id for record in group),
    )


def _cell(name: str, group: Sequence[RunRecord], clean: dict[str, ScoreRecord], compromised: dict[str, ScoreRecord]) -> Cell:
    scores = [record.scores[name] for record in group if name in record.scores]
    values = [score.value for score in scores]
    mean = statistics.fmean(values)
    single = scores[0] if len(scores) == 1 else None
    gap = None
    if name in clean and name in compromised:
        gap = gap_of(scores[0].model_copy(update={"value": mean}), clean[name], compromised[name])
    return Cell(
        value=mean,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        low=single.low if single else None,
        high=single.high if single else None,
        gap=gap,
        extras={key: statistics.fmean(score.extras[key] for score in scores) for key in scores[0].extras},
    )


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """Ranks for rows that may hold one; the rest follow in order of their overall score, oracles last."""

    def order(row: Row) -> tuple[bool, bool, float]:
        return row.oracle, row.verdict not in RANKED, -(row.overall if row.overall is not None else float("-inf"))

    result = []
    rank = 0
    for row in sorted(rows, key=order):
        if row.verdict in RANKED and not row.oracle and row.kind == "run":
            rank += 1
            row = row.model_copy(update={"rank": rank})
        result.append(row)
    return result


def _columns(
    records: Sequence[RunRecord],
    published: Sequence[PublishedResult],
    clean: dict[str, ScoreRecord],
    compromised: dict[str, ScoreRecord],
    weights: dict[str, float],
) -> tuple[MetricColumn, ...]:
    """Every metric that somebody measured, in the order in which metrics are registered."""
    found = {name: score for result in published for name, score in result.scores.items()}
    found |= {name: score for record in reversed(records) for name, score in record.scores.items()}
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
            weight=weights.get(name, 0.0),
            clean=clean[name].value if name in clean else None,
            compromised=compromised[name].value if name in compromised else None,
        )
        for name in names
    )
