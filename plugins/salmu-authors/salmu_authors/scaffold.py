"""`salmu new-plugin`: the package of a new plugin, complete enough to be installed, checked and published."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args

from jinja2 import Environment, StrictUndefined
from packaging.version import Version

from salmu_core import __all__ as public_names
from salmu_core import __version__
from salmu_core.errors import BadOptions, OutputError
from salmu_core.files.writing import umask, write_text
from salmu_core.method import FitOptions
from salmu_core.options import describe_options
from salmu_core.plugins.commands import COMMAND_GROUP, Commands
from salmu_core.plugins.loading import GROUP, Kind, Plugins

PluginKind = Literal["loss", "multi-stage", "weights", "metric", "benchmark", "audit", "command"]
_REGISTERED: Mapping[PluginKind, Kind | Literal["command"]] = {
    "loss": "method",
    "multi-stage": "method",
    "weights": "method",
    "metric": "metric",
    "benchmark": "benchmark",
    "audit": "audit",
    "command": "command",
}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 30


@dataclass(frozen=True)
class NewPlugin:
    """What a new plugin is called, everywhere.

    Attributes:
        name: as given, e.g. "zero-cosine".
        kind: which template.
    """

    name: str
    kind: PluginKind

    @property
    def package(self) -> str:
        """The distribution: what is installed and published."""
        return f"salmu-{self.name}"

    @property
    def module(self) -> str:
        """What is imported."""
        return self.package.replace("-", "_")

    @property
    def cls(self) -> str:
        """The class."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def registered_kind(self) -> Kind | Literal["command"]:
        """What it is registered as."""
        return _REGISTERED[self.kind]

    @property
    def registered(self) -> str:
        """What salmu calls it: metrics are named as in tables, methods and benchmarks as on the command line."""
        return self.cls if self.kind == "metric" else self.name

    @cached_property
    def words(self) -> dict[str, Any]:
        """What templates are filled with."""
        core = Version(__version__)
        return {
            "name": self.name,
            "package": self.package,
            "module": self.module,
            "cls": self.cls,
            "registered": self.registered,
            "kind": self.kind,
            "registered_kind": self.registered_kind,
            "group": COMMAND_GROUP if self.kind == "command" else GROUP,
            # What warns in one minor version is still there in it: see docs/api-stability.md.
            "core": f"salmu>={core.major}.{core.minor},<{core.major}.{core.minor + 2}",
            "fit_options": [
                (option.name, "none" if option.default is None else str(option.default))
                for option in describe_options(FitOptions)
            ],
        }


def new_plugin(
    name: str, kind: PluginKind, out: Path | None, plugins: Plugins, commands: Commands | None = None
) -> tuple[NewPlugin, Path, list[str]]:
    """Write the package of a new plugin.

    Args:
        name: words of small letters and digits joined by hyphens, e.g. "zero-cosine"; a leading "salmu-" is taken off.
        out: the folder; default: the package's name, here. It must not exist, or be empty.
        plugins, commands: what is installed, so that names do not collide.

    Returns:
        Names, the folder, and the files in it.

    Raises:
        BadOptions: the name is not valid or taken.
        OutputError: something is in the folder already, or it cannot be written.
    """
    plugin = NewPlugin(name.removeprefix("salmu-"), kind)
    check_name(plugin, plugins, commands or Commands())
    folder = (out if out is not None else Path(plugin.package)).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"'{folder}' is there already, and nothing is overwritten.", "Give another place with --out.")
    content = render(plugin)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved when it is complete: a half package is worse than none.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
            made = Path(place) / "package"
            for path, text in content.items():
                write_text(made / path, text)
            made.chmod(0o777 & ~umask())
            os.replace(made, folder)
    except OSError as error:
        raise OutputError(
            f"'{folder}' cannot be written: {error.strerror or error}.", "Give another place with --out."
        ) from error
    return plugin, folder, sorted(content)


def check_name(plugin: NewPlugin, plugins: Plugins, commands: Commands) -> None:
    """Refuse names that cannot be packages, or that are taken.

    Raises:
        BadOptions: says which rule it breaks or who has the name.
    """
    name = plugin.name
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise BadOptions(
            f"'{name}' cannot be the name of a plugin.",
            f"Use small letters and digits, words joined by single hyphens, at most {_LONGEST} characters: zero-cosine.",
        )
    if plugin.cls in public_names:
        raise BadOptions(f"The class {plugin.cls} would hide salmu_core.{plugin.cls}.", "Choose another name.")
    for kind in get_args(Kind):
        entry = plugins.of(kind).get(plugin.registered)
        if entry is not None and kind in ("method", "metric", "benchmark", "audit"):
            raise BadOptions(
                f"The {kind} '{plugin.registered}' is there already, from {entry.origin}.", "Choose another name."
            )
    command = commands.entries.get(plugin.name) if plugin.kind == "command" else None
    if command is not None:
        origin = f"{command.package.name} {command.package.version}"
        raise BadOptions(f"The command '{plugin.name}' is there already, from {origin}.", "Choose another name.")
    installed = {(found.metadata["Name"] or "").lower().replace("_", "-") for found in importlib.metadata.distributions()}
    if plugin.package in installed or importlib.util.find_spec(plugin.module) is not None:
        raise BadOptions(f"A package {plugin.package} is installed already.", "Choose another name, or uninstall it.")


def render(plugin: NewPlugin) -> dict[str, str]:
    """The files of a new plugin: path in its folder -> content."""
    home = files("salmu_authors") / "templates" / "new_plugin"
    # Not jinja's own brackets: workflows of GitHub have those.
    environment = Environment(
        variable_start_string="@{",
        variable_end_string="}@",
        block_start_string="@%",
        block_end_string="%@",
        comment_start_string="@#",
        comment_end_string="#@",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found: dict[str, str] = {}
    for folder in (home / "all", home / plugin.kind):
        for path, template in _templates(folder).items():
            place = path.replace("MODULE", plugin.module).replace("TEST", f"test_{plugin.module.removeprefix('salmu_')}")
            found[place] = environment.from_string(template).render(plugin.words)
    return found


def _templates(folder: Traversable, prefix: str = "") -> dict[str, str]:
    """Templates below a folder, by the path of what they become. A leading "dot-" stands for a dot, which packagers skip."""
    found: dict[str, str] = {}
    for item in folder.iterdir():
        name = re.sub(r"^dot-", ".", item.name)
        if item.is_dir():
            found |= _templates(item, f"{prefix}{name}/")
        elif name.endswith(".j2"):
            found[prefix + name.removesuffix(".j2")] = item.read_text(encoding="utf-8")
    return found
