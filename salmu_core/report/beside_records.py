"""What lies beside records for a report: exhibits, the scene they speak of, and the course of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salmu_core.errors import BadRecord, DamagedFile
from salmu_core.files.seals import read_json
from salmu_core.records.report_data import EXHIBITS_FILE, SCENE_FILE, Exhibits, Scene, beside, read_exhibits, read_scene
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import RECORD_FILE

HISTORY_FILE = "history.json"
CURVE_POINTS = 120  # of one curve; more cannot be told apart on a page


@dataclass(frozen=True)
class Curve:
    """One value over the steps of one fit."""

    fit: int
    name: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Evidence:
    """By id of a record; scenes by the data that they are of. Old results have records and curves only."""

    records: Mapping[str, RunRecord] = field(default_factory=dict)
    scenes: Mapping[str, Scene] = field(default_factory=dict)
    exhibits: Mapping[str, Exhibits] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    problems: Sequence[str] = ()


def gather(records: Iterable[tuple[RunRecord, Path]]) -> Evidence:
    """Read what lies beside records, given with the file of each. Damaged files are reported and left out."""
    known: dict[str, RunRecord] = {}
    scenes: dict[str, Scene] = {}
    exhibits: dict[str, Exhibits] = {}
    curves: dict[str, Sequence[Curve]] = {}
    problems: list[str] = []
    for record, file in records:
        known[record.id] = record
        try:
            found = read_exhibits(beside(file, EXHIBITS_FILE))
            if found is not None:
                exhibits[record.id] = found
            scene = read_scene(beside(file, SCENE_FILE)) if record.kind == "reference" else None
            if scene is not None:
                scenes[scene.data] = scene
        except BadRecord as problem:
            problems.append(str(problem))
        if file.name == RECORD_FILE:
            curves[record.id] = _curves(file.with_name(HISTORY_FILE))
    return Evidence(known, scenes, exhibits, curves, problems)


def _curves(path: Path) -> list[Curve]:
    """A run's history, a curve for each value of each fit; nothing where it cannot be read, since no number rests on it."""
    try:
        history = read_json(path, finite=False)  # the loss of a run that diverged
    except (OSError, DamagedFile):
        return []
    points: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for entry in history if isinstance(history, list) else []:
        if not isinstance(entry, dict) or not _is_number(entry.get("step")):
            continue
        for name, value in entry.items():
            if name not in ("fit", "step") and _is_number(value):
                points.setdefault((int(entry.get("fit", 0)), str(name)), []).append((entry["step"], value))
    return [
        Curve(fit, name, *(tuple(column) for column in zip(*_thinned(found), strict=True)))
        for (fit, name), found in points.items()
    ]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `CURVE_POINTS`, evenly spread, the last one kept."""
    if len(points) <= CURVE_POINTS:
        return points
    stride = (len(points) - 1) / (CURVE_POINTS - 1)
    return [points[round(number * stride)] for number in range(CURVE_POINTS)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
