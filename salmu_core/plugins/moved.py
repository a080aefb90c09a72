"""Where names and modules are that stood elsewhere in earlier versions, so that code written for those goes on working.

This is the one place in core that names packages of the zoo. Nothing in core uses what is listed here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from salmu_core.errors import PluginFailure

#: Name in `salmu_core` -> distribution, and module of it.
MOVED = {
    "push": ("salmu-share", "salmu_share"),
    "replay": ("salmu-upkeep", "salmu_upkeep"),
    "testing": ("salmu-authors", "salmu_authors.testing"),
}
#: Module of core -> where it is now: a module of core without its first name, or one of another package.
MODULES = {
    "data_cache": "data.cache",
    "pixels": "data.pixels",
    "pixel_file": "data.pixel_file",
    "seals": "files.seals",
    "file_digests": "files.digests",
    "model": "models.dual_encoder",
    "model_config": "models.config",
    "folder_tokenizer": "models.folder_tokenizer",
    "hf_layout": "models.hf_layout",
    "hub": "salmu_hub.fetching",
    "study": "spec.study",
    "runner.resolve": "spec.resolve",
    "runner.presets": "spec.presets",
    "registry": "plugins.cards",
    "entry_points": "plugins.entry_points",
    "commands": "plugins.commands",
    "core_versions": "plugins.core_versions",
    "toy": "builtin.toy",
    "processes": "data.processes",
    "records.compare": "comparison.compare",
    "records.differences": "comparison.differences",
    "records.paired": "comparison.paired",
    "records.gaps": "comparison.gaps",
    "records.overall": "comparison.overall",
    "records.verdict": "comparison.verdict",
    "records.falls": "comparison.falls",
    "records.selection": "comparison.selection",
    "records.explain": "comparison.explain",
    "records.statements": "salmu_deletion.statements",
    "comparison.statements": "salmu_deletion.statements",
    "records.formats": "report.formats",
    "records.report": "report.report",
    "records.charts": "report.charts",
    "records.table": "report.table",
    "records.markdown": "report.markdown",
    "records.html": "report.html",
    "records.evidence": "report.beside_records",
    "records.up_close": "report.run_data",
    "records.projection": "report.projection",
    "records.server": "salmu_upkeep.report_server",
    "records.live": "salmu_upkeep.live_folder",
    "plugins.registry": "plugins.loading",
    "records.exhibits": "records.report_data",
    "evaluation.exhibits": "evaluation.report_data",
    "report.up_close": "report.run_data",
    "report.evidence": "report.beside_records",
    "cli.showing": "cli.shown_rows",
    "models.hub": "salmu_hub.fetching",
    "models.hub_checksums": "salmu_hub.checksums",
    "models.hub_errors": "salmu_hub.hub_errors",
    "models.hub_progress": "salmu_hub.progress",
    "models.hub_repository": "salmu_hub.repository",
    "report.server": "salmu_upkeep.report_server",
    "report.live": "salmu_upkeep.live_folder",
    "runner.replay": "salmu_upkeep.repeating",
    "runner.rescore": "salmu_upkeep.rescoring",
    "own_data": "salmu_deletion.own_data",
} | {
    f"own_data.{name}": f"salmu_deletion.own_data.{name}"
    for name in (
        "benchmark", "chain", "check", "columns", "find", "find_page", "images", "index_report", "metrics", "page", "parts", "tables"
    )
}  # fmt: skip


def moved(name: str) -> Any:
    """What is now where `MOVED` says.

    Raises:
        PluginFailure: the package is not installed.
    """
    distribution, module = MOVED[name]
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise PluginFailure(
            f"salmu_core.{name} is now in the package {distribution}, which is not installed.",
            f"Install it (pip install {distribution}, or ./plugins/{distribution} of a checkout) and import it from {module}.",
        ) from None
    return home if module.endswith(f".{name}") else getattr(home, name)


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module of core under its earlier name: the same object under both."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return importlib.machinery.ModuleSpec(fullname, self) if package == "salmu_core" and name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        place = MODULES[spec.name.partition(".")[2]]
        module = importlib.import_module(place if place.startswith("salmu_") else f"salmu_core.{place}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # import has put the earlier name's there
