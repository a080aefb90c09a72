"""The report's data on single runs, in the short form that the page's scripts read.

Everything here comes from plugins or data and stays text: the page sets it as text or escapes it, never as markup.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from salmu_core.comparison.explain import explain
from salmu_core.comparison.leaderboard import Comparison, Row
from salmu_core.records.report_data import Exhibits, Retrieval
from salmu_core.report.beside_records import Curve, Evidence
from salmu_core.report.projection import Projection


def up_close(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    """Scenes and runs; a run names its scene and the runs that are Compromised and Clean for it by their numbers. Positions on
    the map are in thousandths, cosines and counts as they are."""
    shown = [(number, row, record) for number, row in enumerate(comparison.rows) for record in row.records]
    number_of = {record: number for number, (_, _, record) in enumerate(shown)}
    references = _references(evidence, number_of)
    scenes = {data: scene for data, scene in evidence.scenes.items() if ("compromised", data) in references}
    projections = _projections(references, evidence)
    runs = []
    for number, row, record in shown:
        exhibits = evidence.exhibits.get(record)
        data = exhibits.data if exhibits is not None else ""
        projection = projections.get(data)
        runs.append(
            {
                "row": number,
                "title": _title(row, record, evidence),
                **_facts(row, record, comparison, evidence),
                **_exhibits(exhibits, projection),
                "scene": list(scenes).index(data) if data in scenes else None,
                "share": None if projection is None else [round(share, 4) for share in projection.share],
                **{which: _reference_for(which, data, references, number_of) for which in ("compromised", "clean")},
                "curves": [_curve(curve) for curve in evidence.curves.get(record, ())],
            }
        )
    return {
        "scenes": [[row.model_dump(mode="json", exclude_defaults=True) for row in scene.rows] for scene in scenes.values()],
        "runs": runs,
    }


def _references(evidence: Evidence, shown: Container[str]) -> dict[tuple[str, str], str]:
    """(Clean or Compromised, data) -> record. There are several of each where instances of a benchmark are pooled."""
    return {
        (record.spec.start, evidence.exhibits[identifier].data): identifier
        for identifier, record in evidence.records.items()
        if record.kind == "reference" and identifier in evidence.exhibits and identifier in shown
    }


def _projections(references: Mapping[tuple[str, str], str], evidence: Evidence) -> dict[str, Projection]:
    fitted = {}
    for (which, data), record in references.items():
        vectors = evidence.exhibits[record].vectors
        projection = Projection.fit(vectors) if which == "compromised" and vectors is not None else None
        if projection is not None:
            fitted[data] = projection
    return fitted


def _reference_for(
    which: str, data: str, references: Mapping[tuple[str, str], str], number_of: Mapping[str, int]
) -> int | None:
    """The reference on the same data, else the only one there is: its similarities can be shown even where its pairs are others."""
    every = [record for (kind, _), record in references.items() if kind == which]
    record = references.get((which, data)) or (every[0] if len(every) == 1 else None)
    return None if record is None else number_of[record]


def _title(row: Row, identifier: str, evidence: Evidence) -> str:
    """The row's title, with the seeds that tell its runs apart."""
    records = [evidence.records[known] for known in row.records if known in evidence.records]
    own = evidence.records.get(identifier)
    if own is None or len(records) < 2:
        return row.title
    words = [row.title]
    if len({record.spec.seed for record in records}) > 1:
        words.append(f"seed {own.spec.seed}")
    if len({str(record.spec.benchmark_options) for record in records}) > 1:
        words.append(f"instance {own.spec.benchmark_options.get('seed', own.spec.benchmark_options)}")
    return ", ".join(words)


def _facts(row: Row, identifier: str, comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    record = evidence.records.get(identifier)
    return {
        "kind": row.kind,
        "verdict": row.verdict,
        "words": explain(row, comparison),
        "summary": row.summary,
        "command": (record.provenance.command if record is not None else next(iter(row.commands), None)) or "",
        "options": {name: str(value) for name, value in row.options.items()},
    }


def _exhibits(exhibits: Exhibits | None, projection: Projection | None) -> dict[str, Any]:
    if exhibits is None:
        return {"similarities": [], "map": None, "retrievals": []}
    placed = projection.place(exhibits.vectors) if projection is not None and exhibits.vectors is not None else None
    return {
        "similarities": [[s.split, s.aspect, s.n, s.mean, s.first, list(s.counts)] for s in exhibits.similarities],
        "map": None if placed is None else [_thousandths(side) for side in placed],
        "retrievals": [_retrieval(retrieval) for retrieval in exhibits.retrievals],
    }


def _thousandths(points: np.ndarray) -> list[list[int]]:
    table: list[list[int]] = np.rint(points.T * 1000).astype(int).tolist()
    return table


def _retrieval(retrieval: Retrieval) -> Mapping[str, Any]:
    return {
        "row": retrieval.row,
        "caption": [retrieval.caption_rank, retrieval.captions],
        "picture": [retrieval.picture_rank, retrieval.pictures],
        "captions": [[found.cosine, found.relation, found.caption] for found in retrieval.found_captions],
        "pictures": [[found.cosine, found.relation, found.row] for found in retrieval.found_pictures],
    }


def _curve(curve: Curve) -> Sequence[Any]:
    return [curve.fit, curve.name, list(curve.steps), [float(f"{value:.5g}") for value in curve.values]]
