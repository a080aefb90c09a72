"""Checking a submission: is it whole, is it about this benchmark, and does what it claims come out again?

Nothing that can be measured here is taken on trust: scores, rows and attacks are measured anew on the submitted weights, cost comes
from the repetition, and it is these that a board shows. Each refusal has one named reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import digest_of
from salmu_core.errors import DamagedFile, SalmuError
from salmu_core.files.seals import json_checksum, read_json
from salmu_core.files.writing import write_sealed_json
from salmu_core.models.dual_encoder import WEIGHTS_FILE, DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins
from salmu_core.records.attacks import AUDITS_FILE, read_attacks
from salmu_core.records.rows import check_rows
from salmu_core.records.schema import Package, RunRecord
from salmu_core.records.store import read_record, write_record
from salmu_core.runner.evaluate import evaluate
from salmu_core.runner.run import Settings
from salmu_core.runner.workers import run_alone
from salmu_core.spec.resolve import make_benchmark, resolve
from salmu_share.board.submission import Submission, SubmittedRun, check_files, read_submission
from salmu_share.board.weights import submitted_model

Reason = Literal[
    "form", "changed", "run", "benchmark", "start", "weights", "scores", "method", "replay", "attacks", "duplicate"
]
#: Every reason for a refusal, in the order of the checks.
REASONS: Mapping[Reason, str] = {
    "form": "submission.json is missing, damaged or of a newer version",
    "changed": "a file was edited, added or removed after the submission was made",
    "run": "a record is no finished run of the submitted method, or does not agree with the rows beside it",
    "benchmark": "this board does not have the benchmark, or has another version or other data",
    "start": "the run began from another model than the benchmark's",
    "weights": "the weights are not those that the record speaks of",
    "scores": "the weights score otherwise than the record says",
    "method": "the method's package is not installed here, or is another version",
    "replay": "running the method again gives another model",
    "attacks": "attacks get more or less back than the submission says",
    "duplicate": "the same run is on the board already",
}
Replayed = Literal["bit for bit", "within tolerance", "not replayed"]
_CHECKED_FILE = "checked.json"


class Refused(Exception):
    """A submission that a board does not take.

    Args:
        reason: one of `REASONS`.
        words: what was found, in a sentence.
    """

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(words)
        self.reason: Reason = reason
        self.words = words


@dataclass(frozen=True)
class CheckedRun:
    """A run that a board shows.

    Args:
        record: as measured here.
        folder: where its rows, exhibits and attacks lie.
    """

    record: RunRecord
    folder: Path
    replayed: Replayed


@dataclass(frozen=True)
class Outcome:
    """What came of a submission: its runs, or why it was refused."""

    folder: Path
    submission: Submission | None
    runs: tuple[CheckedRun, ...] = ()
    reason: Reason | None = None
    words: str = ""


@dataclass(frozen=True)
class Checks:
    """How submissions are checked, and what is loaded once for all of them.

    Args:
        kept: folder for what was measured of runs that hold; the same run is not measured again.
        tolerance: largest difference of a score on the same weights.
        replay_tolerance: largest difference of a score after running the method again, on this machine.
        attack_tolerance: largest difference of a share recovered.
        replay: benchmarks whose runs are run again; None: all. Where some are left out, a method needs a run that was.
        attacks: attack each run with the audits that are cheap.
    """

    plugins: Plugins
    kept: Path
    settings: Settings = field(default_factory=Settings)
    tolerance: float = 1e-3
    replay_tolerance: float = 1e-2
    attack_tolerance: float = 0.1
    replay: tuple[str, ...] | None = None
    attacks: bool = True
    _benchmarks: dict[str, Benchmark] = field(default_factory=dict)

    def benchmark(self, record: RunRecord) -> Benchmark:
        """The benchmark of a record as it is here, built.

        Raises:
            SalmuError: it is not installed, or cannot be built.
        """
        key = f"{record.spec.benchmark} {sorted(record.spec.benchmark_options.items())}"
        if key not in self._benchmarks:
            made = make_benchmark(
                record.spec.benchmark, record.spec.benchmark_options, self.plugins, self.settings.cache_folder
            )
            if not made.ready():
                made.build(None)
            self._benchmarks[key] = made
        return self._benchmarks[key]

    def replays(self, record: RunRecord) -> bool:
        """Is a run on its benchmark run again?"""
        return self.replay is None or record.spec.benchmark in self.replay

    def place(self, run: SubmittedRun, data: str) -> Path:
        """Where what is measured of a run is kept: known by its files, the data, the metrics and these checks."""
        metrics = sorted(f"{entry.name} {entry.package}" for entry in self.plugins.metrics.values())
        how = (self.tolerance, self.replay_tolerance, self.attack_tolerance, self.attacks, run.weights)
        digest = digest_of("board 1", json_checksum(dict(run.files)), data, *metrics, str(how))
        return self.kept / digest


@contextmanager
def _refusing(reason: Reason) -> Iterator[None]:
    """Every error that salmu raises on purpose is a refusal for this reason."""
    try:
        yield
    except SalmuError as error:
        raise Refused(reason, error.message) from error


def check_submission(folder: Path, checks: Checks) -> Outcome:
    """Check one submission; the first thing that is wrong refuses all of it."""
    submission: Submission | None = None
    try:
        with _refusing("form"):
            submission = read_submission(folder)
        with _refusing("changed"):
            check_files(folder, submission)
        runs = tuple(_check_run(folder / run.folder, run, submission, checks) for run in submission.runs)
        if checks.replay is not None and not any(run.replayed != "not replayed" for run in runs):
            where = ", ".join(checks.replay)
            raise Refused("replay", f"It holds no run on {where}, which this board runs again.")
    except Refused as refused:
        return Outcome(folder, submission, (), refused.reason, refused.words)
    return Outcome(folder, submission, runs)


def _check_run(folder: Path, run: SubmittedRun, submission: Submission, checks: Checks) -> CheckedRun:
    with _refusing("run"):
        record = read_record(folder)
        check_rows(record, folder)
    _check_claims(record, submission, folder.name)
    with _refusing("benchmark"):
        benchmark = checks.benchmark(record)
        data = benchmark.fingerprint()
    _check_benchmark(record, benchmark, data, folder.name)
    start = benchmark.load_model(record.spec.start)
    if start.fingerprint() != record.provenance.start_fingerprint:
        raise Refused("start", f"{folder.name}: the run began from weights that are not the {record.spec.start} model's.")
    place = checks.place(run, data)
    done = _kept(place)
    if done is not None and (done.replayed != "not replayed" or not checks.replays(record)):
        return done
    with _refusing("weights"):
        model = submitted_model(folder, run, start)
    if model.fingerprint() != record.provenance.model_fingerprint:
        raise Refused("weights", f"{folder.name}: the weights are not those that the record names by their fingerprint.")
    with _refusing("scores"):
        measured = _measured(model, record, checks, place)
    _check_scores(record, measured, checks.tolerance, f"{folder.name}: the record says", "scores")
    shown, replayed = _replayed(record, measured, submission, checks, folder.name)
    shown = shown.model_copy(update={"rows_file": measured.rows_file, "files": (), "model_file": WEIGHTS_FILE})
    write_record(place, shown)
    if checks.attacks:
        _check_attacks(record, folder, shown, place, model, benchmark, checks)
    write_sealed_json(place / _CHECKED_FILE, {"replayed": replayed})
    return CheckedRun(shown, place, replayed)


def _check_claims(record: RunRecord, submission: Submission, name: str) -> None:
    if record.kind != "run" or record.status != "ok" or record.spec.method == "none":
        raise Refused("run", f"{name}: a {record.kind} that is {record.status}, and not a run of a method that ended well.")
    if record.spec.method != submission.method or record.provenance.method_package != submission.package:
        of = _named(record.provenance.method_package)
        raise Refused("run", f"{name}: a run of {record.spec.method} of {of}, and not of the submission.")


def _named(package: Package | None) -> str:
    return "an unknown package" if package is None else f"{package.name} {package.version}"


def _check_benchmark(record: RunRecord, benchmark: Benchmark, data: str, name: str) -> None:
    version = record.provenance.benchmark_version
    if version != benchmark.version:
        raise Refused("benchmark", f"{name}: made on {benchmark.name} {version}, and this board has {benchmark.version}.")
    if record.provenance.data_fingerprint != data:
        raise Refused("benchmark", f"{name}: made on other data than that of {benchmark.name} {version} here.")


def _kept(place: Path) -> CheckedRun | None:
    """What an earlier check of the same run left."""
    with suppress(SalmuError, DamagedFile, OSError, KeyError):
        return CheckedRun(read_record(place), place, read_json(place / _CHECKED_FILE)["replayed"])
    return None


def _measured(model: DualEncoder, record: RunRecord, checks: Checks, out: Path | None) -> RunRecord:
    """The scores of a model, measured by this process."""
    spec = record.spec
    return evaluate(
        model,
        benchmark=spec.benchmark,
        benchmark_options=spec.benchmark_options,
        precision=spec.precision,
        protocol=spec.protocol,
        out=out,
        settings=checks.settings,
        plugins=checks.plugins,
    )


def _check_scores(
    claimed: RunRecord, measured: RunRecord, tolerance: float, words: str, reason: Literal["scores", "replay"]
) -> None:
    for name, score in measured.scores.items():
        if name not in claimed.scores:
            raise Refused(reason, f"{words} nothing of {name}, which is {score.value:.4f} here.")
        said = claimed.scores[name].value
        if abs(said - score.value) > tolerance:
            raise Refused(reason, f"{words} {name} {said:.4f}, and it is {score.value:.4f} here.")


def _replayed(
    record: RunRecord, measured: RunRecord, submission: Submission, checks: Checks, name: str
) -> tuple[RunRecord, Replayed]:
    """The record as a board shows it: of the repetition where there is one, with the scores of the submitted weights.

    Raises:
        Refused: the method is not here, or gives another model.
    """
    update = {"scores": measured.scores, "skipped": measured.skipped, "broken": measured.broken}
    if not checks.replays(record):
        return record.model_copy(update=update), "not replayed"
    with _refusing("method"):
        entry = checks.plugins.get("method", record.spec.method)
        resolved = resolve(record.spec, checks.plugins, checks.settings.cache_folder, checks.benchmark(record))
    former = entry.package.model_copy(update={"name": entry.cls.former_package})  # a method that moved is the same method
    if submission.package not in (entry.package, former):
        raise Refused(
            "method", f"{name}: made with {_named(submission.package)}, and {_named(entry.package)} is installed here."
        )
    if resolved.options != record.options:
        raise Refused("replay", f"{name}: the options in the record are not those that its method takes from its spec.")
    settings = replace(checks.settings, isolate="third-party", overwrite=True)
    with tempfile.TemporaryDirectory() as scratch, _refusing("replay"):
        again = run_alone(resolved, Path(scratch) / "run", settings, checks.plugins)
        if again.status != "ok":
            raise Refused("replay", f"{name}: run again, it {again.status}: {(again.error or '').splitlines()[0]}")
        # The repetition's weights are read and measured here: its own process has seen the method's code.
        model = load_model(Path(scratch) / "run")
        same = model.fingerprint() == record.provenance.model_fingerprint
        if not same:
            found = _measured(model, record, checks, None)
            _check_scores(record, found, checks.replay_tolerance, f"{name}: the record says", "replay")
    if again.cost.samples != record.cost.samples:
        raise Refused("replay", f"{name}: the record says {record.cost.samples} samples, and it takes {again.cost.samples}.")
    provenance = again.provenance.model_copy(update={"model_fingerprint": record.provenance.model_fingerprint})
    return again.model_copy(update={**update, "provenance": provenance}), "bit for bit" if same else "within tolerance"


def _check_attacks(
    claimed: RunRecord,
    folder: Path,
    shown: RunRecord,
    place: Path,
    model: DualEncoder,
    benchmark: Benchmark,
    checks: Checks,
) -> None:
    """Attack the weights here, and compare with what the submission says that attacks get."""
    model.save(place)
    try:
        checks.plugins.ask(
            "attack_runs",
            runs=[(benchmark, place, shown.spec.method)],
            audits="fast",
            settings=checks.settings,
            plugins=checks.plugins,
        )
    finally:
        (place / WEIGHTS_FILE).unlink(missing_ok=True)
    said = read_attacks(claimed, folder)
    if said.problem:
        raise Refused("attacks", f"{folder.name}: {AUDITS_FILE} cannot be used: it is damaged or about another model.")
    for own in read_attacks(shown, place).results:
        for other in said.results:
            if not own.same_attack(other) or own.version != other.version or own.recovered is None:
                continue
            if other.recovered is None or abs(own.recovered - other.recovered) > checks.attack_tolerance:
                claim = "nothing" if other.recovered is None else f"{other.recovered:.0%}"
                raise Refused(
                    "attacks", f"{folder.name}: {own.audit} recovers {own.recovered:.0%} here, and {claim} is claimed."
                )
