"""From records to a leaderboard: reference rows, runs grouped over seeds and instances, gaps, verdicts, ranks with ties."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from salmu_core.comparison.differences import MetricDifference, Outcome, PairedDifference, paired_differences
from salmu_core.comparison.falls import fall_tests, general_rows
from salmu_core.comparison.gaps import gap_of, gaps_of, not_informative
from salmu_core.comparison.overall import INDISCRIMINATE, basis, part_of
from salmu_core.comparison.paired import OVERALL_NOISE, shared_ranks, tie_groups
from salmu_core.comparison.pairing import Clusters, Instance, JudgedRun
from salmu_core.comparison.steady import is_deterministic, same_rows
from salmu_core.comparison.verdict import RANKED, Thresholds, judge, with_attacks
from salmu_core.errors import BadOptions, BadRecord
from salmu_core.records.attacks import read_attacks, recovery
from salmu_core.records.commands import row_command
from salmu_core.records.rows import read_cluster_sums
from salmu_core.records.schema import Aspect, PublishedResult, RunRecord, Status, Target

COMPARISON_VERSION = 4
# Two measurements of one model agree this far: 0.001 for other hardware and number types, and half of the third decimal that
# tables print, with as much again to spare.
PUBLISHED_TOLERANCE = 2e-3
#: The family of methods that propose nothing and probe the benchmark.
CONTROL = "control"
#: Every verdict, worst first. The worst one of several runs speaks for the row: a method that destroys one model in three is not
#: selective.
VERDICTS = (
    "failed", "diverged", "catastrophic", "no effect", "unknown", "ineffective", "over-generalised", "superficial", "selective"
)  # fmt: skip


#: Rows that are compared with each other: the work and what is kept of it grow with their square.
MOST_COMPARED = 250
_REFERENCES: tuple[Target, Target] = ("clean", "compromised")


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
    weight: float = Field(description="1: it counts in the overall score; 0: it is shown and counts nothing")
    part: str = Field("", description="forgotten, kept or general: the factor of the overall score that it counts in")
    not_informative: str = Field("", description="why it says nothing here, in a sentence")
    clean: float | None
    compromised: float | None


class Cell(_Frozen):
    """One metric of one row: mean over seeds and instances; the interval is bootstrapped over identities and given for single
    runs."""

    value: float
    sd: float | None = Field(None, description="standard deviation over runs (seeds, instances), from two on")
    n: int = 1
    low: float | None = None
    high: float | None = None
    gap: float | None = None
    extras: dict[str, float] = Field(default_factory=dict)
    wins: int = Field(0, description="other rows than which this one is significantly nearer to the target")
    ties: int = 0
    losses: int = 0


class Row(_Frozen):
    """One row of the leaderboard: a method with its options and budget, over its seeds."""

    title: str
    kind: Literal["reference", "run", "evaluation", "published"]
    reference: Target | None = Field(None, description="Clean or Compromised: of this comparison, or of a published source")
    source: str = Field("", description="on published rows: who measured, and where it stands")
    rank: int | None = Field(None, description="shared by rows that cannot be told from the best of their tie group")
    tie_group: int | None = Field(None, description="number of the row's tie group, from 1")
    tied: int = Field(1, description="rows that share the rank")
    wins: int = Field(0, description="other rows than which this one is significantly better overall")
    ties: int = 0
    losses: int = 0
    family: str = ""
    summary: str = ""
    package: str = ""
    paper: str | None = None
    oracle: bool = False
    sees: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    bench_seeds: tuple[int, ...] = Field((), description="instances of the benchmark, where there are several in the table")
    runs: int = Field(0, description="runs behind the row")
    status: Status = Field("ok", description="the worst of its runs")
    budget: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, Cell] = Field(default_factory=dict)
    verdict: str = ""
    reason: str = ""
    verdicts: dict[str, int] = Field(default_factory=dict, description="verdict -> runs")
    overall: float | None = None
    overall_sd: float | None = None
    parts: dict[str, float] = Field(
        default_factory=dict, description="forgotten, kept, general: the factors of the overall score, means over runs"
    )
    deterministic: bool = Field(False, description="every training seed gave the same weights, bit for bit")
    same_as: tuple[str, ...] = Field(
        (), description="titles of rows that ended at the same weights, and that this one stands for"
    )
    control: bool = Field(False, description="no proposal but a probe of the benchmark: it should not score well")
    seconds: float = 0.0
    samples: dict[str, int] = Field(default_factory=dict)
    captions: dict[str, int] = Field(
        default_factory=dict, description="rows whose captions were read on their own, per role"
    )
    columns: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="metadata columns that were read, per role"
    )
    trainable_parameters: int = 0
    peak_memory_bytes: int = 0
    weight_change: float | None = None
    recovered: float | None = Field(
        None,
        description="most that an attack on the model alone gets back, of what Compromised gives it; none: not attacked",
    )
    recovered_by: str = Field("", description="that attack")
    attacks: dict[str, float] = Field(default_factory=dict, description="share recovered, by attack")
    attacked_runs: int = 0
    error: str | None = None
    commands: tuple[str, ...] = Field((), description="one for each run")
    command: str = Field("", description="makes all runs of the row again")
    device: str = ""
    records: tuple[str, ...] = Field((), description="ids of the records behind the row, in order of its seeds")

    @property
    def place(self) -> str:
        """The rank as tables show it: "2", "=1" where it is shared, "" where there is none."""
        return "" if self.rank is None else f"={self.rank}" if self.tied > 1 else str(self.rank)


class Comparison(_Frozen):
    """A leaderboard: everything that tables and reports show, and nothing that needs a model."""

    version: int = COMPARISON_VERSION
    benchmark: str
    benchmark_version: str
    benchmark_options: dict[str, Any]
    metrics: tuple[MetricColumn, ...]
    rows: tuple[Row, ...]
    differences: tuple[PairedDifference, ...] = Field((), description="every two of one's own rows, the better one first")
    testing: str = Field("", description="what the tests cover, in words")
    bench_seeds: tuple[int, ...] = Field((), description="instances in the table, where there are several")
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = Field(
        (), description="where published rows come from; rows are marked by their number, from 1"
    )
    thresholds: dict[str, float] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)

    def label(self, row: Row) -> str:
        """The row's title, with the number of its source where others measured it."""
        return f"{row.title} [{self.sources.index(row.source) + 1}]" if row.kind == "published" else row.title

    def standing_for(self, title: str) -> str:
        """The row that a title is shown as: itself, or the one that ended at the same weights."""
        return next((row.title for row in self.rows if title in row.same_as), title)

    def between(self, row: str, other: str) -> PairedDifference | None:
        """The difference of two rows by their titles, seen from the first; None where they were not compared."""
        row, other = self.standing_for(row), self.standing_for(other)
        for found in self.differences:
            if (found.row, found.other) == (row, other):
                return found
            if (found.row, found.other) == (other, row):
                return _turned(found)
        return None

    def against(self, other: str) -> dict[str, PairedDifference]:
        """Title -> difference to the row `other`, for all rows that were compared with it."""
        other = self.standing_for(other)
        found = {d.row: d for d in self.differences if d.other == other}
        return {**found, **{d.other: _turned(d) for d in self.differences if d.row == other}}


