"""Fill the generated blocks of the documentation: `uv run python docs/generate.py`. A test fails when one is stale."""

from __future__ import annotations

import re
from pathlib import Path

from salmubench.published import published_rows

DOCS = Path(__file__).parent
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


BLOCKS = {"salmubench.md": {"published": published_table}}


def filled(page: Path) -> str:
    """The page with its generated blocks made anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in BLOCKS[page.name].items():
        pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.S)
        content = make().replace("\\", r"\\")
        text, count = pattern.subn(rf"\g<1>{content}\g<2>", text)
        assert count == 1, f"{page.name} has {count} blocks called {name}"
    return text


if __name__ == "__main__":
    for page in BLOCKS:
        (DOCS / page).write_text(filled(DOCS / page), encoding="utf-8")
