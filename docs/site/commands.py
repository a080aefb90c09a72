"""The reference of commands, from the command line's own definitions."""

from __future__ import annotations

import inspect
import re

import click

from salmu_core.cli.main import cli


def command_reference() -> str:
    """Every command with its usage, words, arguments, options and examples."""
    return "\n".join(_described(cli, "salmu", None, 1))


def _described(command: click.Command, path: str, parent: click.Context | None, level: int) -> list[str]:
    context = click.Context(command, info_name=path.split()[-1], parent=parent)
    lines: list[str] = []
    if level > 1:
        lines += [f"{'#' * level} {path}", "", *_words(command.help or "")]
        usage = " ".join(command.collect_usage_pieces(context))
        lines += ["```text", f"{path} {usage}", "```", "", *_options(command, context), *_examples(command.epilog or "")]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            if member is not None and not member.hidden:
                lines += _described(member, f"{path} {name}", context, level + 1)
    return lines


def _words(text: str) -> list[str]:
    """A help text as Markdown. Paragraphs behind \\b keep their lines."""
    lines = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            lines += ["```text", *paragraph.splitlines()[1:], "```", ""]
        else:
            lines += [_escaped(" ".join(paragraph.split())), ""]
    return lines


def _escaped(text: str) -> str:
    return re.sub(r"([|<>*\[\]])", r"\\\1", text)


def _options(command: click.Command, context: click.Context) -> list[str]:
    rows = []
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option):
            record = parameter.get_help_record(context)
            if record is not None and "--help" not in parameter.opts:
                names, words = record
                rows.append(f"| `{names.replace('|', '&#124;')}` | {_escaped(words)} |")
    return ["| option | what |", "|---|---|", *rows, ""] if rows else []


def _examples(epilog: str) -> list[str]:
    """The commands below "Examples:" as a block; other closing words as they are."""
    text = inspect.cleandoc(epilog.replace("\b", "")).strip()
    found = re.match(r"Examples?:\n(.*)", text, re.S)
    if not found:
        return _words(text) if text else []
    return ["```bash", *inspect.cleandoc(found.group(1)).splitlines(), "```", ""]
