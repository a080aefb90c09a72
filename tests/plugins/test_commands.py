"""Commands come with packages: listed, completed and hinted at without importing them; a faulty package takes nothing else down."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from salmu_core import CommandInfo, hookimpl
from salmu_core.cli import command_group, core_commands
from salmu_core.cli.main import cli, main
from salmu_core.errors import PluginFailure
from salmu_core.plugins.commands import COMMAND_GROUP, load_commands

_SERVE = CommandInfo("show", "Show a folder.", "salmu_core.cli.report:report_command")


def _entry(module: str, dist: str, requires: list[str] | None = None) -> importlib.metadata.EntryPoint:
    point = importlib.metadata.EntryPoint(dist, module, COMMAND_GROUP)
    return point._for(SimpleNamespace(name=dist, version="1.2", metadata={"Name": dist}, requires=requires))


@pytest.fixture
def offer(monkeypatch):
    """A function that makes a module which offers commands, and gives its entry point."""

    def make(dist: str, *infos: object, requires: list[str] | None = None, **content: object):
        module = type(sys)(f"offered_by_{dist.replace('-', '_')}")
        vars(module).update({"register_commands": hookimpl(lambda: list(infos)), **content})
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return _entry(module.__name__, dist, requires)

    return make


@pytest.fixture
def install(monkeypatch):
    """A function that has the given entry points be the installed ones."""
    real = importlib.metadata.entry_points

    def put(*points: importlib.metadata.EntryPoint) -> None:
        def entry_points(**params: str):
            if params.get("group") != COMMAND_GROUP:
                return real(**params)
            return importlib.metadata.EntryPoints(points).select(**params)

        monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
        command_group._installed.cache_clear()

    yield put
    command_group._installed.cache_clear()


def test_a_package_adds_its_commands_and_removing_it_removes_them_and_nothing_else(offer):
    own = set(load_commands(core_commands, []).entries)
    both = load_commands(core_commands, [offer("a-dist", _SERVE), offer("b-dist", CommandInfo("more", "More.", "x:y"))])
    assert set(both.entries) - own == {"show", "more"}
    assert set(load_commands(core_commands, [offer("a-dist", _SERVE)]).entries) - own == {"show"}
    assert both.problems == []


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        (["show"], "not a CommandInfo"),
        ([CommandInfo("Show it", "Show.", "a:b")], "is not a name"),
        ([CommandInfo("show", "", "a:b")], "no summary"),
        ([CommandInfo("show", "Show.", "a.b.c")], "module:function"),
        ([CommandInfo("run", "Run otherwise.", "a:b")], "'run' is already registered by salmu"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_the_reason(offer, offered, words):
    commands = load_commands(core_commands, [offer("odd", *offered), offer("tidy", _SERVE)])
    [problem] = commands.problems
    assert "odd 1.2" in str(problem)
    assert words in str(problem)
    assert {"run", "show"} <= set(commands.entries)
    assert commands.entries["run"].package.name == "salmu"


def test_a_plugin_that_cannot_be_imported_raises_or_misspells_a_hook_is_named_and_the_others_load(offer):
    def boom():
        raise RuntimeError("boom")

    points = [
        _entry("no_such_module_at_all", "gone"),
        offer("raising", register_commands=hookimpl(boom)),
        offer("misspelt", register_command=hookimpl(lambda: [])),
        offer("tidy", _SERVE),
    ]
    commands = load_commands(core_commands, points)
    assert "show" in commands.entries
    found = "\n".join(map(str, commands.problems))
    for words in ("gone 1.2 (gone): cannot be imported", "raising 1.2 (raising): register_commands raised", "misspelt 1.2"):
        assert words in found
    assert len(commands.problems) == 3


def test_of_two_claims_to_a_name_the_first_distribution_wins(offer):
    commands = load_commands(core_commands, [offer("b-dist", _SERVE), offer("a-dist", _SERVE)])
    assert commands.entries["show"].package.name == "a-dist"
    [problem] = commands.problems
    assert "a-dist" in str(problem)
    assert "b-dist" in str(problem)


@pytest.mark.parametrize(
    ("target", "requires", "words"),
    [
        ("no_such_module:f", None, "cannot be imported: ModuleNotFoundError"),
        ("salmu_core.errors:SalmuError", None, "is not a click command"),
        ("salmu_core.cli.report:report_command", ["salmu<0.1"], "it works with salmu <0.1"),
    ],
)
def test_a_command_that_fails_when_called_is_one_error_and_stands_in_doctor(offer, install, target, requires, words):
    install(offer("late", CommandInfo("late", "Fail late.", target), requires=requires))
    with pytest.raises(PluginFailure, match=words) as caught:
        cli.main(["late"], standalone_mode=False)
    assert "late 1.2" in str(caught.value)
    done = CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False)
    assert done.return_value == 1
    [problem] = [problem for problem in json.loads(done.stdout)["problems"] if "late 1.2" in problem]
    assert words in problem


def test_doctor_lists_commands_by_package_and_reports_broken_packages(offer, install, monkeypatch):
    monkeypatch.setenv("SALMU_PLUGINS", "tidy,gone")
    install(offer("tidy", _SERVE), _entry("no_such_module_at_all", "gone"))
    found = json.loads(CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False).stdout)
    assert {"package": "tidy", "version": "1.2", "commands": "show"} in found["plugins"]
    [problem] = found["problems"]
    assert "gone 1.2" in problem


def test_an_unknown_command_names_near_ones_problems_and_what_is_left_out(offer, install, monkeypatch, capsys):
    def said(name: str) -> str:
        command_group._installed.cache_clear()
        with pytest.raises(SystemExit) as exit_:
            main([name])
        assert exit_.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    install(offer("tidy", _SERVE))
    assert "Did you mean show" in said("shwo")
    monkeypatch.setenv("SALMU_PLUGINS", "core")
    assert "left out by SALMU_PLUGINS=core" in said("show")
    monkeypatch.delenv("SALMU_PLUGINS")
    install(_entry("no_such_module_at_all", "gone"))
    assert "gone 1.2 (gone): cannot be imported" in said("show")


def test_completion_offers_names_and_summaries_without_importing_the_commands(offer, install):
    install(offer("tidy", CommandInfo("shown", "Show it.", "no_such_module:f")))
    found = cli.shell_complete(click.Context(cli), "sho")
    assert [(item.value, item.help) for item in found] == [("shown", "Show it.")]


def test_help_completion_and_hints_import_neither_torch_nor_a_method_plugin():
    code = (
        "import sys; from salmu_core.cli.main import cli\n"
        "import click, contextlib\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "assert cli.shell_complete(click.Context(cli), 'co')\n"
        "with contextlib.suppress(click.UsageError): cli.main(['comapre'], standalone_mode=False)\n"
        "heavy = {'torch', 'salmu_core.plugins.loading', 'salmu_core.method', 'plotly', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from importlib.metadata import entry_points\n"
        "methods = {point.module.split('.')[0] for point in entry_points(group='salmu')} & set(sys.modules)\n"
        "commands = {point.module.split('.')[0] for point in entry_points(group='salmu.commands')} | {'salmu_core'}\n"
        "assert methods <= commands, methods - commands\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "SALMU_PLUGINS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout
