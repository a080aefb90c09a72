"""A new results repository: a workflow that checks pull requests and publishes the board, and a page that says how to add to it."""

from __future__ import annotations

from pathlib import Path

from salmu_core.errors import OutputError
from salmu_core.files.writing import write_text

_FILES = {
    "dot-github/workflows/board.yml": ".github/workflows/board.yml",
    "README.md": "README.md",
    "dot-gitignore": ".gitignore",
}


def start_board(folder: Path) -> list[Path]:
    """Write the files of a results repository. Nothing that is there is replaced.

    Raises:
        OutputError: one of them is there already.
    """
    templates = Path(__file__).with_name("templates") / "repository"
    taken = [name for name in _FILES.values() if (folder / name).exists()]
    if taken:
        raise OutputError(f"'{folder / taken[0]}' is there already.", "Give a folder without one, or move it away.")
    for source, name in _FILES.items():
        write_text(folder / name, (templates / source).read_text(encoding="utf-8"))
    return [folder / name for name in _FILES.values()]
