"""What is known about a registered class beside its code: the card of its package."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

from salmu_core.plugins.loading import Entry


def card_of(entry: Entry[Any]) -> str | None:
    """The README of the entry's package: installed as the distribution's long description, or beside the module."""
    text = package_text(entry.package.name)
    if text is not None:
        return text
    home = Path(inspect.getfile(entry.cls)).parent
    for folder in (home, home.parent):
        if (folder / "README.md").is_file() and (folder / "pyproject.toml").is_file():
            return (folder / "README.md").read_text(encoding="utf-8")
    return None


def package_text(distribution: str) -> str | None:
    """The long description of an installed distribution; None when it has none."""
    try:
        described = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    text = described.get_payload() or described.get("Description")  # type: ignore[attr-defined]
    return text if isinstance(text, str) and text.strip() else None
