"""Results that others published, by benchmark: shipped as data, so that a leaderboard needs no network to show them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from salmu_core.benchmark import PublishedRow


def published_rows(benchmark: str) -> tuple[PublishedRow, ...]:
    """What was published on the benchmark of that name, source by source; nothing for a benchmark nobody else measured."""
    return tuple(
        PublishedRow(
            title=row["title"],
            scores=row["scores"],
            extras=row.get("extras", {}),
            source=source["source"],
            note=row.get("note", ""),
            reference=row.get("reference"),
        )
        for source in _content().get(benchmark, ())
        for row in source["rows"]
    )


@cache
def _content() -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = json.loads(
        files("salmubench").joinpath("published.json").read_text(encoding="utf-8")
    )
    return content