_TURNED: dict[Outcome, Outcome] = {"better": "worse", "tie": "tie", "worse": "better"}


def _turned(found: PairedDifference) -> PairedDifference:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    metrics = {
        name: MetricDifference(-m.difference, -m.high, -m.low, m.p, _TURNED[m.outcome]) for name, m in found.metrics.items()
    }
    changes = {
        "row": found.other, "other": found.row, "difference": -found.difference, "low": -found.high, "high": -found.low,
        "identity_low": minus(found.identity_high), "identity_high": minus(found.identity_low),
        "outcome": _TURNED[found.outcome], "wins": found.losses, "losses": found.wins, "metrics": metrics,
    }  # fmt: skip
    return found.model_copy(update=changes)


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
    notes: list[str] = []
    where = dict(zip(map(id, records), folders, strict=True)) if folders else {}
    by_seed = _by_instance(records)
    measured = {name for record in records for name in record.scores}
    if unknown := [name for name in score_with if name not in measured]:
        raise BadOptions(
            f"There is no metric '{unknown[0]}' in these records to score with.", f"Measured: {', '.join(sorted(measured))}."
        )
    instances = _instances(by_seed, where, score_with)
    for (seed, _), instance in zip(by_seed.items(), instances, strict=True):
        for which in ("clean", "compromised"):
            if which not in instance.references:
                of = f" of bench seed {seed}" if len(by_seed) > 1 else ""
                more = f" --bench-seed {seed}" if len(by_seed) > 1 else ""
                notes.append(
                    f"The {which.capitalize()} reference row{of} is missing: gaps, verdicts and ranks cannot be given."
                    f" Make it with `salmu run none --start {which} --benchmark {records[0].spec.benchmark}{more}`."
                )
    bench_seeds = tuple(int(seed) for seed in by_seed) if len(by_seed) > 1 else ()
    rows = [row for which in _REFERENCES if (row := _reference_row(which, instances)) is not None]
    groups: dict[str, list[JudgedRun]] = {}
    for instance, group in zip(instances, by_seed.values(), strict=True):
        for record in group:
            if record.kind != "reference":
                groups.setdefault(_group_key(record), []).append(_judged(record, where, instance))
    firsts = [group[0].record for group in groups.values()]
    titles, telling = Counter(map(_title, firsts)), _telling_options(firsts)
    runs: dict[str, tuple[Row, list[JudgedRun]]] = {}
    taken: set[str] = set()
    for group_key, judged in groups.items():
        record = judged[0].record
        different = telling[record.spec.method] if titles[_title(record)] > 1 else ()
        title = _title(record, different)
        if title in taken:  # two models of one name
            title = f"{title} ({record.id})"
        taken.add(title)
        judged = sorted(judged, key=lambda run: run.record.spec.seed)
        runs[group_key] = _row(title, judged, bench_seeds), judged
    runs, same_notes = _once(runs)
    notes += same_notes
    ordered = sorted(runs.values(), key=lambda item: _order(item[0]))
    compared = {row.title: judged for row, judged in ordered[:MOST_COMPARED]}
    differences = paired_differences(compared)
    rows += _ranked([row for row, _ in ordered], differences, compared)
    if len(ordered) > len(compared):
        notes.append(
            f"The best {len(compared)} of {len(ordered)} rows are compared with each other; those below hold no rank. Fewer rows in a"
            " folder are compared in full."
        )
    notes += _control_notes([row for row in rows if row.kind == "run"])
    first = instances[0].references.values()
    published = _published_results(first)
    rows += [_published_row(result, published) for result in published]
    notes += [
        note for which, record in instances[0].references.items() for note in _unlike_published(which, record, published)
    ]
    notes += _score_notes(instances, records, score_with)
    notes += _attack_notes(rows, [run for _, group in runs.values() for run in group])
    notes += [
        f"{row.title} reads metadata that it does not declare: {', '.join(undeclared)}."
        for row, judged in ordered
        if (undeclared := sorted({name for run in judged for name in run.record.undeclared}))
    ]
    skipped = {f"{name}: not measured ({why})" for record in records for name, why in record.skipped.items()}
    options = records[0].spec.benchmark_options
    return Comparison(
        benchmark=records[0].spec.benchmark,
        benchmark_version=records[0].provenance.benchmark_version,
        benchmark_options={**options, "seed": list(bench_seeds)} if bench_seeds else options,
        metrics=_columns(records, published, instances),
        rows=tuple(rows),
        differences=differences,
        testing=_testing(differences),
        bench_seeds=bench_seeds,
        notes=(*notes, *sorted(skipped)),
        sources=tuple(dict.fromkeys(result.source for result in published)),
        thresholds=dict(vars(Thresholds())),
        packages=records[0].provenance.packages,
    )


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


