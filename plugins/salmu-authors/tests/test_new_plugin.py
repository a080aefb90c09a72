"""`salmu new-plugin`: what it writes is installed, listed, checked, tested and tidy; what it must not overwrite stays."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from salmu_authors.scaffold import NewPlugin, PluginKind, new_plugin, render
from salmu_core.cli.main import cli
from salmu_core.errors import BadOptions, OutputError
from toy_methods import toy_plugins

KINDS = get_args(PluginKind)
LONG = "abcdefgh-abcdefgh-abcdefgh-abc"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A plugin of every kind, with what an installation would leave beside it: the folder to put on the path."""
    place = tmp_path_factory.mktemp("plugins")
    for kind in KINDS:
        plugin, folder, _ = new_plugin(f"fresh-{kind}", kind, place / kind, toy_plugins())
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = place / "site" / f"{plugin.module}-0.1.0.dist-info"
        info.mkdir(parents=True)
        [(group, points)] = project["entry-points"].items()
        [(name, module)] = points.items()
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
            f"Requires-Dist: {project['dependencies'][0]}\nDescription-Content-Type: text/markdown\n\n"
            + (folder / "README.md").read_text()
        )
    return place


def _elsewhere(place: Path, *arguments: str, **more: str):
    """A process that sees the plugins as installed, and no others."""
    path = os.pathsep.join([str(place / "site"), *(str(place / kind) for kind in KINDS)])
    only = ",".join(f"salmu-fresh-{kind}" for kind in KINDS)
    environment = {**os.environ, "PYTHONPATH": path, "SALMU_PLUGINS": only, "OMP_NUM_THREADS": "1", **more}
    environment["SALMU_CACHE"] = str(place / "cache")
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=place, env=environment
    )


@pytest.fixture(scope="module")
def tried(written):
    """What is listed, what the checks report and what the plugins' own tests print.

    One process for all of it: importing torch again would take longer than the tests.
    """
    tests = [str(written / kind / "tests") for kind in KINDS]
    code = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from salmu_core.plugins.loading import load_plugins\n"
        "from salmu_core.cli.command_group import installed_commands\n"
        "from salmu_authors.testing import report_named\n"
        "plugins = load_plugins()\n"
        "assert not plugins.problems, plugins.problems\n"
        "commands = installed_commands()\n"
        "assert not commands.problems, commands.problems\n"
        "plugins.benchmarks['fresh-benchmark'].cls().build()\n"
        "names = [*plugins.methods, *plugins.metrics, *plugins.benchmarks, *plugins.audits, *commands.entries]\n"
        "own = [name for name in names if name.lower().startswith('fresh')]\n"
        "tried = ['fresh-multi-stage', 'FreshMetric', 'fresh-benchmark', 'fresh-audit', 'fresh-command']\n"  # the others' own tests do that
        "print(json.dumps([own, [report_named(name, plugins, commands=commands).as_json() for name in tried]]), flush=True)\n"
        "import pytest\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '--import-mode=importlib', *sys.argv[1:]]))"
    )
    done = _elsewhere(written, "-c", code, *tests)
    assert done.stdout, done.stderr[-3000:]
    return done


def test_the_tests_of_what_is_written_pass(written, tried):
    assert tried.returncode == 0, tried.stdout[-3000:]
    tests = [file.read_text() for kind in KINDS for file in (written / kind / "tests").glob("*.py")]
    assert f"{sum(text.count('def test_') for text in tests)} passed" in tried.stdout


def test_what_is_written_is_listed_at_once_and_passes_every_check(tried):
    listed, reports = json.loads(tried.stdout.splitlines()[0])
    assert set(listed) == {
        "fresh-loss",
        "fresh-multi-stage",
        "fresh-weights",
        "FreshMetric",
        "fresh-benchmark",
        "fresh-audit",
        "fresh-command",
    }
    reports = {report["name"]: report for report in reports}
    for name, report in reports.items():
        assert report["ok"], [item for item in report["checks"] if item["status"] == "failed"]
        passed = {item["id"] for item in report["checks"] if item["status"] == "passed"}
        assert {"card", "installed-core"} <= passed, name
    assert "two-processes" in {item["id"] for item in reports["fresh-multi-stage"]["checks"] if item["status"] == "passed"}


