"""Tables of what this repository's packages offer, from the classes themselves; each row leads to the package's card."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

from pages import ROOT


def _offered(hook: str) -> Iterator[tuple[str, Any]]:
    """Card, and class that a package registers through `hook`. What merely happens to be installed stays out."""
    for folder in sorted([*ROOT.glob("plugins/*/"), *ROOT.glob("benchmarks/*/")]):
        project = folder / "pyproject.toml"
        if not project.exists():
            continue
        points = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("entry-points", {}).get("salmu", {})
        for name, value in points.items():
            plugin = EntryPoint(name, value, "salmu").load()
            for cls in getattr(plugin, hook, list)():
                yield f"../{folder.relative_to(ROOT).as_posix()}/README.md", cls
    builtin = EntryPoint("core", "salmu_core.builtin", "salmu").load()
    for cls in getattr(builtin, hook, list)():
        yield "", cls


def _named(card: str, name: str) -> str:
    return f"[`{name}`]({card})" if card else f"`{name}`"


def _paper(cls: Any) -> str:
    return f"[paper]({cls.paper})" if cls.paper else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    shown = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in shown)


def methods() -> str:
    """Family by family."""
    lines: list[str] = []
    found = list(_offered("register_methods"))
    for family in sorted({cls.family for _, cls in found}):
        rows = [
            (_named(card, cls.name), cls.summary, ", ".join(cls.data) or "nothing", _paper(cls))
            for card, cls in found
            if cls.family == family
        ]
        lines += [f"## {family[0].upper()}{family[1:]}", "", _table(("method", "what it does", "sees", ""), rows), ""]
    return "\n".join(lines)


def metrics() -> str:
    """What each measures, and whose value is its goal."""
    rows = [
        (
            _named(f"{card}#{cls.name.lower()}" if card else "", cls.name) + (" (primary)" if cls.primary else ""),
            cls.summary,
            cls.target.capitalize(),
            f"{cls.bounds[0]:g} to {cls.bounds[1]:g}",
        )
        for card, cls in _offered("register_metrics")
    ]
    return _table(("metric", "what it measures", "goal", "range"), rows)


def audits() -> str:
    """What each attack does."""
    rows = [(_named(card, cls.name), cls.summary, _paper(cls)) for card, cls in _offered("register_audits")]
    return _table(("audit", "what is done, and measured", ""), rows)


def benchmarks() -> str:
    """What each is."""
    rows = [(_named(card, cls.name), cls.summary, cls.version, _paper(cls)) for card, cls in _offered("register_benchmarks")]
    return _table(("benchmark", "what it is", "version", ""), rows)
