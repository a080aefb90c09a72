"""The report's data on single runs, in the short form that the page's scripts read.

Everything here comes from plugins or data and stays text: the page sets it as text or escapes it, never as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salmu_core.records.compare import Comparison, Row
from salmu_core.records.evidence import Curve, Evidence
from salmu_core.records.exhibits import Exhibits, Retrieval
from salmu_core.records.explain import explain
from salmu_core.records.projection import Projection


def up_close(comparison: Comparison, evidence: Evidence) -> dict[str, Any]:
    """Scene, references and runs. Positions on the map are in thousandths, cosines and counts as they are."""
    reference = _reference_exhibits(comparison, evidence)
    start = reference.get("compromised")
    projection = Projection.fit(start.vectors) if start is not None and start.vectors is not None else None
    key = start.data if start is not None else None
    scene = evidence.scene if evidence.scene is not None and evidence.scene.data == key else None

    def shown(record: str) -> dict[str, Any]:
        exhibits = evidence.exhibits.get(record)
        # Exhibits of other data than Compromised's would be set beside the wrong pairs.
        fits = exhibits if exhibits is not None and key in (None, exhibits.data) else None
        return {**_exhibits(fits, projection), "curves": [_curve(c) for c in evidence.curves.get(record, ())]}

    runs = []
    for number, row in enumerate(comparison.rows):
        for position, record in enumerate(row.records):
            runs.append(
                {"row": number, "title": _title(row, position), **_facts(row, position, comparison), **shown(record)}
            )
    return {
        "scene": None if scene is None else [row.model_dump(mode="json", exclude_defaults=True) for row in scene.rows],
        "share": None if projection is None else [round(share, 4) for share in projection.share],
        "references": {
            row.reference: next(i for i, run in enumerate(runs) if run["row"] == number)
            for number, row in enumerate(comparison.rows)
            if row.kind == "reference" and row.records
        },
        "runs": runs,
    }


def _reference_exhibits(comparison: Comparison, evidence: Evidence) -> dict[str, Exhibits]:
    return {
        row.reference: evidence.exhibits[record]
        for row in comparison.rows
        if row.kind == "reference" and row.reference is not None
        for record in row.records
        if record in evidence.exhibits
    }


def _title(row: Row, position: int) -> str:
    return row.title if len(row.records) == 1 else f"{row.title}, seed {row.seeds[position]}"


def _facts(row: Row, position: int, comparison: Comparison) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "verdict": row.verdict,
        "words": explain(row, comparison),
        "summary": row.summary,
        "command": row.commands[position] if len(row.commands) == len(row.records) else "",
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
