"""Draws the house: `uv run python docs/picture_of_core.py` writes `docs/images/core.svg` from the imports of `salmu_core`.

A box is a folder, or a group of files at the top. An arrow leads from a folder to one that it imports; arrows that follow from others
are left out, and so are imports for type checking only. Folders that import each other share a box. A test says when the picture
is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import grimp

sys.path.insert(0, str(Path(__file__).parent / "site"))
from diagrams import IMAGES, Drawing

#: Files at the top of core, by the box that they are drawn in.
GROUPS = {
    "contract": ("hookspecs", "method", "metric", "benchmark", "audit", "layout", "losses"),
    "errors, options, seeding": ("errors", "options", "seeding"),
}
#: What each box holds, from left to right in a row. A new folder needs a line here.
WORDS = {
    "cli/": "commands: parse, call, print",
    "builtin/": "the method `none`, the benchmark `toy`",
    "runner/": "the five steps of a run, the loop, comparisons",
    "evaluation/": "views, one embedding pass, scores",
    "spec/": "what is to be run: studies, presets, names",
    "report/": "tables and pages",
    "plugins/": "finds and loads packages",
    "comparison/": "gaps, verdicts, tests, ranks",
    "contract": "hooks, method, metric, benchmark, audit, losses",
    "data/, models/": "pairs, splits, pixels; the dual encoder",
    "records/": "the record of a run, read and written",
    "files/": "files written whole, checksums",
    "errors, options, seeding": "what everything rests on",
}
LEFT_OUT = {"__main__", "testing"}  # the entry of `python -m`, and an earlier name
WIDTH, GAP, BOX, ROW = 940, 18, 52, 88


def box_of(module: str) -> str | None:
    """The box of a module of core; None for the package itself and for what is left out."""
    top = module.removeprefix("salmu_core").lstrip(".").split(".")[0]
    if not top or top in LEFT_OUT:
        return None
    return next((name for name, files in GROUPS.items() if top in files), f"{top}/")


def arrows() -> dict[str, set[str]]:
    """Box -> the boxes that it imports."""
    graph = grimp.build_graph("salmu_core", exclude_type_checking_imports=True, cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in sorted(graph.modules):
        own = box_of(module)
        if own is not None:
            imported = {box_of(other) for other in graph.find_modules_directly_imported_by(module)}
            found.setdefault(own, set()).update(box for box in imported if box is not None and box != own)
    return found


def reached(found: Mapping[str, Iterable[str]], start: str) -> set[str]:
    """Everything that is imported by a box, at whatever remove."""
    seen: set[str] = set()
    waiting = list(found[start])
    while waiting:
        if (box := waiting.pop()) not in seen:
            seen.add(box)
            waiting += found[box]
    return seen


def joined(found: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same with boxes that import each other put together."""
    below = {box: reached(found, box) for box in found}
    name = {
        box: ", ".join(sorted({box, *(other for other in found if other in below[box] and box in below[other])}))
        for box in found
    }
    together: dict[str, set[str]] = {}
    for box, others in found.items():
        together.setdefault(name[box], set()).update(name[other] for other in others if name[other] != name[box])
    return together


def without_detours(found: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Only arrows that do not follow from others."""
    below = {box: reached(found, box) for box in found}
    return {
        box: {other for other in others if not any(other in below[way] for way in others)} for box, others in found.items()
    }


def levels(found: Mapping[str, set[str]]) -> dict[str, int]:
    """Box -> its row from the top: one below the lowest box that imports it."""

    @cache
    def row(box: str) -> int:
        return 1 + max((row(other) for other, below in found.items() if box in below), default=-1)

    return {box: row(box) for box in found}


def core() -> str:
    """The picture as SVG."""
    found = joined(arrows())
    rows = levels(found)
    lowest, order = max(rows.values()), list(WORDS)
    drawing = Drawing("The folders of salmu_core and what they import", WIDTH, 40 + (lowest + 1) * ROW)
    places: dict[str, tuple[float, float, float]] = {}
    for row in range(lowest + 1):
        boxes = sorted((box for box in rows if rows[box] == row), key=order.index)
        width = min(360, (WIDTH - 40 - GAP * (len(boxes) - 1)) / len(boxes))
        left = (WIDTH - width * len(boxes) - GAP * (len(boxes) - 1)) / 2
        for number, box in enumerate(boxes):
            places[box] = (left + number * (width + GAP), 24 + row * ROW, width)
    for box, others in without_detours(found).items():
        x, y, width = places[box]
        for other in sorted(others):
            x2, y2, width2 = places[other]
            drawing.arrow((x + width / 2, y + BOX), (x2 + width2 / 2, y2))
    for box, (x, y, width) in places.items():
        drawing.box(x, y, width, BOX, "plain")
        drawing.text(x + width / 2, y + 22, box, anchor="middle", bold=True)
        drawing.text(x + width / 2, y + 41, WORDS[box], "soft", 13, anchor="middle")
    return drawing.svg()


if __name__ == "__main__":
    (IMAGES / "core.svg").write_text(core(), encoding="utf-8")
