"""Command lines in README, docs and cards are what the commands take; TOML blocks are studies or packages."""

import re
import tomllib

import click
import pytest

from salmu_core.cli.main import cli
from salmu_core.spec.study import Study, parse_study
from snippets import ROOT, blocks, command_lines, inline_commands, pages

#: Names of placeholders, and of plugins that the docs write themselves.
_NOT_INSTALLED = {"zero-cosine", "my-method"}
#: A command that a page writes: docs/add-a-command.md, which tests/docs/test_plugin_pages.py tries.
_WRITTEN = "best-run"


def _command(arguments: list[str]) -> tuple[click.Command, str, list[str]]:
    """The command that arguments name, and what is left for it."""
    command: click.Command = cli
    path, rest = "salmu", list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{path} has no command '{name}'"
        command, path = found, f"{path} {name}"
    return command, path, rest


@pytest.fixture
def paths_need_not_exist(monkeypatch):
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: self.coerce_path_result(value))


def check(arguments: list[str]) -> click.Context | None:
    """Parse a whole command line as salmu does, and run nothing."""
    command, path, rest = _command(arguments)
    try:
        return command.make_context(path, rest)
    except click.exceptions.Exit:  # --help and --version
        return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_parse(page, paths_need_not_exist):
    for block in blocks(page, "bash", "console", "shell", ""):
        for arguments in command_lines(block):
            if arguments[0] == _WRITTEN:
                continue
            try:
                check(arguments)
            except click.ClickException as error:
                pytest.fail(f"{block.place}: salmu {' '.join(arguments)}: {error.format_message()}")
    for arguments in inline_commands(page):
        if arguments[0].isupper() or arguments[0] == _WRITTEN:  # `salmu COMMAND --help`
            continue
        command, path, rest = _command(arguments)
        try:
            command.make_parser(click.Context(command, info_name=path)).parse_args(rest)
        except click.UsageError as error:
            pytest.fail(f"{page.relative_to(ROOT)}: `salmu {' '.join(arguments)}`: {error.format_message()}")


#: What takes the time of a network, of another machine or of data that nobody here has; salmubench.md has a table of its steps.
_NOT_MEASURED = ("salmubench", "data pull", "accelerate")
_TIMED = sorted(
    {*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / name for name in ("salmubench.md", "train-at-scale.md", "tune.md")}
)


@pytest.mark.parametrize("page", [ROOT / "README.md", *_TIMED], ids=lambda page: page.stem)
def test_every_command_says_how_long_it_takes(page):
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if re.match(r"(pip install uv && )?(uv run )?salmu ", line) and not any(word in line for word in _NOT_MEASURED):
                assert re.search(r" # .*(\[[^]]+\]|\d s\b|second|minute)", line), f"{block.place}: {line}"


def test_a_wrong_command_line_is_noticed(paths_need_not_exist):
    for wrong in ("run", "run delete --sed 1", "compare --seeds", "run delete --budget -1", "data fetch x", "evaluate a b"):
        with pytest.raises((click.ClickException, AssertionError)):
            check(wrong.split())


def test_methods_in_command_lines_exist(paths_need_not_exist):
    from salmu_core.plugins.loading import load_plugins

    pytest.importorskip("salmu_slug")
    plugins = load_plugins()
    known = set(plugins.methods) | _NOT_INSTALLED
    seen = 0
    for page in pages():
        for block in blocks(page, "bash", ""):
            for arguments in command_lines(block):
                context = None if arguments[0] == _WRITTEN else check(arguments)
                if context is None or context.command.name not in ("run", "compare", "tune", "forget"):
                    continue
                given = context.params.get("methods") or context.params.get("method") or ()
                for name in [given] if isinstance(given, str) else given:
                    seen += 1
                    assert name.isupper() or name in known, f"{block.place}: there is no method {name}"
    assert seen > 50


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_toml_blocks_are_studies_or_packages(page):
    for block in blocks(page, "toml"):
        content = tomllib.loads(block.text)
        if {"project", "build-system", "tool", "dependencies"} & set(content):
            continue
        assert set(content) <= set(Study.model_fields), f"{block.place}: neither a study nor a package"
        parse_study(content, block.place)


@pytest.mark.parametrize("command", sorted(cli.list_commands(click.Context(cli))))
def test_help_fits_80_columns(command):
    found = cli.get_command(click.Context(cli), command)
    context = click.Context(found, info_name=f"salmu {command}", terminal_width=80, max_content_width=80)
    assert [line for line in found.get_help(context).splitlines() if len(line) > 80] == []
