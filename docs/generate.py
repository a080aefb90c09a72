"""Fill the generated blocks of the documentation: `uv run python docs/generate.py`. A test fails when one is stale."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import salmu_core
from salmu_authors import pytest_plugin
from salmu_authors.testing import checks_of
from salmu_core import hookspecs
from salmu_core.records.schema import SCHEMA_VERSION, RunRecord
from salmubench.published import published_rows

DOCS = Path(__file__).parent
ROOT = DOCS.parent
_COLUMNS = (
    "RetFail",
    "AssocStr",
    "ACS",
    "IdZSC",
    "CoreAssoc",
    "PrivPref",
    "GenKnow",
    "InterIdSim",
    "IntraIdSim",
    "VisIdInt",
    "FragSim",
)


def published_table() -> str:
    """What others measured on SALMUBench, source by source."""
    rows = published_rows("salmubench")
    lines = []
    for source in dict.fromkeys(row.source for row in rows):
        lines += ["", source, "", "| | " + " | ".join(_COLUMNS) + " |", "|---|" + "---|" * len(_COLUMNS)]
        for row in rows:
            if row.source == source:
                cells = " | ".join(f"{row.scores[name]:g}" if name in row.scores else "–" for name in _COLUMNS)
                lines.append(f"| {row.title} | {cells} |")
    return "\n".join([*lines, ""])


def zoo_table() -> str:
    """The method packages of this repository, as `plugins/` has them."""
    lines = ["", "| package | method | family | sees |", "|---|---|---|---|"]
    for folder in sorted((ROOT / "plugins").iterdir()):
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for name, value in project.get("entry-points", {}).get("salmu", {}).items():
            plugin = EntryPoint(name, value, "salmu").load()
            methods = plugin.register_methods() if hasattr(plugin, "register_methods") else []
            for method in methods:
                card = f"[`{method.name}`](../../plugins/{folder.name}/README.md)"
                lines.append(f"| `{folder.name}` | {card} | {method.family} | {', '.join(method.data) or 'nothing'} |")
    return "\n".join([*lines, ""])


#: What names without a docstring of their own are.
_WORDS = {
    "__version__": "the installed version",
    "Field": "pydantic's Field: default, bounds and description of an option",
    "MakeMethod": "makes an installed method of that name with these options",
    "Report": "what a benchmark's `build` calls with every BuildStep",
    "Role": '"forget" or "retain"',
    "Target": '"clean" or "compromised"',
    "hookimpl": "marks a plugin's hooks",
}
#: Modules whose `__all__` or public functions are promised beside `salmu_core` itself.
_MODULES = ("salmu_authors.testing", "salmu_core.losses", "salmu_core.errors", "salmu_core.seeding")


def _first_line(thing: Any, name: str) -> str:
    words = _WORDS.get(name) or (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    assert words, f"{name} says nothing about itself"
    return words.replace("|", "\\|")


def _table(head: str, rows: list[tuple[str, str]]) -> list[str]:
    return ["", f"| {head} | what |", "|---|---|", *(f"| `{name}` | {words} |" for name, words in rows)]


def public_api() -> str:
    """Every public name, module by module; hooks, fixtures, fields of a record."""
    lines = _table("`salmu_core`", [(name, _first_line(getattr(salmu_core, name), name)) for name in salmu_core.__all__])
    for home in _MODULES:
        module = importlib.import_module(home)
        own = [name for name, item in vars(module).items() if getattr(item, "__module__", None) == home and name[0] != "_"]
        names = getattr(module, "__all__", own)
        lines += _table(f"`{home}`", [(name, _first_line(getattr(module, name), name)) for name in names])
    hooks = [(name, item) for name, item in vars(hookspecs).items() if hasattr(item, "salmu_spec")]
    lines += _table("hook", [(f"{name}{_arguments(item)}", _first_line(item, name)) for name, item in hooks])
    fixtures = re.findall(r"^\| `(\w+)` \| (.+) \|$", str(pytest_plugin.__doc__), flags=re.MULTILINE)
    lines += _table("pytest fixture", fixtures)
    fields = [(name, str(field.description or "")) for name, field in RunRecord.model_fields.items()]
    lines += _table(f"field of a record, schema {SCHEMA_VERSION}", fields)
    return "\n".join([*lines, ""])


def _arguments(hook: Any) -> str:
    return f"({', '.join(inspect.signature(hook).parameters)})"


def contract() -> str:
    """Every check of `salmu check`."""
    lines: list[str] = []
    for kind in ("method", "metric", "benchmark", "audit", "command"):
        rows = [(check.id, check.sentence) for check in checks_of(kind)]  # type: ignore[arg-type]
        lines += _table(f"checks of {'an' if kind == 'audit' else 'a'} {kind} ({len(rows)})", rows)
    return "\n".join([*lines, ""])


def _of_site(module: str) -> Any:
    """A module of `docs/site`."""
    sys.path.insert(0, str(DOCS / "site"))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(DOCS / "site"))


def types() -> str:
    """Every field and class attribute of a public type; one that says nothing about itself is an error."""
    type_reference = _of_site("type_reference")
    text: str = type_reference.types_reference()
    assert not type_reference.SILENT, f"say what these are: {', '.join(type_reference.SILENT)}"
    return text


def for_the_site(name: str) -> str:
    """What the site makes anew at every build, for who reads the files."""
    modules = {"commands": ("commands", "command_reference"), "hooks": ("hook_reference", "hook_reference")}
    modules["python"] = ("python_reference", "python_file")
    module, function = modules.get(name, ("catalogue", name))
    text: str = getattr(_of_site(module), function)()
    return f"\n{text.strip()}\n\n".replace("](../plugins/", "](../../plugins/").replace(
        "](../benchmarks/", "](../../benchmarks/"
    )


#: Page, from the root of the repository -> block -> what fills it.
BLOCKS = {
    "docs/salmubench.md": {"published": published_table},
    "docs/api-stability.md": {"public": public_api},
    "docs/contract.md": {"checks": contract},
    "docs/catalogue/methods.md": {"zoo": zoo_table},
    "docs/reference/types.md": {"types": types},
}
#: Page -> what the site fills in there (`docs/site/hooks.py`).
SITE_BLOCKS = {
    "docs/reference/commands.md": "commands",
    "docs/reference/hooks.md": "hooks",
    "docs/reference/python.md": "python",
    "docs/catalogue/metrics.md": "metrics",
    "docs/catalogue/audits.md": "audits",
    "docs/catalogue/benchmarks.md": "benchmarks",
}
PAGES = (*BLOCKS, *SITE_BLOCKS)


def filled(page: Path) -> str:
    """The page with its generated blocks made anew."""
    text, place = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    blocks = [
        (rf"<!-- {name}: [^\n]*-->\n", rf"<!-- end of {name} -->", make) for name, make in BLOCKS.get(place, {}).items()
    ]
    if place in SITE_BLOCKS:
        name = SITE_BLOCKS[place]
        blocks.append((rf"<!-- made for the site: {name} -->\n", "<!-- end -->", lambda: for_the_site(name)))
    for start, end, make in blocks:
        content = make().replace("\\", r"\\")
        text, count = re.subn(rf"({start}).*?({end})", rf"\g<1>{content}\g<2>", text, flags=re.S)
        assert count == 1, f"{page.name} has {count} blocks that begin with {start}"
    return text


if __name__ == "__main__":
    for page in PAGES:
        (ROOT / page).write_text(filled(ROOT / page), encoding="utf-8")
