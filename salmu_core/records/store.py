"""Reading and writing record files."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from salmu_core.errors import BadRecord, DamagedFile
from salmu_core.files.seals import read_json
from salmu_core.files.writing import write_sealed_json
from salmu_core.records.rows import check_rows
from salmu_core.records.schema import SCHEMA_VERSION, RunRecord

RECORD_FILE = "record.json"
GONE = "'{rows}' is gone: the scores beside it count, but identities are not resampled and falls of general knowledge not tested."
AGAIN = "Run the run again to have it back."


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 2 adds `files`, `published` and `provenance.execution`, and nobody knew of any of them before."""
    return {**content, "files": [], "published": []}


#: version -> what turns its content into the next version's.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1}


@dataclass(frozen=True)
class LoadedRecords:
    """Records that could be read with the file of each, and a sentence for each that could not."""

    records: list[RunRecord] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """Where each record lies."""
        return [file.parent for file in self.files]


def write_record(place: str | Path, record: RunRecord) -> Path:
    """Write a record atomically, with a checksum by which an edit is noticed.

    Args:
        place: a run directory, where it becomes `record.json`, or a file that ends in `.json`.

    Raises:
        BadRecord: it holds what no reader would take: a number that is not finite, a score outside its metric's bounds.
    """
    place = Path(place)
    path = place if place.suffix == ".json" and not place.is_dir() else place / RECORD_FILE
    content = record.model_dump(mode="json")
    _checked(content, str(path))  # `model_copy` does not look at what it is given
    write_sealed_json(path, content)
    return path


def read_record(path: str | Path) -> RunRecord:
    """Read a record file, or the one in a run directory; older schema versions are upgraded.

    Raises:
        BadRecord: no such file, not JSON, changed after it was written, fields missing, numbers that are not finite or outside
            their metric's bounds, or a version newer than this salmu.
    """
    path = Path(path)
    path = path / RECORD_FILE if path.is_dir() and path.name != RECORD_FILE else path
    try:
        content = read_json(path, sealed_with={"broken", "columns", "undeclared", "warnings"})
    except FileNotFoundError:
        raise BadRecord(f"There is no record at '{path}'.", "Give a run directory or a record.json.") from None
    except DamagedFile as error:
        # Somebody's table, given by mistake, is not to be deleted.
        hint = "Delete it and run the run again." if path.suffix == ".json" else "Give a run directory or a record.json."
        raise BadRecord(f"The record cannot be read: {error.message}", hint) from error
    if not isinstance(content, dict) or not isinstance(content.get("schema_version"), int):
        raise BadRecord(f"'{path}' is not a salmu record: it has no schema_version.")
    version = content["schema_version"]
    if version > SCHEMA_VERSION:
        raise BadRecord(
            f"The record '{path}' has schema version {version}; this salmu reads up to {SCHEMA_VERSION}.", "Upgrade salmu."
        )
    while version < SCHEMA_VERSION:
        if version not in UPGRADES:
            raise BadRecord(f"The record '{path}' has schema version {version}, which was never released.")
        content = UPGRADES[version](content)
        version += 1
    return _checked({**content, "schema_version": SCHEMA_VERSION}, str(path))


def _checked(content: dict[str, Any], named: str) -> RunRecord:
    try:
        return RunRecord(**content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecord(f"The record '{named}' is damaged: {where}: {problem['msg']}.", "Run the run again.") from None
    except TypeError as error:  # names that are not names of fields
        raise BadRecord(f"The record '{named}' is damaged: {error}.", "Run the run again.") from None


def load_records(*paths: str | Path) -> LoadedRecords:
    """Every record below the given directories (or the given files), in order of path. One that is damaged, or does not agree with
    the rows beside it, is reported; the others are returned, those that lost their rows as well, with a sentence on it."""
    loaded = LoadedRecords()
    for path in paths:
        path = Path(path)
        for file in _found_below(path, loaded.problems) if path.is_dir() else [path]:
            try:
                record = read_record(file)
                check_rows(record, file.parent)
                if record.rows_file is not None and not os.path.lexists(rows := file.with_name(record.rows_file)):
                    loaded.problems.append(f"{GONE.format(rows=rows)} {AGAIN}")
                loaded.records.append(record)
                loaded.files.append(file)
            except BadRecord as problem:
                loaded.problems.append(str(problem))
    return loaded


def _found_below(folder: Path, problems: list[str]) -> list[Path]:
    """Everything called `record.json`, whatever it is, in order of path. Links to folders are not followed."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a folder that vanished meanwhile holds nothing
            problems.append(f"'{error.filename}' cannot be read: {error.strerror}.")

    found = []
    for place, folders, files in os.walk(folder, onerror=unreadable):
        if RECORD_FILE in folders:
            folders.remove(RECORD_FILE)
        elif RECORD_FILE not in files:
            continue
        found.append(Path(place) / RECORD_FILE)
    return sorted(found)
