"""Results without a model: a comparison's records, tables and report as a dataset repository on the hub."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import jinja2

from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.leaderboard import Comparison
from salmu_core.errors import BadRecord
from salmu_core.files.seals import sealed_json
from salmu_core.records.redact import public_record
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE, load_records
from salmu_core.report.report import write_reports
from salmu_share.hub_commit import Publication, check_name

CARD_FILE = "README.md"


def is_results(folder: Path) -> bool:
    """Is that the results folder of a comparison, and no run?"""
    return folder.is_dir() and not (folder / RECORD_FILE).exists() and any(folder.rglob(RECORD_FILE))


def prepare_results(folder: Path, repository: str, *, license: str = "unknown", rows: bool = False) -> Publication:
    """What a push of results uploads: each record without paths of this machine, and tables and report made from these.

    Args:
        rows: upload per-row scores too.

    Raises:
        BadRecord: a record cannot be read, or they cannot share a table.
    """
    check_name(repository)
    loaded = load_records(folder)
    if loaded.problems:
        raise BadRecord(loaded.problems[0], "Mend it or move it away: what is published is whole.")
    kept = [_public(record, rows) for record in loaded.records]
    files: dict[str, Path | bytes] = {}
    for record, place in zip(kept, loaded.folders, strict=True):
        name = f"runs/{place.name}"
        content = sealed_json(record.model_dump(mode="json"))
        files[f"{name}/{RECORD_FILE}"] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
        if record.rows_file is not None:
            files[f"{name}/{record.rows_file}"] = place / record.rows_file
    comparison = compare_records(kept, loaded.folders)
    with tempfile.TemporaryDirectory() as scratch:
        for path in write_reports(Path(scratch), comparison, zip(kept, loaded.files, strict=True)).values():
            files[path.name] = path.read_bytes()
    card = _card(comparison, license, repository)
    return Publication(repository, card, {CARD_FILE: card.encode(), **files}, kind="dataset")


def _public(record: RunRecord, rows: bool) -> RunRecord:
    changes = {"model_file": None, "files": (), "rows_file": record.rows_file if rows else None}
    return public_record(record).model_copy(update=changes)


def _card(comparison: Comparison, license: str, repository: str) -> str:
    return _template().render(
        comparison=comparison,
        license=license,
        title=repository.partition("/")[2],
        rows=[row for row in comparison.rows if row.kind == "run"],
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("salmu_share"), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return environment.get_template("results.md.j2")
