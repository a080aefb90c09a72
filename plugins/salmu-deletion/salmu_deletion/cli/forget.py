"""`salmu forget`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from salmu_core.cli.arguments import (
    FiniteRange,
    complete_names,
    isolation_settings,
    make_settings,
    parse_settings,
    run_settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from salmu_core.layout import Finding
    from salmu_deletion.forget import Forgotten

_EXAMPLES = """\b
Examples:
  salmu forget --model clip/ --forget requests.csv --check-only
  salmu forget --model clip/ --forget requests.csv --retain ordinary.csv \\
      --method gradient-ascent-retain --out runs/request-17
  salmu forget --after runs/request-17 --forget more.csv --retain keep.csv \\
      --method gradient-ascent-retain --out runs/request-18
  salmu forget --model weights.pt --architecture ViT-B-16 --forget shards/ \\
      --columns image=photo,caption=text,identity=person_id \\
      --method gradient-ascent --out runs/request-19
"""
_MARKS = {"error": "red", "warning": "yellow", "fact": "dim"}


@click.command("forget", epilog=_EXAMPLES)
@click.option("--model", help="An open_clip or transformers folder, a file of weights, or hf-hub:OWNER/NAME.")
@click.option(
    "--after",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Delete on top of an earlier request: start from RUN's model, instead of --model; what RUN and those before it deleted must"
    " stay forgotten.",
)
@click.option(
    "--architecture", metavar="NAME", help="open_clip's name, for weights without open_clip_config.json beside them."
)
@click.option(
    "--forget",
    "forget_table",
    required=True,
    type=click.Path(path_type=Path),
    metavar="TABLE",
    help="Pairs to forget: .csv, .tsv, .parquet, webdataset .tar, or a folder of shards.",
)
@click.option("--retain", type=click.Path(path_type=Path), metavar="TABLE", help="Pairs to keep.")
@click.option("--columns", metavar="PART=COLUMN,...", help="Parts: image, caption, identity, field, name, value.")
@click.option("--images", type=click.Path(path_type=Path), metavar="DIR", help="Folder that paths of pictures begin in.")
@click.option("--method", shell_complete=complete_names("method"), help="An installed method (`salmu list-methods`).")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of the method; repeatable.")
@click.option("--preset", default="none", show_default=True, metavar="none|PATH", help="Options that `salmu tune` wrote.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where the run goes; new or empty.")
@click.option("--check-only", is_flag=True, help="Look at the tables and tell all that is wrong; run nothing.")
@click.option(
    "--no-decode", is_flag=True, help="Do not decode every picture first: faster, and broken ones are found later."
)
@click.option(
    "--passes", type=FiniteRange(min=0, min_open=True, max=1e6), default=10, show_default=True, help="Over forget, at most."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all that is drawn.")
@click.option(
    "--drift-budget",
    type=FiniteRange(min=0, max=1),
    default=0.1,
    show_default=True,
    help="With --after: the fall of RetainMRR since the first model that all requests may cost together.",
)
@click.option("--keep-cache", is_flag=True, help="Keep decoded pictures and embeddings in DIR/cache.")
@run_settings
@isolation_settings
@click.option("--json", "as_json", is_flag=True, help="Print findings and record as JSON.")
def forget_command(
    model: str | None,
    after: Path | None,
    architecture: str | None,
    forget_table: Path,
    retain: Path | None,
    columns: str | None,
    images: Path | None,
    method: str | None,
    settings: tuple[str, ...],
    preset: str,
    out: Path | None,
    check_only: bool,
    no_decode: bool,
    passes: float,
    seed: int,
    drift_budget: float,
    keep_cache: bool,
    precision: Any,
    as_json: bool,
    **flags: Any,
) -> int:
    """Make your own model forget pairs of yours.

    The tables are checked first. Then the model as given is measured, on the pairs and on mismatched ones that it never
    learned, the method runs, and the model is written in open_clip's layout and, where there is one, in transformers'.
    Nothing that is there is overwritten; the same command goes on where it was cut.

    Exit codes: 0, 1 when the run is not ok or something cannot be used, 3 when pairs of earlier requests came back or all requests
    together drifted beyond their budget.
    """
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.data.processes import process_index
    from salmu_core.errors import BadOptions
    from salmu_core.plugins.loading import load_plugins
    from salmu_deletion.forget import check, forget, own_data, plan, settings_for
    from salmu_deletion.own_data.check import errors_of
    from salmu_deletion.own_data.columns import parse_columns

    if not check_only and (method is None or out is None):
        raise BadOptions(
            f"{'--method' if method is None else '--out'} is missing.",
            "Give --method and --out, or --check-only to look at the tables only.",
        )
    if (model is None) == (after is None):
        raise BadOptions(
            "Give one of --model and --after.",
            "--model for a first request, --after RUN for one on top of an earlier request.",
        )
    how = make_settings(flags)
    how = settings_for(out, how) if out is not None else how
    plugins = load_plugins()
    benchmark = own_data(
        how,
        model=model,
        after=None if after is None else str(after),
        architecture=architecture,
        forget=str(forget_table),
        retain=None if retain is None else str(retain),
        columns=parse_columns(columns or ""),
        images=None if images is None else str(images),
        passes=passes,
        seed=seed,
    )
    with ProgressDisplay(quiet=as_json) as display:
        plugins.watch(display)
        findings = check(benchmark, plugins, decode=not no_decode)
        main = process_index() == 0
        if main and not as_json:
            _show_findings(findings)
        bad = bool(errors_of(findings))
        if check_only or bad:
            if main and as_json:
                render.print_json({"findings": [vars(finding) for finding in findings]})
            elif main and not check_only:
                render.err.print("Nothing was run: mend the tables first.", style="red")
            return 1 if bad else 0
        assert method is not None
        assert out is not None
        resolved = plan(
            benchmark,
            method,
            plugins,
            options=parse_settings(settings),
            seed=seed,
            precision=precision,
            preset=preset,
            settings=how,
        )
        done = forget(
            benchmark,
            resolved,
            out,
            findings=findings,
            keep_cache=keep_cache,
            drift_budget=drift_budget,
            settings=how,
            plugins=plugins,
        )
    if main:
        render.show_problems(plugins.problems)
        if as_json:
            render.print_json(
                {
                    "findings": [vars(finding) for finding in findings],
                    "record": done.record.model_dump(mode="json"),
                    "references": {which: row.model_dump(mode="json") for which, row in done.references.items()},
                    "notes": done.notes,
                    "request": done.request,
                }
            )
        else:
            _show(done)
    if done.record.status != "ok":
        return 1
    return 3 if (done.request.get("chain") or {"good": True})["good"] is False else 0


def _show_findings(findings: Sequence[Finding]) -> None:
    from rich.text import Text

    from salmu_core.cli import render

    for finding in findings:
        line = Text(f"{finding.severity}: ", style=_MARKS[finding.severity]).append(finding.message, style="default")
        if finding.hint:
            line.append(f" {finding.hint}", style="dim")
        render.out.print(line)


def _show(done: Forgotten) -> None:
    """Sentences first, numbers after, then where everything lies."""
    from rich.text import Text

    from salmu_core.cli import render
    from salmu_core.comparison.explain import VERDICTS
    from salmu_deletion.forget import PAGE_FILE
    from salmu_deletion.statements import statements, verdict_of
    from salmu_deletion.wording import without_clean

    record = done.record
    rows = {which: row.scores for which, row in done.references.items()}
    clean, compromised = rows.get("clean", {}), rows.get("compromised", {})
    render.out.print()
    if record.error:
        render.err.print(f"{record.status}: {record.error}", style="red", markup=False)
    else:
        verdict = verdict_of(record, clean, compromised)
        words = f"{VERDICTS.get(verdict.name, '').replace(' Holds no rank.', '')} {verdict.reason}"
        render.out.print(
            Text(f"Verdict: {verdict.name}.", style="bold").append(f" {without_clean(words)}", style="not bold")
        )
        render.out.print()
    for item in statements(record, clean, compromised) if record.status == "ok" else ():
        render.out.print(Text(item.question, style="bold").append(f" {item.answer}", style="not bold"))

    def shown(scores: Any, name: str) -> str:
        return f"{scores[name].value:.4f}" if name in scores else "–"

    table = [
        (
            name,
            shown(compromised, name),
            f"{score.value:.4f}",
            shown(clean, name),
            "after" if score.target == "clean" else "before",
        )
        for name, score in record.scores.items()
    ]
    goal = {"after": "never learned", "before": "before"}
    if table:  # a run that failed has no scores
        headings = ("Metric", "Before", "Now", "Never learned", "Should be as")
        render.out.print()
        render.out.print(render.make_table(headings, [(*row[:4], goal[row[4]]) for row in table]))
    for part in ("chain", "index"):
        for item in (done.request.get(part) or {"answers": ()})["answers"]:
            render.out.print(Text(item["question"], style="bold").append(f" {item['answer']}", style="not bold"))
    for note in done.notes:
        render.out.print(Text(note, style="dim"))
    render.out.print()
    if record.model_file is not None:
        render.out.print(f"open_clip:    local-dir:{done.folder}", markup=False, highlight=False, soft_wrap=True)
    if done.transformers is not None:
        render.out.print(f"transformers: {done.transformers}", markup=False, highlight=False, soft_wrap=True)
    render.out.print(f"All of this:  {done.folder / PAGE_FILE}", markup=False, highlight=False, soft_wrap=True)
    if record.model_file is not None:
        for text in (
            f"Look at single requests: salmu inspect {done.folder} --list",
            f"Hand on what was done:   salmu certificate {done.folder} --pdf",
        ):
            render.out.print(text, markup=False, highlight=False, soft_wrap=True)


__all__ = ["forget_command"]
