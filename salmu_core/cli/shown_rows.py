"""Flags that say which rows of a leaderboard are shown and how, and which of them a script should fail for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from salmu_core.cli.arguments import format_option

if TYPE_CHECKING:
    from salmu_core.comparison.leaderboard import Comparison

F = TypeVar("F", bound=Callable[..., Any])
MOST_PRINTED = 200  # rows of a table in the terminal
#: The exit code when a condition of --require or --fail-if is broken.
BROKEN = 3


def showing(command: F) -> F:
    """The flags of `Showing`."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Same as --format json."),
        format_option,
        click.option("--commands", is_flag=True, help="Print below the table the command that remakes each row."),
        click.option(
            "--fail-if",
            multiple=True,
            metavar="CONDITION",
            help="Exit with 3 when this holds for a row that is shown; repeatable.",
        ),
        click.option(
            "--require",
            multiple=True,
            metavar="CONDITION",
            help="Exit with 3 unless this holds for every row that is shown, or for one: ROW:CONDITION; repeatable.",
        ),
        click.option(
            "--sort",
            metavar="COLUMN",
            help="Order of rows: rank, overall, seconds or a metric, nearest first; -COLUMN turns it.",
        ),
        click.option(
            "--where",
            multiple=True,
            metavar="CONDITION",
            help="Only rows like this: 'GenKnow>0.6', 'RetFail.gap<=0.2'; repeatable.",
        ),
        click.option(
            "--status", multiple=True, metavar="WORD", help="Only rows of this status: ok, diverged, failed; repeatable."
        ),
        click.option("--verdict", multiple=True, metavar="WORD", help="Only rows with this verdict; repeatable."),
        click.option("--family", multiple=True, metavar="WORD", help="Only methods of this family; repeatable."),
    ):
        command = decorate(command)
    return command


@dataclass(frozen=True)
class Showing:
    """What the flags say. Files that are written hold every row whatever is shown."""

    form: str = "table"
    family: tuple[str, ...] = ()
    verdict: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    sort: str | None = None
    require: tuple[str, ...] = ()
    fail_if: tuple[str, ...] = ()
    commands: bool = False

    @classmethod
    def of(cls, flags: Mapping[str, Any]) -> Showing:
        """From a command's arguments."""
        form = "json" if flags["as_json"] else flags["form"]
        names = ("family", "verdict", "status", "where", "sort", "require", "fail_if", "commands")
        return cls(form=form, **{name: flags[name] for name in names})

    def check(self, metrics: Sequence[str]) -> None:
        """Find mistakes in conditions before hours of work; titles of rows are known only after it.

        Raises:
            BadOptions: a condition cannot be read, or names what there is not.
        """
        from salmu_core.comparison.selection import parse_condition

        for flag, texts in (("--where", self.where), ("--require", self.require), ("--fail-if", self.fail_if)):
            for text in texts:
                parse_condition(text, flag, metrics)

    def show(self, comparison: Comparison, files: Mapping[str, Path]) -> int:
        """Print the leaderboard, and on standard error every condition that is broken.

        Returns:
            0, or `BROKEN`.

        Raises:
            BadOptions: a filter, column or condition names what is not there.
        """
        from salmu_core.cli import render
        from salmu_core.comparison.selection import broken, first_rows, select
        from salmu_core.report import formats
        from salmu_core.report.table import command_renderables, leaderboard_renderables

        shown = select(
            comparison, families=self.family, verdicts=self.verdict, statuses=self.status, where=self.where, sort=self.sort
        )
        problems = broken(shown, self.require, self.fail_if)
        if self.form != "table":
            print(formats.render(shown, self.form), end="")
        else:
            printed, left = first_rows(shown, MOST_PRINTED)
            for renderable in leaderboard_renderables(printed, render.out.width):
                render.out.print(renderable)
            if left:
                render.out.print(f"{left:,} more rows stand in the files, and --where, --family or --format csv shows them.")
            if self.commands:
                for renderable in command_renderables(shown):
                    render.out.print(renderable, soft_wrap=True)
            for path in files.values():
                render.out.print(f"Written: {path}", markup=False, highlight=False)
        for problem in problems:
            render.err.print(f"Broken: {problem}", style="red", markup=False, highlight=False)
        return BROKEN if problems else 0
