"""`salmu data`: fetch, check and export the data of benchmarks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salmu_core.cli.arguments import benchmark_options, complete_names, data_dir_option

if TYPE_CHECKING:
    from salmu_core.benchmark import Download, Terms
    from salmu_core.layout import Finding, Layout
    from salmu_core.plugins.loading import Plugins

_MARKS = {"error": "red", "warning": "yellow", "fact": "dim"}
_bench_seed = click.option("--bench-seed", type=click.IntRange(min=0), help="The benchmark's seed.")
_bench_set = click.option("--bench-set", multiple=True, metavar="NAME=VALUE", help="An option of the benchmark; repeatable.")


@click.group(
    "data",
    epilog="""\b
Examples:
  salmu data pull salmubench
  salmu data check snapshot
  salmu data export mini snapshot
""",
)
def data_command() -> None:
    """Fetch, check and export the data of benchmarks."""


@data_command.command(
    "pull",
    epilog="""\b
Examples:
  salmu data pull salmubench
  salmu data pull salmubench --yes
  salmu data pull mini --bench-seed 7 --from OWNER/NAME@COMMIT
""",
)
@click.argument("benchmark", shell_complete=complete_names("benchmark"))
@_bench_seed
@_bench_set
@data_dir_option
@click.option(
    "--from", "source", metavar="OWNER/NAME@COMMIT", help="Fetch from this repository of the hub, and not the usual."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask before fetching.")
def pull_command(
    benchmark: str,
    bench_seed: int | None,
    bench_set: Sequence[str],
    data_dir: Path | None,
    source: str | None,
    yes: bool,
) -> int:
    """Fetch what BENCHMARK needs. Sizes are told first; what is there already is kept, what was cut goes on.

    Benchmarks that are made on this machine are built instead.
    """
    from salmu_core.benchmark import BuildStep
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.progress import Progress
    from salmu_core.spec.resolve import make_benchmark

    pulled = make_benchmark(benchmark, benchmark_options(bench_set, bench_seed, data_dir), load_plugins())
    if pulled.ready():
        render.out.print(f"Everything that {benchmark} needs is here.", highlight=False)
        return 0
    if source is not None:
        pulled.choose_source(source)
    downloads = pulled.downloads()
    if downloads:
        _announce(downloads)
        _tell_terms(pulled.terms())
        if not yes and render.err.is_terminal and not click.confirm("Fetch?", default=True, err=True):
            return 1
    started = time.monotonic()
    with ProgressDisplay() as display:

        def report(step: BuildStep) -> None:
            display.run_progress(Progress(benchmark, step.stage, step.done, step.total))

        pulled.pull(report)
    render.out.print(
        f"Everything that {benchmark} needs is here, after {render.seconds_text(time.monotonic() - started)}.",
        highlight=False,
    )
    return 0


@data_command.command(
    "check",
    epilog="""\b
Examples:
  salmu data check snapshot
  salmu data check snapshot --no-decode
  salmu data check snapshot --json > findings.json
""",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--layout", "layout_name", help="The layout of DIR. Default: the one that DIR looks like.")
@click.option(
    "--no-decode", is_flag=True, help="Leave out the pictures: seconds instead of minutes, and no duplicates found."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check_command(folder: Path, layout_name: str | None, no_decode: bool, as_json: bool) -> int:
    """Read all that is in DIR as a run would, and tell everything that is wrong with it at once.

    Exit code 1 when something makes it unusable.
    """
    from salmu_core.benchmark import BuildStep
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.errors import BadData
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.progress import Progress

    plugins = load_plugins()
    if not folder.is_dir():
        raise BadData(f"There is no directory '{folder}'.")
    layout = _layout(plugins, layout_name) if layout_name is not None else _recognised(plugins, folder)
    with ProgressDisplay(quiet=as_json) as display:

        def report(step: BuildStep) -> None:
            display.run_progress(Progress(folder.name, step.stage, step.done, step.total))

        findings = layout.check(folder, report, decode=not no_decode)
    counts = {severity: sum(finding.severity == severity for finding in findings) for severity in _MARKS}
    if as_json:
        listed = [vars(finding) for finding in findings]
        render.print_json({"folder": str(folder), "layout": layout.name, "found": counts, "findings": listed})
    else:
        _show(findings)
        render.out.print(
            f"{counts['error']} errors, {counts['warning']} warnings in {folder} (layout {layout.name}).",
            markup=False,
            highlight=False,
        )
    return 1 if counts["error"] else 0


@data_command.command(
    "export",
    epilog="""\b
Examples:
  salmu data export mini snapshot
  salmu data export mini snapshot --bench-set size=tiny --bench-seed 1
