"""Checks of a plugin's package beside its code: the card and the entry point."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import inspect
import re
import tomllib
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from salmu_authors.testing.contract import NotApplicable
from salmu_core import __version__
from salmu_core.method import FitOptions, UnlearningMethod
from salmu_core.options import parse_options
from salmu_core.plugins.cards import card_of, package_text
from salmu_core.plugins.commands import COMMAND_GROUP, CommandEntry, CommandInfo
from salmu_core.plugins.core_versions import core_requirements, unsupported
from salmu_core.plugins.loading import GROUP, Entry

#: Headings of a method's card, in order.
CARD_HEADINGS = ("Idea", "Objective", "Data it sees", "Options", "When it fails", "Cost", "Paper", "Departures", "Use")


def check_package(folder: Path, methods: Sequence[type[UnlearningMethod]]) -> None:
    """Check the package in `folder` (with `pyproject.toml` and `README.md`) that offers `methods`.

    The card has the shared headings; below "Options" stands a table `### NAME` per method whose rows are
    ``| `option` | `default` | where it comes from |``, complete and in the order of the class, with the code's defaults; and the one
    entry point of the group `salmu` leads to a plugin that registers exactly these methods.
    """
    card = (folder / "README.md").read_text(encoding="utf-8")
    check_headings(card)
    for method in methods:
        check_card_options(card, method)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project.get("entry-points", {}).get("salmu", {})
    assert len(points) == 1, f"pyproject.toml names {len(points)} entry points of the group salmu; one is expected."
    [(name, value)] = points.items()
    plugin = EntryPoint(name, value, "salmu").load()
    assert list(plugin.register_methods()) == list(methods), "register_methods returns other methods than were checked."
    assert hasattr(plugin.register_methods, "salmu_impl"), "register_methods is not marked with hookimpl."


def check_headings(card: str) -> None:
    """The card of a method has the shared headings, in order."""
    headings = tuple(re.findall(r"^## (.+)$", card, flags=re.MULTILINE))
    assert headings == CARD_HEADINGS, f"The card's headings are {headings}; they should be {CARD_HEADINGS}."


def check_card_options(card: str, method: type[UnlearningMethod]) -> None:
    """The card's table of a method has every option, in the order of the class, with the code's defaults."""
    options = card_options(card, method.name)
    # Options of the loop that came after salmu 0.1, which a card of that time does not list: and need not.
    later = [
        name for name in FitOptions.model_fields if name.startswith("adapter") and issubclass(method.Options, FitOptions)
    ]
    fields = [name for name in method.Options.model_fields if name in options or name not in later]
    assert list(options) == fields, f"The card lists {list(options)} for {method.name}; its options are {fields}."
    assert parse_options(method.Options, options, method.name) == method.Options(), (
        f"The card's defaults of {method.name} are not those of the code."
    )


def card_for(cls: type, entry: Entry[Any] | None) -> str | None:
    """The card of a class: the README.md beside a pyproject.toml that registers its module, or that of its installed package.

    The file comes first: of a package that is installed in editable mode, the installed text is from the day it was installed.
    None for core's own parts and for classes that no package offers, such as those that tests make up.
    """
    with contextlib.suppress(TypeError, OSError):
        found = _card_beside(Path(inspect.getfile(cls)), cls.__module__.split(".")[0])
        if found is not None:
            return found
    return card_of(entry) if entry is not None else None


def command_card(info: CommandInfo, entry: CommandEntry | None) -> str | None:
    """The card of a command, as `card_for` finds that of a class."""
    module = info.target.split(":")[0].split(".")[0]
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.origin is not None:
        found = _card_beside(Path(spec.origin), module)
        if found is not None:
            return found
    return package_text(entry.package.name) if entry is not None else None


def _card_beside(file: Path, module: str) -> str | None:
    for folder in (file.parent, file.parent.parent):
        if (folder / "README.md").is_file() and _registers(folder / "pyproject.toml", module):
            return (folder / "README.md").read_text(encoding="utf-8")
    return None


def package_card(trial: Any) -> str:
    """The card of the package that a class is in.

    Raises:
        NotApplicable: it is in none, or in core.
    """
    if trial.entry is not None and trial.entry.package.name == "salmu":
        raise NotApplicable("It is a part of core.")
    text = card_for(trial.cls, trial.entry)
    if text is None and trial.entry is None:
        raise NotApplicable("It is in no package.")
    assert text is not None, "The package has no card: write a README.md and name it in pyproject.toml (readme = ...)."
    return text


def check_finished(card: str) -> None:
    """The card holds no TODO any more."""
    todo = next((line.strip() for line in card.splitlines() if "TODO" in line), None)
    assert todo is None, f"The card still holds a TODO: {todo}"


def check_names(trial: Any) -> None:
    """The card of the package that a class is in names the class and each of its options, and is finished."""
    text = package_card(trial)
    missing = [name for name in (trial.cls.name, *trial.cls.Options.model_fields) if name not in text]
    assert not missing, f"The card does not mention {', '.join(missing)}."
    check_finished(text)


def _registers(pyproject: Path, module: str) -> bool:
    if not pyproject.is_file() or module == "salmu_core":
        return False
    project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
    groups = project.get("entry-points", {})
    points = [value for group in (GROUP, COMMAND_GROUP) for value in groups.get(group, {}).values()]
    return any(re.split(r"[.:]", value)[0] == module for value in points)


def requirement_fault(distribution: str) -> str | None:
    """What is wrong with an installed distribution's requirement on salmu; None when it fits."""
    requires = importlib.metadata.requires(distribution)
    if not core_requirements(requires):
        return (
            f"{distribution} does not require salmu: add it to the dependencies in pyproject.toml, e.g. 'salmu>=0.1,<0.3'."
        )
    fault = unsupported(requires, __version__)
    return None if fault is None else f"{distribution} does not fit: {fault}."


def card_options(card: str, method: str) -> dict[str, Any]:
    """Option and default of every row of the card's table under `### method`."""
    section = card.split("\n## Options\n")[-1].split("\n## ")[0]
    assert f"\n### {method}\n" in section, f"The card has no options table under '### {method}'."
    table = section.split(f"\n### {method}\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| \S.* \|$", table, flags=re.MULTILINE)
    return {name: None if default == "none" else default for name, default in rows}
