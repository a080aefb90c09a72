"""What salmu relies on in a command of a plugin. Nothing is run but `--help`."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import click
from click.testing import CliRunner

from salmu_authors.testing.contract import Checks, NotApplicable, NotReached
from salmu_authors.testing.package import check_finished, command_card, requirement_fault
from salmu_core.errors import PluginFailure
from salmu_core.plugins.commands import COMMAND_GROUP, CommandEntry, CommandInfo, command_fault

COMMAND_CHECKS = Checks()
check = COMMAND_CHECKS.add

_LONGEST_SUMMARY = 80
#: What takes long to import. A command imports these inside its function.
_HEAVY = ("torch", "open_clip", "accelerate", "transformers", "pandas", "scipy", "plotly", "salmu_core.plugins.loading")


class CommandTrial:
    """One command, imported once.

    Args:
        info: what `register_commands` says about it.
        entry: where it is registered, when it is installed.
    """

    def __init__(self, info: CommandInfo, entry: CommandEntry | None = None) -> None:
        self.info = info
        self.entry = entry
        self._command: click.Command | None = None

    @property
    def command(self) -> click.Command:
        """The click command.

        Raises:
            NotReached: it cannot be imported; the check `target` says why.
        """
        if self._command is None:
            entry = self.entry or CommandEntry(self.info, _Nowhere(), "under-check")
            try:
                self._command = entry.load()
            except PluginFailure:
                raise NotReached("It cannot be imported: see the check `target`.") from None
        return self._command


class _Nowhere:
    name = "under-check"
    version = "0"


@check("class", "It is a CommandInfo: a name to type, a summary of one line, and module:function.")
def registrable(trial: CommandTrial) -> None:
    fault = command_fault(trial.info)
    assert fault is None, f"It cannot be registered: {fault}."


@check("summary", "The summary is one short sentence: it stands in `salmu --help`.")
def summary(trial: CommandTrial) -> None:
    given = trial.info.summary
    assert given.rstrip().endswith((".", "?")), f"The summary '{given}' is not a sentence: end it with a full stop."
    assert len(given) <= _LONGEST_SUMMARY, f"The summary has {len(given)} characters: say it in {_LONGEST_SUMMARY}."
    assert "TODO" not in given, "The summary still holds a TODO."


@check("target", "The target can be imported and is a click command of the same name.")
def target(trial: CommandTrial) -> None:
    entry = trial.entry or CommandEntry(trial.info, _Nowhere(), "under-check")
    try:
        command = entry.load()
    except PluginFailure as failure:
        raise AssertionError(failure.message) from None
    assert command.name == trial.info.name, (
        f"{trial.info.target} calls itself '{command.name}': write @click.command(\"{trial.info.name}\")."
    )


@check("help", "`--help` says what it does, and every option what it is.")
def helps(trial: CommandTrial) -> None:
    done = CliRunner().invoke(trial.command, ["--help"])
    assert done.exit_code == 0, f"--help ends with exit code {done.exit_code}: {done.output or done.exception}"
    assert (trial.command.help or "").strip(), "It has no help: write a docstring for the function."
    bare = [option.name for option in trial.command.params if isinstance(option, click.Option) and not option.help]
    assert not bare, f"These options say nothing: {', '.join(map(str, bare))}. Write click.option(..., help=...)."


@check("example", "Its help ends with an example.")
def example(trial: CommandTrial) -> None:
    words = trial.command.epilog or ""
    assert "Example" in words and f"salmu {trial.info.name}" in words, (
        f'Its help has no example: write epilog="\\b\\nExample:\\n  salmu {trial.info.name} ...".'
    )


@check("light", "Importing it imports neither torch nor plugins: `salmu --help` and completion stay quick.")
def light(trial: CommandTrial) -> None:
    modules = [trial.info.target.partition(":")[0]]
    if trial.entry is not None:
        points = importlib.metadata.entry_points(group=COMMAND_GROUP, name=trial.entry.entry_point)
        modules += [point.value.partition(":")[0] for point in points]
    code = (
        "import importlib, json, sys\n"
        "given = json.loads(sys.argv[1]); sys.path[:] = given['path']\n"
        "for module in given['modules']: importlib.import_module(module)\n"
        "print(json.dumps([name for name in given['heavy'] if name in sys.modules]))"
    )
    given = json.dumps({"path": sys.path, "modules": modules, "heavy": _HEAVY})
    done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReached("It cannot be imported in a fresh process.")
    heavy = json.loads(done.stdout.splitlines()[-1])
    assert not heavy, f"Importing {' and '.join(modules)} imports {', '.join(heavy)}: import them inside the function."


@check("installed-core", "The package says which versions of salmu it works with, and this is one of them.")
def installed_core(trial: CommandTrial) -> None:
    if trial.entry is None or trial.entry.package.name == "salmu":
        raise NotApplicable("It is not an installed plugin.")
    fault = requirement_fault(trial.entry.package.name)
    assert fault is None, fault


@check("card", "The package has a card that shows the command.")
def card(trial: CommandTrial) -> None:
    if trial.entry is not None and trial.entry.package.name == "salmu":
        raise NotApplicable("It is a part of core.")
    text = command_card(trial.info, trial.entry)
    if text is None and trial.entry is None:
        raise NotApplicable("It is in no package.")
    assert text is not None, "The package has no card: write a README.md and name it in pyproject.toml (readme = ...)."
    assert f"salmu {trial.info.name}" in text, f"The card does not show `salmu {trial.info.name}`."
    check_finished(text)
