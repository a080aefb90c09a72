"""Writes the notebook of the first tutorial from its page: `uv run python docs/site/notebook.py`; a test says when it is stale.

Python and bash blocks become cells, without outputs; the words between them stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat

DOCS = Path(__file__).parents[1]
PAGE, NOTEBOOK = DOCS / "first-comparison.md", DOCS / "notebooks" / "first-comparison.ipynb"


def notebook() -> str:
    """The notebook's text: the same for the same page."""
    text = PAGE.read_text(encoding="utf-8").replace("](images/", "](../images/")
    text = re.sub(r"\]\((?![a-z]+:|#|\.\./images/)([^)]+)\)", r"](../\1)", text)
    text = re.sub(r"^\[The same as a notebook\].*\n", "", text, flags=re.M)
    # Without a kernel, jupytext takes the language that most blocks are in for the notebook's own.
    header = "---\njupyter:\n  kernelspec: {display_name: Python 3, language: python, name: python3}\n---\n\n"
    made = jupytext.reads(header + text, fmt="md")
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    made["metadata"] = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    made["nbformat"], made["nbformat_minor"] = 4, 5
    nbformat.validate(made)
    return nbformat.writes(made).rstrip("\n") + "\n"


if __name__ == "__main__":
    NOTEBOOK.parent.mkdir(exist_ok=True)
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
