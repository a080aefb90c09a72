"""What is installed here, what works and what does not."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch

from salmu_core.files.writing import default_cache, folder_bytes
from salmu_core.plugins.commands import Commands, failing_commands
from salmu_core.plugins.loading import Plugins
from salmu_core.runner.provenance import package_versions


@dataclass(frozen=True)
class Diagnosis:
    """Versions, devices, plugins and caches of this machine."""

    versions: dict[str, str]
    devices: list[str]
    plugins: list[dict[str, str]]
    problems: list[str]
    cache: str
    cache_bytes: dict[str, int]

    def as_json(self) -> dict[str, object]:
        """For `salmu doctor --json`."""
        return dict(vars(self))


def diagnose(plugins: Plugins, commands: Commands) -> Diagnosis:
    """Look around without changing anything."""
    devices = [f"cpu: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads"]
    devices += [f"cuda:{i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for entries in (plugins.methods, plugins.metrics, plugins.benchmarks, plugins.layouts, plugins.audits):
        for entry in entries.values():
            offers = found.setdefault((entry.package.name, entry.package.version), {})
            offers.setdefault(f"{entry.kind}s", []).append(entry.name)
    for name, command in commands.entries.items():
        offers = found.setdefault((command.package.name, command.package.version), {})
        offers.setdefault("commands", []).append(name)
    listed = [
        {"package": name, "version": version, **{kind: ", ".join(names) for kind, names in offers.items()}}
        for (name, version), offers in sorted(found.items())
    ]
    cache = default_cache()
    parts = (
        {child.name: folder_bytes(child) for child in sorted(cache.iterdir()) if child.is_dir()} if cache.is_dir() else {}
    )
    problems = dict.fromkeys(
        str(problem) for problem in (*plugins.problems, *commands.problems, *failing_commands(commands))
    )
    return Diagnosis(package_versions(), devices, listed, list(problems), str(cache), parts)