def _attack_notes(rows: Sequence[Row], judged: Sequence[JudgedRun]) -> list[str]:
    """What a reader must know of the column of what attacks got back."""
    notes = [run.attacked.problem for run in judged if run.attacked.problem]
    tried = {row.title: frozenset(row.attacks) for row in rows if row.attacked_runs}
    if len(set(tried.values())) > 1:
        every = frozenset.union(*tried.values())
        fewer = [title for title, names in tried.items() if names != every]
        notes.append(
            f"Not every row was attacked in the same ways: {', '.join(fewer)} had fewer of the {len(every)} attacks, and more attacks"
            " find more. `salmu compare` with --audits runs those that are missing."
        )
    partly = [row.title for row in rows if 0 < row.attacked_runs < row.runs]
    if partly:
        notes.append(f"Only some runs were attacked: {', '.join(partly)}.")
    return notes


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


def _score_notes(instances: Sequence[Instance], records: Sequence[RunRecord], score_with: Collection[str]) -> list[str]:
    """What a reader must know of how these rows are scored."""
    found = instances[0].basis
    notes = list(found.left_out.values())
    compromised = instances[0].scores("compromised")
    packages = instances[0].references["compromised"].provenance.metric_packages if compromised else {}
    several = len({packages[name].name for name in compromised if name in packages}) > 1
    if several and all(score.weight is None for score in compromised.values()):
        notes.append("The benchmark does not name the metrics that count here, so all that were measured count.")
    unnamed = [name for name, score in compromised.items() if score.weight == 0 and name not in score_with]
    if unnamed:
        notes.append(
            f"Shown and not counted, since the benchmark does not name {'it' if len(unnamed) == 1 else 'them'}: {', '.join(unnamed)}."
            f" --score-with {unnamed[0]} counts it."
        )
    if score_with:
        notes.append(f"Asked to count beside the benchmark's metrics: {', '.join(score_with)}.")
    lacking = {
        name for record in records if record.kind != "reference" and record.scores for name in found.missing(record.scores)
    }
    if lacking:
        notes.append(
            f"Some runs lack {', '.join(sorted(lacking))} and have no overall score: `salmu rescore` on this folder measures it."
        )
    return notes