@pytest.mark.parametrize("name", ["x", LONG])
def test_what_is_written_is_tidy_however_long_its_name(name, tmp_path):
    for kind in KINDS:
        new_plugin(name, kind, tmp_path / kind, toy_plugins())
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([*ruff, *command], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_a_published_package_needs_is_written(kind):
    content = render(NewPlugin("caption-swap", kind))
    assert set(content) == {
        "pyproject.toml",
        "salmu_caption_swap.py",
        "README.md",
        "LICENSE",
        ".gitignore",
        ".github/workflows/test.yml",
        "tests/test_caption_swap.py",
    }
    assert not any("@{" in text or "@%" in text for text in content.values())
    assert "${{ matrix.python }}" in content[".github/workflows/test.yml"]
    checked = "CaptionSwap" if kind == "metric" else "caption-swap"
    assert f"salmu check {checked}" in content[".github/workflows/test.yml"]
    # Both show how long the checks took.
    assert "--durations=3" in tomllib.loads(content["pyproject.toml"])["tool"]["pytest"]["ini_options"]["addopts"]
    project = tomllib.loads(content["pyproject.toml"])["project"]
    group = "salmu.commands" if kind == "command" else "salmu"
    assert project["entry-points"] == {group: {"caption-swap": "salmu_caption_swap"}}
    [requirement] = project["dependencies"]
    assert requirement.startswith("salmu>=")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Zero Cosine", "cannot be the name"),
        ("zero_cosine", "cannot be the name"),
        ("-zero", "cannot be the name"),
        ("zero--cosine", "cannot be the name"),
        ("4-bit", "cannot be the name"),
        ("a" * 31, "cannot be the name"),
        ("", "cannot be the name"),
        ("../evil", "cannot be the name"),
        ("ascent", "is there already, from toy-methods 1.0"),
        ("toy", "is there already, from salmu 0"),
        ("loss-method", "would hide salmu_core.LossMethod"),
        ("core", "installed already"),
    ],
)
def test_names_that_cannot_be_or_are_taken_are_refused(name, words, tmp_path):
    with pytest.raises(BadOptions, match=words):
        new_plugin(name, "loss", tmp_path / "out", toy_plugins())
    assert not (tmp_path / "out").exists()


def test_a_metric_of_a_name_that_is_taken_is_refused(tmp_path):
    with pytest.raises(BadOptions, match="metric 'MeanCosine' is there already"):
        new_plugin("mean-cosine", "metric", tmp_path / "out", toy_plugins())


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        new_plugin("fresh", "loss", folder, toy_plugins())
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="nothing is overwritten"):
        new_plugin("fresh", "loss", file, toy_plugins())
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (new_plugin("fresh", "loss", empty, toy_plugins())[1] / "pyproject.toml").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "mine"]  # nothing half-written beside


def test_the_command_says_what_to_do_next(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMU_PLUGINS", "salmu-authors")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["new-plugin", "salmu-fresh-idea"], catch_exceptions=False)
    assert result.exit_code == 0
    assert (tmp_path / "salmu-fresh-idea" / "salmu_fresh_idea.py").is_file()
    for words in ("uv pip install -e", "salmu check fresh-idea", "pytest"):
        assert words in result.stdout
    result = CliRunner().invoke(cli, ["new-plugin", "other", "--kind", "metric", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["name"] == "Other"


@pytest.mark.skipif(not os.environ.get("SALMU_TEST_VENV"), reason="takes minutes: set SALMU_TEST_VENV=1")
def test_a_new_plugin_installs_in_a_clean_environment(tmp_path):
    """The way of a newcomer: an empty environment, salmu from this checkout, the plugin, its tests and the check."""
    root = Path(__file__).parents[3]
    venv.create(tmp_path / "env", with_pip=not shutil.which("uv"))
    python = tmp_path / "env" / "bin" / "python"
    _, folder, _ = new_plugin("fresh", "loss", tmp_path / "plugin", toy_plugins())
    pip = ["uv", "pip", "install", "--python", str(python)] if shutil.which("uv") else [str(python), "-m", "pip", "install"]
    subprocess.run([*pip, str(root), str(root / "plugins" / "salmu-authors"), "-e", f"{folder}[test]"], check=True)
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    for command in (["-m", "ruff", "check", "."], ["-m", "pytest", "-q"], ["-m", "salmu_core", "check", "fresh"]):
        subprocess.run([str(python), *command], check=True, cwd=folder, env=environment)
