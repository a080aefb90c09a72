"""What is installed, in plain facts: names, summaries, options and cards. Listing then imports no plugin and no torch.

The facts are kept in a file. It holds for exactly the packages that it was made from: its key is made of every distribution that
plugs in, and of the size and time of every file in their modules. A changed, added or removed file makes it new.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from salmu_core import __version__
from salmu_core.files.writing import default_cache, write_json
from salmu_core.plugins.entry_points import distribution_of, wanted_points

GROUP = "salmu"
KINDS = ("method", "metric", "benchmark", "audit")
#: Changes with what the file holds.
_FORMAT = 1
_SKIPPED = {"__pycache__", ".venv", ".git", "node_modules"}
Facts = Mapping[str, Any]


class Catalogue:
    """Facts about everything that is registered.

    Attributes:
        entries: kind -> name -> facts, see `facts_of`.
        problems: a line for each plugin that cannot be used.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.entries: Mapping[str, Mapping[str, Facts]] = content["entries"]
        self.problems: list[str] = list(content["problems"])

    def of(self, kind: str) -> Mapping[str, Facts]:
        """Name -> facts, of a kind."""
        return self.entries.get(kind, {})

    def find(self, name: str) -> Facts | None:
        """The first entry of that name, methods first."""
        return next((self.of(kind)[name] for kind in KINDS if name in self.of(kind)), None)

    @property
    def names(self) -> list[str]:
        """All names, of every kind."""
        return [name for kind in KINDS for name in self.of(kind)]


def read_catalogue(cache: Path | None = None) -> Catalogue:
    """The facts, from the kept file where that is of these very packages, else from the plugins themselves.

    Args:
        cache: the folder of caches. A folder that cannot be written to costs the time of loading the plugins, and nothing else.
    """
    place = (cache or default_cache()) / "catalogue.json"
    key = installed_key()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # missing, damaged or of another version: made again
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["key"] == key and kept["digest"] == _digest(kept["content"]):
            return Catalogue(kept["content"])
    content = _collect()
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"key": key, "digest": _digest(content), "content": content})
    return Catalogue(content)


def installed_key() -> str:
    """Hash of what the facts depend on: Python, salmu, and name, version and files of every distribution that plugs in."""
    found: list[Any] = [_FORMAT, __version__, sys.version, os.environ.get("SALMU_PLUGINS")]
    modules = {"salmu_core"}
    for point in wanted_points(GROUP):
        package = distribution_of(point)
        found.append([package.name, package.version, point.name, point.value, _described(point)])
        modules.add(point.value.partition(":")[0].partition(".")[0])
    for module in sorted(modules):
        found.append([module, *_stamps(module)])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _described(point: importlib.metadata.EntryPoint) -> list[Any]:
    """Size and time of the distribution's own description, which holds its card."""
    place = getattr(getattr(point, "dist", None), "_path", None)
    return [] if place is None else list(_stamp(Path(str(place)) / "METADATA"))


def _stamps(module: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each file of a top-level module, and of README and pyproject.toml beside it in a checkout."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    for place in [Path(folder) for folder in spec.submodule_search_locations or ()] or [Path(spec.origin or "")]:
        if place.is_dir():
            for folder, folders, files in os.walk(place):
                folders[:] = sorted(name for name in folders if name not in _SKIPPED)
                yield from (_stamp(Path(folder, name)) for name in sorted(files) if not name.endswith(".pyc"))
        else:
            yield _stamp(place)
        yield from (_stamp(place.parent / name) for name in ("README.md", "pyproject.toml"))


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _collect() -> dict[str, Any]:
    """Load the plugins and write down the facts."""
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.spec.resolve import shipped_presets

    plugins = load_plugins()
    presets = shipped_presets(plugins)
    entries = {kind: {name: facts_of(entry, presets) for name, entry in sorted(plugins.of(kind).items())} for kind in KINDS}  # type: ignore[arg-type]
    content = {"entries": entries, "problems": [str(problem) for problem in plugins.problems]}
    return json.loads(json.dumps(content, default=str))  # type: ignore[no-any-return]  # as it is read back


def facts_of(entry: Any, presets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """What listings and `salmu describe` show of an entry, as plain data.

    Args:
        entry: a registered class.
        presets: what the installed benchmarks ship (`shipped_presets`).
    """
    from salmu_core.options import describe_options, describe_space
    from salmu_core.plugins.cards import card_of

    cls = entry.cls
    return {
        "name": entry.name,
        "kind": entry.kind,
        "summary": cls.summary,
        "package": entry.package.model_dump(),
        "paper": cls.paper,
        "data": list(getattr(cls, "data", ())),
        "columns": list(getattr(cls, "columns", ())),
        "options": [vars(option) for option in describe_options(cls.Options)],
        "search": describe_space(getattr(cls, "search", {})),
        "presets": {
            name: dict(shipped[entry.name])
            for name, shipped in presets.items()
            if entry.kind == "method" and entry.name in shipped
        },
        "card": card_of(entry),
        # Attributes of one kind or another; None where a kind has none.
        **{name: getattr(cls, name, None) for name in ("family", "oracle", "aspect", "target", "primary", "version")},
    }