def _control_notes(rows: Sequence[Row]) -> list[str]:
    """How the methods stand beside the best control; a warning where a control does what none should."""
    controls = [row for row in rows if row.control and not row.oracle and row.verdict in RANKED and row.overall is not None]
    methods = [row for row in rows if section(row) == 0 and row.overall is not None]
    if not controls:
        return []
    best = max(controls, key=lambda row: row.overall or 0.0)
    above = sum((row.overall or 0.0) > (best.overall or 0.0) for row in methods)
    words = (
        f"The best control, {best.title}, scores {best.overall:.3f}; {above} of {len(methods)} ranked methods score more."
    )
    if (best.overall or 0.0) > INDISCRIMINATE or any(row.verdict == "selective" for row in controls):
        words += " A control should read neither selective nor above 0.25: scores on this data say little."
    return [words]


def _clusters(record: RunRecord, folder: Path | None) -> Clusters:
    return partial(read_cluster_sums, record, folder)


def _judged(record: RunRecord, where: Mapping[int, Path | None], instance: Instance) -> JudgedRun:
    clean, compromised = instance.scores("clean"), instance.scores("compromised")
    folder, found = where.get(id(record)), instance.basis
    gaps = {name: gap for name, gap in gaps_of(record.scores, clean, compromised).items() if name in found.weights}
    falls = fall_tests(record, folder, instance.general)
    attacked = read_attacks(record, folder)
    verdict = with_attacks(judge(record, clean, compromised, falls=falls, counted=found.weights), attacked)
    parts = found.of(record.scores) if record.scores else None
    return JudgedRun(record, _clusters(record, folder), instance, gaps, parts, verdict, attacked)


def _testing(differences: Sequence[PairedDifference]) -> str:
    """What stands behind the ranks, and what does not, for whoever reads the table."""
    if not differences:
        return ""
    drawn = [found for found in differences if found.unit != "deterministic"]
    weakest = min(drawn or differences, key=lambda found: (found.unit != "single run", found.units))
    identities = "" if all(d.identity_low is not None for d in differences) else (
        " Some runs kept no rows by identity (made by salmu 0.1), so what other people would change is not covered."
    )  # fmt: skip
    counted = f"{len(differences)} comparison{'s' if len(differences) > 1 else ''}"
    if weakest.unit == "deterministic":
        return f"Every seed gives the same models, so a difference is judged by identities alone; corrected for {counted}.{identities}"
    if weakest.unit == "single run":
        return (
            "One run of a method: training-seed noise is not covered by data. A difference counts only where it exceeds noise that is"
            f" assumed to be large (standard deviation {OVERALL_NOISE:g} in the overall score of a run); corrected for {counted}."
            f" --seeds 0,1,2,3,4 measures it.{identities}"
        )
    pairs = f"{weakest.units} {weakest.unit}{'s' if weakest.units > 1 else ''}"
    few = "" if weakest.units > 4 else " So few tell only large differences; more of them tell smaller ones."
    return f"Paired over {pairs} (at least), corrected for {counted} by Holm's method.{few}{identities}"


def _group_key(record: RunRecord) -> str:
    content = [record.kind, record.spec.method, record.options, record.spec.budget, record.spec.precision, record.spec.start]
    if record.kind == "evaluation":
        content.append(record.id)
    return json.dumps(content, sort_keys=True)


def _telling_options(rows: Iterable[RunRecord]) -> dict[str, set[str]]:
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


def _title(record: RunRecord, different: Collection[str] = ()) -> str:
    """The method, with what tells it from other rows of the same method."""
    if record.kind == "evaluation":
        return record.summary.removeprefix("The model ")
    title = record.spec.method + (" from Clean" if record.spec.start == "clean" else "")
    if record.spec.budget != 1:
        title += f" {record.spec.budget:g}x"
    if record.spec.precision != "no":
        title += f" {record.spec.precision}"
    if record.spec.start != "compromised":
        title += f" from {record.spec.start.capitalize()}"
    return title + "".join(f" {name}={value}" for name, value in record.options.items() if name in different)


