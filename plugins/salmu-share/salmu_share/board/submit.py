"""`submit`: finished runs of one method as a folder for a pull request to a results repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from pydantic import ValidationError

from salmu_core.benchmark import Benchmark
from salmu_core.comparison.compare import compare_records
from salmu_core.comparison.leaderboard import Comparison
from salmu_core.errors import BadOptions, BadRecord, OutputError, SalmuError
from salmu_core.files.seals import file_checksum, sealed_json
from salmu_core.files.writing import default_cache, write_text
from salmu_core.models.dual_encoder import WEIGHTS_FILE
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.plugins.own_packages import is_own
from salmu_core.records.attacks import AUDITS_FILE, read_attacks
from salmu_core.records.redact import public_record
from salmu_core.records.references import find_references
from salmu_core.records.rows import check_rows
from salmu_core.records.schema import Package, RunRecord
from salmu_core.records.store import RECORD_FILE, read_record
from salmu_core.spec.resolve import make_benchmark
from salmu_share.board.submission import CARD_FILE, DELTA_FILE, HUB, SUBMISSION_FILE, Submission, SubmittedRun
from salmu_share.board.weights import changed_tensors, write_delta
from salmu_share.published import attacks_json, weights_of

#: GitHub refuses larger files.
LARGEST_FILE = 100_000_000


@dataclass(frozen=True)
class Submitted:
    """What `submit` made.

    Args:
        folder: the submission.
        sizes: bytes of each file, by its path from there.
    """

    folder: Path
    submission: Submission
    sizes: dict[str, int]


def submit(
    runs: Sequence[str | Path],
    out: str | Path = "submissions",
    *,
    requirement: str | None = None,
    authors: str = "",
    weights: str = "delta",
    overwrite: bool = False,
    plugins: Plugins | None = None,
) -> Submitted:
    """Make a submission of finished runs of one method.

    Args:
        runs: run directories; seeds, instances and budgets belong together.
        out: folder of submissions, where a folder named after the method is made.
        requirement: what installs the method, as pip takes it; default: NAME==VERSION of its package, and nothing where it is one of
            salmu's own.
        authors: who submits it; shown on the board.
        weights: `delta` (tensors that differ from the starting model), `whole`, or hf-hub:OWNER/NAME@COMMIT of the only run, where
            `salmu push` published it.
        overwrite: replace a submission of these runs that is there.

    Raises:
        BadRecord: no run directory, a run that did not end well, or runs of different methods.
        BadCheckpoint: weights are not those that a record's scores were measured on.
        BadOptions: `requirement` or `weights` is not usable.
        OutputError: the folder is taken, or a file is too large for a repository.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        raise BadRecord("There is nothing to submit.", "Give the directories that `salmu run` or `salmu compare` wrote.")
    if weights.startswith(HUB) and len(folders) > 1:
        raise BadOptions("--weights names one model, and there are several runs.", "Submit each of these runs on its own.")
    records = [_usable(folder) for folder in folders]
    package = _package(records)
    plugins = plugins or load_plugins()
    method = records[0].spec.method
    digest = "-".join([method, min(record.id for record in records)[:8]])
    target = Path(out) / digest
    if target.exists() and not overwrite:
        raise OutputError(f"'{target}' is there already.", "--overwrite makes it again.")
    scratch = target.with_name(f".{target.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        benchmarks: dict[str, Benchmark] = {}
        made = [
            _add_run(folder, record, scratch / _run_folder(record), weights, benchmarks, plugins)
            for folder, record in zip(folders, records, strict=True)
        ]
        try:
            submission = Submission(
                method=method,
                package=package,
                requirement=_requirement(package) if requirement is None else requirement,
                authors=authors,
                salmu=records[0].provenance.packages.get("salmu", ""),
                runs=tuple(made),
            )
        except ValueError as error:
            raise BadOptions(_first_words(error), "See `salmu submit --help`.") from None
        write_text(scratch / CARD_FILE, _card(submission, folders, records))
        submission.write(scratch)
        sizes = {
            path.relative_to(scratch).as_posix(): path.stat().st_size
            for path in sorted(scratch.rglob("*"))
            if path.is_file()
        }
        large = [name for name, size in sizes.items() if size > LARGEST_FILE]
        if large:
            raise OutputError(
                f"{large[0]} has {sizes[large[0]] / 1e6:.0f} MB; a GitHub repository takes at most {LARGEST_FILE / 1e6:.0f}.",
                "Publish the model with `salmu push`, and submit each run with --weights hf-hub:OWNER/NAME@COMMIT.",
            )
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Submitted(target, submission, sizes)


def _usable(folder: Path) -> RunRecord:
    if not folder.is_dir():
        raise BadRecord(f"'{folder}' is not a run directory.", "Give the folder that `salmu run` wrote.")
    record = read_record(folder)
    check_rows(record, folder)
    if record.rows_file is None or not (folder / record.rows_file).is_file():
        raise BadRecord(f"'{folder}' holds no per-row scores, which a board compares by.", "Run it again: --overwrite.")
    return record


def _package(records: Sequence[RunRecord]) -> Package:
    found = {(record.spec.method, record.provenance.method_package) for record in records}
    if len(found) > 1:
        names = ", ".join(sorted(f"{method} of {package.name if package else 'no package'}" for method, package in found))
        raise BadRecord(
            f"A submission is of one method, and these runs are of {len(found)}: {names}.", "Submit each on its own."
        )
    _, package = found.pop()
    if package is None:
        raise BadRecord(
            "The runs do not say which package their method is of.", "Run them again with this version of salmu."
        )
    return package


def _requirement(package: Package) -> str:
    return "" if is_own(package.name) else f"{package.name}=={package.version}"


def _run_folder(record: RunRecord) -> str:
    seed = record.spec.benchmark_options.get("seed", record.provenance.benchmark_identity.get("seed"))
    instance = "" if seed is None else f"-i{seed}"
    return f"{record.spec.benchmark}{instance}-b{record.spec.budget:g}-s{record.spec.seed}-{record.id[:8]}"


def _add_run(
    folder: Path, record: RunRecord, target: Path, weights: str, benchmarks: dict[str, Benchmark], plugins: Plugins
) -> SubmittedRun:
    """Write a run's folder of the submission."""
    held = weights_of(record, folder)
    target.mkdir()
    kept = {"rows_file": record.rows_file, "files": ()}
    public = public_record(record).model_copy(update=kept)
    write_text(
        target / RECORD_FILE, json.dumps(sealed_json(public.model_dump(mode="json")), indent=2, ensure_ascii=False) + "\n"
    )
    assert record.rows_file is not None
    shutil.copyfile(folder / record.rows_file, target / record.rows_file)
    attacked = read_attacks(record, folder)
    if attacked.results:
        (target / AUDITS_FILE).write_bytes(attacks_json(record, attacked))
    if weights == "delta":
        changed = changed_tensors(load_model(folder), _benchmark(record, benchmarks, plugins).load_model(record.spec.start))
        write_delta(target, changed)
    elif weights == "whole":
        shutil.copyfile(held, target / WEIGHTS_FILE)
    files = {path.name: file_checksum(path) for path in sorted(target.iterdir())}
    try:
        return SubmittedRun(folder=target.name, weights=weights, files=files)
    except ValueError as error:
        raise BadOptions(_first_words(error), "See `salmu submit --help`.") from None


def _benchmark(record: RunRecord, benchmarks: dict[str, Benchmark], plugins: Plugins) -> Benchmark:
    """The benchmark of a run, built where it is on this machine."""
    key = f"{record.spec.benchmark} {record.spec.benchmark_options}"
    if key not in benchmarks:
        made = make_benchmark(record.spec.benchmark, record.spec.benchmark_options, plugins, default_cache())
        if not made.ready():
            raise SalmuError(
                f"The starting model of {key} is not on this machine, so what the run changed cannot be told.",
                "--weights whole needs no starting model.",
            )
        benchmarks[key] = made
    return benchmarks[key]


def _first_words(error: ValueError) -> str:
    """The first problem that pydantic found, as a sentence."""
    words = str(error.errors()[0]["msg"]).removeprefix("Value error, ") if isinstance(error, ValidationError) else str(error)
    return f"{words.rstrip('.')}."


def _card(submission: Submission, folders: Sequence[Path], records: Sequence[RunRecord]) -> str:
    """README.md: what was run, how it scored here, and how a board checks it."""
    comparison = _compared(folders, records)
    rows = [] if comparison is None else [row for row in comparison.rows if row.kind == "run"]
    return _template().render(
        submission=submission,
        first=records[0],
        runs=list(zip(submission.runs, records, strict=True)),
        rows=rows,
        files={"submission": SUBMISSION_FILE, "delta": DELTA_FILE},
    )


def _compared(folders: Sequence[Path], records: Sequence[RunRecord]) -> Comparison | None:
    """The runs beside the references that lie beside them; None where they cannot be compared in one table."""
    references = {
        item.id: item for folder, record in zip(folders, records, strict=True) for item in find_references(record, folder)
    }
    try:
        return compare_records([*references.values(), *records], [*[None] * len(references), *folders])
    except SalmuError:
        return None


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("salmu_share.board"), trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    return environment.get_template("submission.md.j2")
