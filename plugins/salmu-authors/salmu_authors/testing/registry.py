"""Registries for trials: what is installed, or core with one class more."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from salmu_core.method import UnlearningMethod
from salmu_core.plugins.loading import Entry, Kind, Plugins, load_plugins, new_manager
from salmu_core.records.schema import Package
from salmu_core.spec.resolve import make_method


def installed_method(name: str, options: Mapping[str, Any]) -> UnlearningMethod:
    """An installed method, for methods that work around others."""
    return make_method(name, options, _installed(os.environ.get("SALMU_PLUGINS")))


@functools.lru_cache(maxsize=1)
def _installed(only: str | None) -> Plugins:
    """What is installed, once for all trials of a process; `only`: what the environment says to load."""
    return load_plugins()


def registry_with(kind: Kind, cls: Any, entry: Entry[Any] | None) -> Plugins:
    """Core's own parts, all installed methods (some work around others) and the class."""
    found = _installed(os.environ.get("SALMU_PLUGINS"))
    plugins = Plugins(new_manager(), dict(found.methods), {}, {"toy": found.benchmarks["toy"]})
    package = entry.package if entry is not None else Package(name="under-check", version="0")
    plugins.of(kind)[cls.name] = Entry(kind, cls.name, cls, package, "under-check")
    return plugins