def _reference_row(which: Target, instances: Sequence[Instance]) -> Row | None:
    found = [instance for instance in instances if which in instance.references]
    if not found:
        return None
    records = [instance.references[which] for instance in found]
    cells = {
        name: _cell(name, [_judged(record, {}, instance) for record, instance in zip(records, found, strict=True)])
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


def _published_results(references: Iterable[RunRecord]) -> list[PublishedResult]:
    """What the reference records carry, each result once, in the order of the benchmark."""
    return list({(result.source, result.title): result for record in references for result in record.published}.values())


def _published_row(result: PublishedResult, published: Sequence[PublishedResult]) -> Row:
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


def _unlike_published(which: str, record: RunRecord, published: Sequence[PublishedResult]) -> list[str]:
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


def _row(title: str, group: Sequence[JudgedRun], bench_seeds: Sequence[int]) -> Row:
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
    # Seeds that change nothing are no spread; instances are.
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
        reason=worst.reason,
        verdicts=dict(Counter(run.verdict.name for run in group)),
        overall=_mean_of_means(overall) if overall else None,
        overall_sd=statistics.stdev(values) if len(values) > 1 and spread else None,
        parts=_parts(group),
        deterministic=steady,
        control=first.family == CONTROL,
        seconds=statistics.fmean(cost.seconds.get("unlearn", 0.0) for cost in costs),
        samples={
            role: max(cost.samples.get(role, 0) for cost in costs)
            for role in dict.fromkeys(r for c in costs for r in c.samples)
        },
        captions={
            role: max(cost.captions.get(role, 0) for cost in costs)
            for role in dict.fromkeys(r for c in costs for r in c.captions)
        },
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


def _order(row: Row) -> tuple[int, float]:
    """Best overall score first within each section."""
    return section(row), -(row.overall if row.overall is not None else float("-inf"))


def section(row: Row) -> int:
    """Where a row stands whatever its score: 0 with a verdict that can hold a rank, 1 ruined, unchanged or failed, 2 a control, 3 a
    method that has seen Clean. Every table, page and picture keeps to it."""
    if row.oracle:
        return 3
    return 2 if row.control else int(row.verdict not in RANKED)


def _ranked(rows: Sequence[Row], differences: Sequence[PairedDifference], compared: Collection[str]) -> list[Row]:
    """Ranks for rows that may hold one, shared by ties; and what each row wins and loses.

    Args:
        rows: in order.
        compared: titles of the rows that the differences are between.
    """
    outcomes: dict[tuple[str, str], Outcome] = {}
    counts: defaultdict[str, Counter[Outcome]] = defaultdict(Counter)
    metrics: defaultdict[str, defaultdict[str, Counter[Outcome]]] = defaultdict(lambda: defaultdict(Counter))
    for found in differences:  # once over all pairs: there are twenty thousand of two hundred rows
        turned = _TURNED[found.outcome]
        outcomes[found.row, found.other], outcomes[found.other, found.row] = found.outcome, turned
        counts[found.row][found.outcome] += 1
        counts[found.other][turned] += 1
        own, other = metrics[found.row], metrics[found.other]
        for name, metric in found.metrics.items():
            own[name][metric.outcome] += 1
            other[name][_TURNED[metric.outcome]] += 1

    def worse(title: str, than: str) -> bool:
        return outcomes.get((title, than)) == "worse"

    holding = [row.title for row in rows if section(row) == 0 and row.kind == "run" and row.title in compared]
    groups = tie_groups(holding, worse)
    ranks = shared_ranks(groups)
    sizes = Counter(groups.values())
    result = []
    for row in rows:
        cells = {name: cell.model_copy(update=_counted(metrics[row.title][name])) for name, cell in row.cells.items()}
        ranked: dict[str, int] = {}
        if (group := groups.get(row.title)) is not None:
            ranked = {"rank": ranks[row.title], "tie_group": group, "tied": sizes[group]}
        result.append(row.model_copy(update={**ranked, **_counted(counts[row.title]), "cells": cells}))
    return _by_rank(result)


def _by_rank(rows: Sequence[Row]) -> list[Row]:
    """Tie groups stay together; a row that holds no rank (a given model, say) stays behind the one before it."""
    places = []
    rank = 0
    for number, row in enumerate(rows):
        rank = row.rank or rank
        places.append((section(row), rank, number))
    return [rows[number] for *_, number in sorted(places)]


def _counted(outcomes: Mapping[Outcome, int]) -> dict[str, int]:
    return {"wins": outcomes.get("better", 0), "ties": outcomes.get("tie", 0), "losses": outcomes.get("worse", 0)}


def _columns(
    records: Sequence[RunRecord],
    published: Sequence[PublishedResult],
    instances: Sequence[Instance],
) -> tuple[MetricColumn, ...]:
    """Every metric that somebody measured, in the order in which metrics are registered."""
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
