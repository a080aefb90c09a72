"""Checks of a plugin's package beside its code: the card and the entry point."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from salmu_core.method import UnlearningMethod
from salmu_core.options import parse_options

#: Headings of a method's card, in order.
CARD_HEADINGS = ("Idea", "Objective", "Data it sees", "Options", "When it fails", "Cost", "Paper", "Departures", "Use")


def check_package(folder: Path, methods: Sequence[type[UnlearningMethod]]) -> None:
    """Check the package in `folder` (with `pyproject.toml` and `README.md`) that offers `methods`.

    The card has the shared headings; below "Options" stands a table `### NAME` per method whose rows are
    ``| `option` | `default` | where it comes from |``, complete and in the order of the class, with the code's defaults; and the one
    entry point of the group `salmu` leads to a plugin that registers exactly these methods.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    headings = tuple(re.findall(r"^## (.+)$", card, flags=re.MULTILINE))
    assert headings == CARD_HEADINGS, f"The card's headings are {headings}; they should be {CARD_HEADINGS}."
    for method in methods:
        options = card_options(card, method.name)
        fields = list(method.Options.model_fields)
        assert list(options) == fields, f"The card lists {list(options)} for {method.name}; its options are {fields}."
        assert parse_options(method.Options, options, method.name) == method.Options(), (
            f"The card's defaults of {method.name} are not those of the code."
        )
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project.get("entry-points", {}).get("salmu", {})
    assert len(points) == 1, f"pyproject.toml names {len(points)} entry points of the group salmu; one is expected."
    [(name, value)] = points.items()
    plugin = EntryPoint(name, value, "salmu").load()
    assert list(plugin.register_methods()) == list(methods), "register_methods returns other methods than were checked."
    assert hasattr(plugin.register_methods, "salmu_impl"), "register_methods is not marked with hookimpl."


def card_options(card: str, method: str) -> dict[str, Any]:
    """Option and default of every row of the card's table under `### method`."""
    section = card.split("\n## Options\n")[-1].split("\n## ")[0]
    assert f"\n### {method}\n" in section, f"The card has no options table under '### {method}'."
    table = section.split(f"\n### {method}\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| \S.* \|$", table, flags=re.MULTILINE)
    return {name: None if default == "none" else default for name, default in rows}
