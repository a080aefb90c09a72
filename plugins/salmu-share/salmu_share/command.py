"""`salmu push`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from salmu_core.benchmark import Terms

_EXAMPLES = """\b
Examples:
  salmu push results/mini/runs/delete-b1-s0 me/clip-delete --dry-run
  salmu push results/mini/runs/delete-b1-s0 me/clip-delete --private
  salmu push results/salmubench/runs/delete-b1-s0 me/clip --gated manual
  salmu push results/mini/runs/delete-b1-s1 me/clip-delete --branch seed-1
  salmu push results/mini me/unlearning-results --license cc-by-4.0
"""


@click.command("push", epilog=_EXAMPLES)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--dry-run", is_flag=True, help="Show the card and what would be uploaded; ask the hub nothing.")
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option(
    "--gated",
    type=click.Choice(["auto", "manual"]),
    help="Ask whoever fetches it to accept the terms first: auto lets everybody in who does, manual those you let in.",
)
@click.option("--branch", metavar="NAME", help="A branch other than main; made where it does not exist.")
@click.option("--message", metavar="TEXT", help="The commit's message.")
@click.option("--license", default="unknown", show_default=True, metavar="ID", help="A licence by the hub's identifier.")
@click.option("--base-model", metavar="OWNER/NAME", help="The model it started from. Default: what the benchmark says.")
@click.option(
    "--evaluates",
    metavar="OWNER/NAME",
    help="The benchmark's dataset repository, perhaps @COMMIT: its leaderboard on the hub then shows the scores.",
)
@click.option("--rows", is_flag=True, help="Upload per-row scores too.")
@click.option(
    "--references",
    type=click.Path(path_type=Path, exists=True),
    help="Where the Clean and Compromised records are. Default: beside RUN.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that the repository holds with another content.")
@click.option("--force", is_flag=True, help="Publish a run that diverged, with a warning on its card.")
@click.option("--token", metavar="TOKEN", help="Default: HF_TOKEN, or the one of `hf auth login`.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def push_command(
    run: Path,
    repository: str,
    dry_run: bool,
    private: bool,
    gated: Any,
    branch: str | None,
    message: str | None,
    license: str,
    base_model: str | None,
    evaluates: str | None,
    rows: bool,
    references: Path | None,
    overwrite: bool,
    force: bool,
    token: str | None,
    as_json: bool,
) -> int:
    """Upload the model of RUN to OWNER/NAME on the hub, with a card that explains it and the record of its scores. The results folder
    of a comparison becomes a dataset repository: records, tables and report, without a model.

    open_clip then loads it as hf-hub:OWNER/NAME. Nothing that is there is replaced unless asked to, and a push that was cut
    goes on when repeated. No name, caption or image of the data is uploaded, and no path of this machine.
    """
    from salmu_core.cli import render
    from salmu_share.upload import push

    pushed = push(
        run,
        repository,
        private=private,
        dry_run=dry_run,
        branch=branch,
        message=message,
        token=token,
        license=license,
        base_model=base_model,
        evaluates=evaluates,
        rows=rows,
        references=references,
        overwrite=overwrite,
        force=force,
        gated=gated,
    )
    ungated = gated is None and not private and any(item.gated for item in pushed.publication.terms)
    sizes = pushed.publication.sizes()
    if as_json:
        render.print_json({"url": pushed.url, "commit": pushed.commit, "uploaded": pushed.uploaded, "files": sizes})
        return 0
    if dry_run:
        render.out.print(pushed.publication.card, markup=False, highlight=False, soft_wrap=True)
        render.out.print(
            render.make_table(("File", "Size"), ((name, render.bytes_text(size)) for name, size in sizes.items()))
        )
        if ungated:
            _offer_gate(pushed.publication.terms)
        render.out.print(f"Nothing was uploaded. It would go to {pushed.url}", markup=False, highlight=False, soft_wrap=True)
        return 0
    if ungated:
        _offer_gate(pushed.publication.terms)
    said = f"{len(sizes)} files are at" if pushed.uploaded else "All of it was there already:"
    render.err.print(said, highlight=False)
    render.out.print(pushed.url, markup=False, highlight=False, soft_wrap=True)
    return 0


def _offer_gate(terms: Sequence[Terms]) -> None:
    """The origin asks for consent, and this repository does not."""
    from salmu_core.cli import render

    names = ", ".join(item.what for item in terms if item.gated)
    render.err.print(
        f"Made from what is gated: {names}. Its terms go on to this model. --gated auto or --gated manual asks for them here too;"
        " --private keeps it to yourself.",
        style="yellow",
        markup=False,
        highlight=False,
    )
