"""`salmu submit` and `salmu board`."""

from __future__ import annotations

from pathlib import Path

import click

from salmu_core.cli.arguments import FiniteRange

_SUBMIT_EXAMPLES = """\b
Examples:
  salmu submit results/mini/runs/delete-b1-s0-1234abcd
  salmu submit results/mini/runs/mine-* --out ../results/submissions \\
      --requirement 'mine @ git+https://github.com/me/mine@v1'
  salmu submit results/salmubench/runs/mine-b1-s0 --weights hf-hub:me/x@COMMIT
"""
_BOARD_EXAMPLES = """\b
Examples:
  salmu board ../results --only mine-1234abcd
  salmu board ../results --site public
  salmu board ../results --replay mini --site public
  salmu board ../results --start
"""


@click.command("submit", epilog=_SUBMIT_EXAMPLES)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default="submissions", show_default=True, help="Folder of submissions."
)
@click.option(
    "--requirement",
    metavar="TEXT",
    help="What installs the method, as pip takes it. Default: NAME==VERSION, and nothing for salmu's own packages.",
)
@click.option("--authors", default="", metavar="TEXT", help="Who submits it; shown on the board.")
@click.option(
    "--weights",
    default="delta",
    show_default=True,
    metavar="KIND",
    help="delta: the tensors that the method changed; whole; or hf-hub:OWNER/NAME@COMMIT, where the only RUN was pushed.",
)
@click.option("--overwrite", is_flag=True, help="Replace a submission of these runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def submit_command(
    runs: tuple[Path, ...],
    out: Path,
    requirement: str | None,
    authors: str,
    weights: str,
    overwrite: bool,
    as_json: bool,
) -> int:
    """Make a folder of finished RUNS of one method, ready for a pull request to a results repository.

    It holds records, per-row scores, attacks, and the weights that the method changed. No caption, image or name of the data goes
    into it, and no path of this machine.
    """
    from salmu_core.cli import render
    from salmu_share.board.submit import submit

    made = submit(runs, out, requirement=requirement, authors=authors, weights=weights, overwrite=overwrite)
    total = sum(made.sizes.values())
    if as_json:
        render.print_json(
            {"folder": str(made.folder), "files": made.sizes, "submission": made.submission.model_dump(mode="json")}
        )
        return 0
    render.out.print(str(made.folder), markup=False, highlight=False, soft_wrap=True)
    count = len(made.submission.runs)
    render.err.print(
        f"{count} {'run' if count == 1 else 'runs'}, {len(made.sizes)} files, {render.bytes_text(total)}. Check it as a board does:"
        f" salmu board {out} --only {made.folder.name}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    return 0


@click.command("board", epilog=_BOARD_EXAMPLES)
@click.argument("place", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="NAME", help="Check this submission alone; repeatable.")
@click.option("--site", type=click.Path(path_type=Path), help="Build the static site here, of the submissions that hold.")
@click.option(
    "--replay",
    multiple=True,
    metavar="BENCHMARK",
    help="Run again only what was run on this benchmark; repeatable. Default: everything.",
)
@click.option("--no-attacks", is_flag=True, help="Do not attack the submitted models.")
@click.option(
    "--tolerance", type=FiniteRange(min=0), default=1e-3, show_default=True, help="Of a score on the submitted weights."
)
@click.option(
    "--replay-tolerance",
    type=FiniteRange(min=0),
    default=1e-2,
    show_default=True,
    help="Of a score after running the method again.",
)
@click.option(
    "--kept", type=click.Path(path_type=Path), help="Where what was measured is kept. Default: in the cache folder."
)
@click.option("--requirements", is_flag=True, help="Print what pip has to install for the checks, and check nothing.")
@click.option("--start", is_flag=True, help="Make DIR a new results repository: its workflow and its README.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is an accelerator.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcomes as JSON.")
def board_command(
    place: Path,
    only: tuple[str, ...],
    site: Path | None,
    replay: tuple[str, ...],
    no_attacks: bool,
    tolerance: float,
    replay_tolerance: float,
    kept: Path | None,
    requirements: bool,
    start: bool,
    cpu: bool,
    as_json: bool,
) -> int:
    """Check every submission below DIR, and build a leaderboard of those that hold.

    Each is compared with its checksums and the benchmark, its weights are scored and attacked, and its method is run again. Code of
    the submitted packages runs here. Exit code 1 when a submission is refused.
    """
    from salmu_core.cli import render

    if start:
        from salmu_share.board.start import start_board

        for path in start_board(place):
            render.out.print(str(path), markup=False, highlight=False, soft_wrap=True)
        return 0
    if requirements:
        from salmu_share.board.site import requirements as needed

        for line in needed(place, only):
            print(line)
        return 0
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.files.writing import default_cache
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.run import Settings
    from salmu_share.board.check import Checks, Outcome
    from salmu_share.board.site import check_board

    plugins = load_plugins()
    checks = Checks(
        plugins,
        kept or default_cache() / "board",
        Settings(cpu=cpu),
        tolerance=tolerance,
        replay_tolerance=replay_tolerance,
        replay=replay or None,
        attacks=not no_attacks,
    )

    def say(outcome: Outcome) -> None:
        if as_json:
            return
        words = ", ".join(dict.fromkeys(run.replayed for run in outcome.runs))
        count = f"{len(outcome.runs)} {'run' if len(outcome.runs) == 1 else 'runs'}"
        line = f"{outcome.folder.name}: holds ({count}: {words})"
        if outcome.reason is not None:
            line = f"{outcome.folder.name}: refused, {outcome.reason}: {outcome.words}"
        style = "red" if outcome.reason is not None else "green"
        render.out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        board = check_board(place, checks, only=only, site=site, told=say)
    if as_json:
        from salmu_share.board.site import as_json as outcome_json

        render.print_json([outcome_json(outcome) for outcome in board.outcomes])
    elif board.index is not None:
        render.out.print(str(board.index), markup=False, highlight=False, soft_wrap=True)
    elif not board.outcomes:
        words = f"There is no submission below '{place}'. `salmu submit` makes one."
        render.err.print(words, markup=False, highlight=False, soft_wrap=True)
    return 1 if board.refused else 0
