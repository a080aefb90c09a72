"""Which entry points of a group are loaded, in what order, and what is noted when one cannot be: without torch."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Origin(Protocol):
    """A distribution by name and version."""

    @property
    def name(self) -> str:
        """As its index calls it, e.g. "salmu-slug"."""

    @property
    def version(self) -> str:
        """Its version; "unknown" where nothing is installed."""


@dataclass(frozen=True)
class Distribution:
    """The distribution that an entry point belongs to."""

    name: str
    version: str


@dataclass(frozen=True)
class PluginProblem:
    """Something wrong with one plugin: the rest goes on without it."""

    package: Origin
    entry_point: str
    cause: str

    def __str__(self) -> str:
        return f"{self.package.name} {self.package.version} ({self.entry_point}): {self.cause}"


def wanted_points(
    group: str, given: Iterable[importlib.metadata.EntryPoint] | None = None, only: Sequence[str] | None = None
) -> list[importlib.metadata.EntryPoint]:
    """The entry points of a group to load: each once, core first, then by distribution name.

    Of two claims to one name the same one wins on every machine.

    Args:
        group: the entry points' group.
        given: instead of the installed ones.
        only: distributions or entry point names to load besides core; default: the variable SALMU_PLUGINS (names separated by
            commas), else all.
    """
    if only is None and os.environ.get("SALMU_PLUGINS") is not None:
        only = [name.strip() for name in os.environ["SALMU_PLUGINS"].split(",") if name.strip()]
    found = importlib.metadata.entry_points(group=group) if given is None else given
    wanted: dict[tuple[str, str, str], importlib.metadata.EntryPoint] = {}
    for point in found:
        name = distribution_of(point).name
        if only is None or name == "salmu" or {name, point.name} & {*only}:
            wanted.setdefault((name, point.name, point.value), point)
    return [wanted[key] for key in sorted(wanted, key=lambda key: (key[0] != "salmu", key[0], key[1]))]


def distribution_of(point: importlib.metadata.EntryPoint) -> Distribution:
    """Name and version of the distribution that an entry point belongs to."""
    distribution = getattr(point, "dist", None)
    if distribution is None:
        return Distribution(name=point.value, version="unknown")
    return Distribution(distribution.metadata["Name"], distribution.version)
