"""Plugins say which versions of salmu they work with; what does not fit is named and takes nothing else down."""

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from salmu_core import __version__
from salmu_core.cli.main import cli
from salmu_core.plugins.core_versions import core_requirements, unsupported
from salmu_core.plugins.loading import load_plugins
from toy_methods import Ascent, as_plugin


@pytest.mark.parametrize(
    ("requires", "core", "fits"),
    [
        (["salmu>=0.1,<0.3"], "0.1.0", True),
        (["salmu>=0.1,<0.3"], "0.3.0", False),
        (["salmu>=0.2"], "0.1.0", False),
        (["salmu>=0.1"], "0.2.0.dev1", True),
        (["Salmu >= 0.1"], "0.1.0", True),
        (["salmu"], "9.0", True),
        (["salmu-metrics>=7"], "0.1.0", True),
        (["salmu>=7; extra == 'test'"], "0.1.0", True),
        (["salmu>=7; python_version < '3'"], "0.1.0", True),
        (["not a requirement !!"], "0.1.0", True),
        ([], "0.1.0", True),
        (None, "0.1.0", True),
    ],
)
def test_what_a_package_requires_decides(requires, core, fits):
    assert (unsupported(requires, core) is None) == fits


def test_requirements_of_extras_are_not_ours():
    found = core_requirements(["salmu>=0.1", "salmu[tune]; extra == 'test'", "numpy"])
    assert [str(item.specifier) for item in found] == [">=0.1"]


def _entry(requires):
    point = importlib.metadata.EntryPoint("future", "future_plugin", "salmu")
    return point._for(
        SimpleNamespace(name="future-dist", version="2.0", metadata={"Name": "future-dist"}, requires=requires)
    )


def test_a_plugin_for_another_salmu_is_a_problem_with_advice_and_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "future_plugin", as_plugin([Ascent]))
    assert "ascent" in load_plugins([_entry([f"salmu>={__version__}"])]).methods
    plugins = load_plugins([_entry(["salmu>=99,<100"])])
    assert not plugins.methods
    [problem] = plugins.problems
    for words in ("future-dist 2.0", f"salmu {__version__} is installed", "<100,>=99", "pip install"):
        assert words in str(problem)


@pytest.mark.parametrize("command", ["list-methods", "doctor"])
def test_the_command_line_names_it_and_goes_on(command, monkeypatch):
    monkeypatch.setattr("salmu_core.plugins.loading.importlib.metadata.entry_points", lambda group: [_entry(["salmu>=99"])])
    monkeypatch.setattr("salmu_core.cli.render.err.width", 300)
    result = CliRunner().invoke(cli, [command], catch_exceptions=False, standalone_mode=False)
    assert "it works with salmu >=99" in result.output + result.stderr
    assert result.return_value == (1 if command == "doctor" else 0)