""",
)
@click.argument("benchmark", shell_complete=complete_names("benchmark"))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_bench_seed
@_bench_set
@data_dir_option
@click.option("--layout", "layout_name", help="The layout to write. Default: the one that is installed.")
def export_command(
    benchmark: str,
    folder: Path,
    bench_seed: int | None,
    bench_set: Sequence[str],
    data_dir: Path | None,
    layout_name: str | None,
) -> int:
    """Write the data and both models of BENCHMARK to DIR, in a layout that other tools read too.

    DIR must be empty or not there yet. A benchmark that is not built is built first.
    """
    from salmu_core.benchmark import BuildStep
    from salmu_core.cli import render
    from salmu_core.cli.progress import ProgressDisplay
    from salmu_core.files.writing import folder_bytes
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.progress import Progress
    from salmu_core.spec.resolve import make_benchmark

    plugins = load_plugins()
    layout = _layout(plugins, layout_name) if layout_name is not None else _only_layout(plugins)
    source = make_benchmark(benchmark, benchmark_options(bench_set, bench_seed, data_dir), plugins)
    with ProgressDisplay() as display:

        def report(step: BuildStep) -> None:
            display.run_progress(Progress(benchmark, step.stage, step.done, step.total))

        if not source.ready():
            source.build(report)
        written = layout.export(source, folder, report)
    render.out.print(
        f"Wrote {len(written)} files, {render.bytes_text(folder_bytes(folder))}, to {folder}.", markup=False, highlight=False
    )
    return 0


def _tell_terms(terms: Sequence[Terms]) -> None:
    """Under which terms others give out what is to be fetched; what has to be accepted first stands last, nearest to the prompt."""
    from salmu_core.cli import render

    for item in sorted(terms, key=lambda item: item.gated):
        render.err.print(f"Terms of {item.what}: {item.words}", markup=False, highlight=False)
        render.err.print(f"  {item.page}", markup=False, highlight=False, soft_wrap=True)
    if any(item.gated for item in terms):
        render.err.print(
            "Accept the terms on both pages first, with the account of your token (`hf auth login` or HF_TOKEN)."
            if sum(item.gated for item in terms) == 2
            else "Accept the terms on the page first, with the account of your token (`hf auth login` or HF_TOKEN).",
            style="yellow",
            highlight=False,
        )


def _announce(downloads: Sequence[Download]) -> None:
    """What will be fetched, and whether there is room for it."""
    from salmu_core.cli import render
    from salmu_core.errors import OutputError

    rows = [
        (item.what, "size unknown" if item.size is None else render.bytes_text(item.size), item.place) for item in downloads
    ]
    render.err.print(render.make_table(("To fetch", "Size", "Kept in"), rows))
    needed: dict[str, int] = {}
    for item in downloads:
        needed[item.place] = needed.get(item.place, 0) + (item.size or 0)
    for place, size in needed.items():
        existing = next((folder for folder in (Path(place), *Path(place).parents) if folder.exists()), None)
        free = shutil.disk_usage(existing).free if existing is not None else size
        if free < size:
            raise OutputError(
                f"'{place}' has {render.bytes_text(free)} free; {render.bytes_text(size)} are to be fetched.",
                "Free some space, or move the cache (HF_HOME for what comes from the hub).",
            )
        render.err.print(f"{render.bytes_text(free)} are free in {place}.", markup=False, highlight=False)


def _layout(plugins: Plugins, name: str) -> Layout:
    layout: Layout = plugins.get("layout", name).cls()
    return layout


def _only_layout(plugins: Plugins) -> Layout:
    from salmu_core.errors import BadOptions

    if len(plugins.layouts) != 1:
        installed = ", ".join(sorted(plugins.layouts)) or "none"
        raise BadOptions(f"Which layout? Installed are: {installed}.", "Name one with --layout.")
    return _layout(plugins, next(iter(plugins.layouts)))


def _recognised(plugins: Plugins, folder: Path) -> Layout:
    from salmu_core.errors import BadData

    for entry in plugins.layouts.values():
        layout = entry.cls()
        if layout.recognises(folder):
            return layout
    known = ", ".join(sorted(plugins.layouts)) or "none"
    raise BadData(f"'{folder}' looks like none of the installed layouts ({known}).", "Name one with --layout.")


def _show(findings: Sequence[Finding]) -> None:
    from rich.text import Text

    from salmu_core.cli import render

    for finding in findings:
        line = Text(f"{finding.severity}: ", style=_MARKS[finding.severity]).append(finding.message, style="default")
        if finding.hint:
            line.append(f" {finding.hint}", style="dim")
        render.out.print(line, soft_wrap=True)
