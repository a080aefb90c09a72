"""Fill the generated blocks of the documentation: `uv run python docs/generate.py`. A test fails when one is stale."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

from salmubench.published import published_rows

DOCS = Path(__file__).parent
ROOT = DOCS.parent
_COLUMNS = ("RetFail", "AssocStr", "ACS", "IdZSC", "CoreAssoc", "GenKnow", "InterIdSim", "IntraIdSim", "VisIdInt", "FragSim")


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
        for name, value in project["entry-points"]["salmu"].items():
            plugin = EntryPoint(name, value, "salmu").load()
            methods = plugin.register_methods() if hasattr(plugin, "register_methods") else []
            for method in methods:
                card = f"[`{method.name}`](plugins/{folder.name}/README.md)"
                lines.append(f"| `{folder.name}` | {card} | {method.family} | {', '.join(method.data) or 'nothing'} |")
    return "\n".join([*lines, ""])


#: Page, from the root of the repository -> block -> what fills it.
BLOCKS = {"docs/salmubench.md": {"published": published_table}, "README.md": {"zoo": zoo_table}}


def filled(page: Path) -> str:
    """The page with its generated blocks made anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in BLOCKS[page.relative_to(ROOT).as_posix()].items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.S)
        content = make().replace("\\", r"\\")
        text, count = pattern.subn(rf"\g<1>{content}\g<2>", text)
        assert count == 1, f"{page.name} has {count} blocks called {name}"
    return text


if __name__ == "__main__":
    for page in BLOCKS:
        (ROOT / page).write_text(filled(ROOT / page), encoding="utf-8")
