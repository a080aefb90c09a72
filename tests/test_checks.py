"""The other checks of the project, so that one command says whether a change is sound: lint, format, types and who imports whom.

That the site of the docs builds is tested in docs/test_site.py.
"""

import subprocess
import sys

import pytest

from snippets import ROOT

_LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "mypy"],
        ["-m", "ruff", "check", "--output-format", "concise", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-c", _LINT_IMPORTS],
    ],
    ids=["mypy", "ruff check", "ruff format", "lint-imports"],
)
def test_it_finds_nothing(command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
