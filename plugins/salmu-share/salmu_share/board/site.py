"""A board: every submission of a results repository checked, and a static site of those that hold."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.leaderboard import Comparison
from salmu_core.errors import BadRecord
from salmu_core.files.writing import write_json, write_text
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE
from salmu_core.report.html import html_template
from salmu_core.report.report import write_reports
from salmu_core.runner.planned import reference_specs
from salmu_core.runner.workers import run_alone
from salmu_core.spec.resolve import resolve
from salmu_share.board.check import REASONS, CheckedRun, Checks, Outcome, check_submission
from salmu_share.board.submission import find_submissions

BOARD_FILE = "board.json"
INDEX_FILE = "index.html"


@dataclass(frozen=True)
class Table:
    """One leaderboard of a board: a benchmark's version and protocol, with all its instances, methods and budgets.

    Args:
        name: folder of its report, below the site's.
    """

    name: str
    comparison: Comparison
    replayed: dict[str, int]


@dataclass(frozen=True)
class Board:
    """What came of checking a results repository.

    Args:
        outcomes: of every submission that was looked at.
        tables: of those that hold; empty where no site was asked for.
        index: the site's first page, where one was written.
    """

    outcomes: tuple[Outcome, ...]
    tables: tuple[Table, ...] = ()
    index: Path | None = None

    @property
    def refused(self) -> tuple[Outcome, ...]:
        """The submissions that were not taken."""
        return tuple(outcome for outcome in self.outcomes if outcome.reason is not None)


def check_board(
    place: Path,
    checks: Checks,
    *,
    only: Sequence[str] = (),
    site: Path | None = None,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Board:
    """Check submissions and, where asked to, build the site.

    Args:
        place: a results repository, or any folder with submissions below it.
        only: names of the submissions' folders; empty: all.
        site: folder to write the site to; what a former site left there is replaced.
        told: called as each submission is done.

    Raises:
        BadRecord: there is no submission, or none of that name.
        SalmuError: a reference of a benchmark cannot be measured, or the site cannot be written.
    """
    folders = find_submissions(place)
    unknown = sorted(set(only) - {folder.name for folder in folders})
    if unknown:
        raise BadRecord(f"There is no submission called '{unknown[0]}' below '{place}'.", _listed(folders))
    chosen = [folder for folder in folders if not only or folder.name in only]
    outcomes: list[Outcome] = []
    taken: dict[str, str] = {}
    for folder in chosen:
        outcome = _without_twins(check_submission(folder, checks), taken)
        outcomes.append(outcome)
        told(outcome)
    if site is None:
        return Board(tuple(outcomes))
    tables = tuple(_tables(outcomes, checks, site))
    return Board(tuple(outcomes), tables, _write_index(site, outcomes, tables))


def requirements(place: Path, only: Sequence[str] = ()) -> list[str]:
    """What pip has to install before the submissions can be run again, a requirement each. A submission that cannot be read needs
    nothing: its check will say why."""
    from salmu_core.errors import SalmuError
    from salmu_share.board.submission import read_submission

    found = []
    for folder in find_submissions(place):
        if only and folder.name not in only:
            continue
        try:
            found.append(read_submission(folder).requirement)
        except SalmuError:
            continue
    return sorted({text for text in found if text})


def _listed(folders: Sequence[Path]) -> str:
    return f"There are: {', '.join(folder.name for folder in folders)}." if folders else "`salmu submit` makes one."


def _without_twins(outcome: Outcome, taken: dict[str, str]) -> Outcome:
    """Refuse a run that another submission brought already."""
    for run in outcome.runs:
        key = _identity(run.record)
        if key in taken:
            words = f"{run.record.spec.method}, seed {run.record.spec.seed}, was submitted in {taken[key]}."
            return Outcome(outcome.folder, outcome.submission, (), "duplicate", words)
        taken[key] = outcome.folder.name
    return outcome


def _identity(record: RunRecord) -> str:
    spec, provenance = record.spec, record.provenance
    content = [
        spec.method, str(provenance.method_package), record.options, spec.benchmark, provenance.data_fingerprint, spec.seed,
        spec.budget, spec.precision, spec.protocol, spec.start,
    ]  # fmt: skip
    return json.dumps(content, sort_keys=True)


# ------------------------------------------------------------------ the site


def _tables(outcomes: Sequence[Outcome], checks: Checks, site: Path) -> Iterator[Table]:
    """The leaderboards, each with its report written below the site."""
    groups: dict[str, list[CheckedRun]] = {}
    for outcome in outcomes:
        for run in outcome.runs:
            groups.setdefault(_table_of(run.record), []).append(run)
    names: set[str] = set()
    for runs in groups.values():
        name = _free_name(runs[0].record, names)
        records, folders = _references(runs, checks)
        records, folders = [*records, *(run.record for run in runs)], [*folders, *(run.folder for run in runs)]
        comparison = compare_records(records, folders)
        places = [folder / RECORD_FILE for folder in folders]
        write_reports(site / name, comparison, zip(records, places, strict=True))
        replayed = dict(Counter[str](run.replayed for run in runs))
        yield Table(name, comparison, replayed)


def _table_of(record: RunRecord) -> str:
    identity = {**(record.provenance.benchmark_identity or record.spec.benchmark_options)}
    identity.pop("seed", None)
    return json.dumps(
        [record.spec.benchmark, record.provenance.benchmark_version, identity, record.spec.protocol], sort_keys=True
    )


def _free_name(record: RunRecord, names: set[str]) -> str:
    plain = f"{record.spec.benchmark}-{record.provenance.benchmark_version}".replace(":", ".")
    number = next(n for n in range(1, len(names) + 2) if (plain if n == 1 else f"{plain}-{n}") not in names)
    name = plain if number == 1 else f"{plain}-{number}"
    names.add(name)
    return name


def _references(runs: Sequence[CheckedRun], checks: Checks) -> tuple[list[RunRecord], list[Path]]:
    """Clean and Compromised of every instance, measured here."""
    records, folders = [], []
    instances = {run.record.provenance.data_fingerprint: run.record for run in runs}
    for record in instances.values():
        spec, benchmark = record.spec, checks.benchmark(record)
        for reference in reference_specs(
            benchmark=spec.benchmark, benchmark_options=spec.benchmark_options, protocol=spec.protocol
        ):
            resolved = resolve(reference, checks.plugins, checks.settings.cache_folder, benchmark)
            folder = resolved.folder_in(checks.kept / "references")
            records.append(run_alone(resolved, folder, checks.settings, checks.plugins))
            folders.append(folder)
    return records, folders


def _write_index(site: Path, outcomes: Sequence[Outcome], tables: Sequence[Table]) -> Path:
    """`index.html` and `board.json`. Folders of tables that are no longer there go."""
    old = site / BOARD_FILE
    if old.is_file():
        for name in _former_tables(old) - {table.name for table in tables}:
            shutil.rmtree(site / name, ignore_errors=True)
    refused = [outcome for outcome in outcomes if outcome.reason is not None]
    content: dict[str, Any] = {
        "tables": [{"name": table.name, "replayed": table.replayed} for table in tables],
        "submissions": [as_json(outcome) for outcome in outcomes],
    }
    write_json(old, content)
    owners = {
        (run.record.spec.method, str(run.record.provenance.method_package)): outcome.submission
        for outcome in outcomes for run in outcome.runs
    }  # fmt: skip
    authors = {method: found.authors for (method, _), found in owners.items() if found is not None and found.authors}
    page = _template().render(
        tables=tables,
        refused=refused,
        reasons=REASONS,
        taken=len(outcomes) - len(refused),
        authors=authors,
    )
    write_text(site / INDEX_FILE, page)
    return site / INDEX_FILE


def _former_tables(path: Path) -> set[str]:
    try:
        names = {str(table["name"]) for table in json.loads(path.read_text(encoding="utf-8"))["tables"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if Path(name).name == name and name not in ("", ".", "..")}


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For other programs."""
    submission = outcome.submission
    return {
        "name": outcome.folder.name,
        "method": submission.method if submission else None,
        "package": submission.package.model_dump() if submission else None,
        "authors": submission.authors if submission else "",
        "reason": outcome.reason,
        "words": outcome.words,
        "runs": [{"id": run.record.id, "replayed": run.replayed} for run in outcome.runs],
    }


@cache
def _template() -> jinja2.Template:
    filters: dict[str, Callable[..., Any]] = {
        "score": lambda value: "–" if value is None else f"{value:.3f}",
        "share": lambda value: "–" if value is None else f"{value:.0%}",
    }
    return html_template("salmu_share.board", "index.html.j2", filters)
