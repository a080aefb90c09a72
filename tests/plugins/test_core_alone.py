"""Core from its wheel in an environment of its own: it runs, evaluates, compares and reports without any other package of the workspace.

Takes minutes and a package index, so it runs only when asked: SALMU_TEST_VENV=1 pytest tests/plugins/test_core_alone.py
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from salmu_core.cli import core_commands
from salmu_core.plugins.commands import load_commands

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif("SALMU_TEST_VENV" not in os.environ, reason="builds an environment: SALMU_TEST_VENV=1"),
    pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv"),
]


@pytest.fixture(scope="module")
def salmu(tmp_path_factory):
    """Calls `salmu` of an environment in which core's wheel and nothing else of the workspace is installed."""
    place = tmp_path_factory.mktemp("core-alone")
    # The members of the workspace are no part of what is built, and their sources must not be found from here.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "SALMU_PLUGINS")
    }
    environment["SALMU_CACHE"] = str(place / "cache")

    def call(*command, code=0):
        done = subprocess.run([str(part) for part in command], cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    call("uv", "build", "--wheel", "--out-dir", place / "dist", ROOT)
    call("uv", "venv", "--python", "3.11", place / "venv")
    (wheel,) = (place / "dist").glob("salmu-*.whl")
    call("uv", "pip", "install", "--python", place / "venv" / "bin" / "python", wheel)
    return lambda *arguments, code=0: call(place / "venv" / "bin" / "salmu", *arguments, code=code)


def test_it_has_its_own_commands_and_no_other(salmu):
    listed = salmu("--help").partition("Commands:")[2].splitlines()
    commands = {line.split()[0] for line in listed if line.startswith("  ") and line[2:3].isalpha()}
    assert set(load_commands(core_commands, only=[]).entries) <= commands
    salmu("audit", "--help", code=2)


def test_it_runs_evaluates_compares_and_reports(salmu, tmp_path):
    assert json.loads(salmu("list-methods", "--json"))[0]["name"] == "none"
    run = json.loads(salmu("run", "none", "--benchmark", "toy", "--out", tmp_path / "run", "--json", "--cpu"))
    assert run["status"] == "ok"
    score = json.loads(salmu("evaluate", "compromised", "--benchmark", "toy", "--json", "--cpu"))
    assert score["status"] == "ok"
    board = json.loads(salmu("compare", "none", "--benchmark", "toy", "--out", tmp_path / "out", "--json", "--cpu"))
    assert [row["kind"] for row in board["rows"]] == ["reference", "reference"]  # `none` from either model
    assert all("PairCosine" in row["cells"] for row in board["rows"])
    salmu("report", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
