"""The registry of core's tests with this package's benchmark."""

from __future__ import annotations

from salmu_core.plugins.loading import Plugins, add_plugin
from salmu_core.records.schema import Package
from salmu_deletion import plugin
from toy_methods import toy_plugins as core_plugins


def toy_plugins(*more: type) -> Plugins:
    """Core, the toy methods, and the benchmark of the user's own data."""
    plugins = core_plugins(*more)
    add_plugin(plugins, plugin, Package(name="salmu-deletion", version="0"), "deletion")
    assert not plugins.problems, plugins.problems
    return plugins
