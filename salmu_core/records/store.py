"""Reading and writing record files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from salmu_core.errors import BadRecord
from salmu_core.files import write_json
from salmu_core.records.schema import SCHEMA_VERSION, RunRecord

RECORD_FILE = "record.json"


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


def write_record(folder: str | Path, record: RunRecord) -> Path:
    """Write `record.json` atomically."""
    path = Path(folder) / RECORD_FILE
    write_json(path, record.model_dump(mode="json"))
    return path


def read_record(path: str | Path) -> RunRecord:
    """Read a record file, or the one in a run directory; older schema versions are upgraded.

    Raises:
        BadRecord: no such file, not JSON, fields missing, or a version newer than this salmu.
    """
    path = Path(path)
    path = path / RECORD_FILE if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRecord(f"There is no record at '{path}'.", "Give a run directory or a record.json.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadRecord(f"The record '{path}' cannot be read: {error}.", "Delete it and run the run again.") from error
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
    try:
        return RunRecord(**{**content, "schema_version": SCHEMA_VERSION})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRecord(f"The record '{path}' is damaged: {where}: {problem['msg']}.", "Run the run again.") from None


def load_records(*paths: str | Path) -> LoadedRecords:
    """Every record below the given directories (or the given files), in order of path. A damaged one is reported, the others
    are returned."""
    loaded = LoadedRecords()
    for path in paths:
        path = Path(path)
        files = sorted(path.rglob(RECORD_FILE)) if path.is_dir() else [path]
        for file in files:
            try:
                loaded.records.append(read_record(file))
                loaded.files.append(file)
            except BadRecord as problem:
                loaded.problems.append(str(problem))
    return loaded
