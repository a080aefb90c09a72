"""A comparison as jobs: every missing run is one job of a Slurm cluster, or of this machine, through submitit.

Jobs need nobody who watches them: they are resumed from their checkpoints when Slurm preempts or times them out, and what
was submitted stands in `jobs/jobs.json`, so the same command again attaches to jobs that are still there and submits only
what is missing.
"""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from salmu_core.benchmark import BuildStep
from salmu_core.data.processes import process_count
from salmu_core.errors import BadOptions, SalmuError
from salmu_core.files.writing import check_writable, write_json
from salmu_core.hookspecs import hookimpl
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.records.store import RECORD_FILE, read_record
from salmu_core.runner.accelerate_setup import leave_process_group
from salmu_core.runner.compare import compared
from salmu_core.runner.jobs import DeadJob, Launched
from salmu_core.runner.planned import ComparisonResult, PlannedRun
from salmu_core.runner.progress import Progress
from salmu_core.runner.run import Settings, claim_folder, run_resolved
from salmu_core.spec.resolve import resolve
from salmu_core.spec.study import StudyLauncher
from salmu_slurm.local_jobs import LocalJobs, meet, meeting_place

JOBS_FOLDER = "jobs"
JOBS_FILE = "jobs.json"
MINUTES_ON_SLURM = 240
RESTARTS_AFTER_TIMEOUT = 20
_POLL_SECONDS = {"slurm": 30.0, "local": 0.5}


@dataclass(frozen=True)
class RunJob:
    """One run, as the job that does it. Pickled by submitit; holds only what describes the run.

    Args:
        meeting: the file in which the processes of a job of this machine meet; None: at the port that submitit draws.
    """

    spec: RunSpec
    folder: Path
    settings: Settings
    meeting: Path | None = None

    def __call__(self) -> None:
        """Do the run, together with the job's other processes when it has several."""
        import submitit

        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            _join_processes(environment, self.meeting)
        plugins = load_plugins()
        plugins.watch(_LogLines())
        try:
            run_resolved(resolve(self.spec, plugins, self.settings.cache_folder), self.folder, self.settings, plugins)
        finally:
            leave_process_group()

    def checkpoint(self) -> Any:
        """Called by submitit when Slurm is about to take the node: the same job again, which goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self, meeting=self.meeting and meeting_place(self.meeting.parent)))


@dataclass(frozen=True)
class _Job:
    """A submitted job as the book keeps it."""

    kind: Literal["slurm", "local"]
    job: str
    slot: int


def launch_planned(
    planned: Sequence[PlannedRun],
    out: str | Path,
    settings: Settings,
    plugins: Plugins,
    launcher: StudyLauncher,
    *,
    wait: bool = True,
) -> Launched:
    """Submit a job for every run that is not done and has none yet, wait for them all, compare.

    The benchmark is built here, once, before the first job is submitted.

    Args:
        wait: False: come back when all is submitted; the same call again attaches to the jobs.

    Raises:
        BadOptions: a launcher option that submitit does not know.
        SalmuError: Slurm is not here.
    """
    submit = _Submitter(launcher, Path(out).absolute() / JOBS_FOLDER, settings)
    if process_count() > 1:
        raise SalmuError(
            "A launcher starts the processes of its jobs itself.", "Run this command without accelerate launch."
        )
    if not wait and launcher.kind == "local":
        raise BadOptions("--no-wait needs a cluster: jobs of this machine are started one after another by this command.")
    check_writable(Path(out), needed_bytes=64_000_000)
    _build_once(planned, plugins)
    book = _Book(submit.folder / JOBS_FILE)
    alive = submit.alive(book.jobs)
    running = {item.folder.name: item for item in planned if item.folder.name in alive}
    if running and settings.overwrite:
        first = next(iter(running))
        raise SalmuError(
            f"{len(running)} of these runs have a job that is queued or running, {first} the job {book.jobs[first].job}.",
            "Wait for them or cancel them, or leave --overwrite out.",
        )
    missing = [
        item for item in planned if item.folder.name not in running and (settings.overwrite or _finished(item) is None)
    ]
    for item in missing:
        claim_folder(item.resolved, item.folder.absolute(), settings)
        (item.folder / RECORD_FILE).unlink(missing_ok=True)  # of a run that failed
    dead: list[DeadJob] = []
    while missing or running:
        free = submit.free_slots([book.jobs[name].slot for name in running])
        batch = missing if free is None else missing[: len(free)]
        missing = missing[len(batch) :]
        if batch:
            for item, job in zip(batch, submit(batch, free), strict=True):
                book.note(item, job)
                running[item.folder.name] = item
        if not wait:
            return Launched(None, waiting=[item.resolved.title for item in running.values()])
        time.sleep(_POLL_SECONDS[launcher.kind])
        alive = submit.alive(book.jobs)
        for name, item in list(running.items()):
            record = _record(item)
            # A scheduler gives the place away itself; here it is free once the process is gone.
            if name in alive and (record is None or launcher.kind == "local"):
                continue
            record = record or _record_after_a_moment(item)
            if record is not None:
                plugins.tell("run_finished", record=record)
            else:
                dead.append(DeadJob(item.resolved.title, book.jobs[name].job, submit.log(book.jobs[name])))
                book.forget(item)
            del running[name]
    return Launched(_compare(planned, Path(out)), dead)


def _compare(planned: Sequence[PlannedRun], out: Path) -> ComparisonResult | None:
    found = [(item, _record(item)) for item in planned]
    kept = [(item, record) for item, record in found if record is not None]
    if any(record is None and item.resolved.spec.method == "none" for item, record in found):
        return None
    return compared([record for _, record in kept], [item.folder for item, _ in kept], out)


def _record(item: PlannedRun) -> RunRecord | None:
    """The record that a job left, whatever its status."""
    if not (item.folder / RECORD_FILE).is_file():
        return None
    record = read_record(item.folder)
    return record if item.resolved.made(record) else None


def _record_after_a_moment(item: PlannedRun) -> RunRecord | None:
    """A job's last file may be seen after its end: on a network disk by a few seconds."""
    for pause in (0.2, 1.0, 3.0):
        time.sleep(pause)
        if (record := _record(item)) is not None:
            return record
    return None


def _finished(item: PlannedRun) -> RunRecord | None:
    record = _record(item)
    return record if record is not None and record.status != "failed" else None


def _build_once(planned: Sequence[PlannedRun], plugins: Plugins) -> None:
    def report(step: BuildStep) -> None:
        plugins.tell("run_progress", event=Progress("benchmark", step.stage, step.done, step.total, {}))

    for benchmark in {id(item.resolved.benchmark): item.resolved.benchmark for item in planned}.values():
        if not benchmark.ready():
            benchmark.build(report)


class _Book:
    """Which job does which run, on disk, so that a later command knows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs: dict[str, _Job] = {}
        if path.is_file():
            try:
                self.jobs = {name: _Job(**job) for name, job in json.loads(path.read_text()).items()}
            except (json.JSONDecodeError, TypeError, AttributeError) as error:
                raise SalmuError(
                    f"'{path}' is damaged: {error}.", "Delete it once no job of this comparison is queued or running."
                ) from error

    def note(self, item: PlannedRun, job: _Job) -> None:
        self.jobs[item.folder.name] = job
        self._write()

    def forget(self, item: PlannedRun) -> None:
        if self.jobs.pop(item.folder.name, None) is not None:
            self._write()

    def _write(self) -> None:
        write_json(self.path, {name: asdict(job) for name, job in self.jobs.items()})


class _Submitter:
    """submitit behind three questions: submit these, which are alive, where is the log."""

    def __init__(self, launcher: StudyLauncher, folder: Path, settings: Settings) -> None:
        import submitit

        self.kind = launcher.kind
        self.folder = folder
        self._local = LocalJobs()
        self._submitit = submitit
        # A job that starts again must go on where it stopped; and it must find the cache wherever it runs.
        self._settings = replace(settings, overwrite=False, cache=settings.cache_folder.absolute())
        options = dict(launcher.options)
        self._parallel = _whole_number(options.pop("parallel", 1), "parallel") if self.kind == "local" else None
        with _refusals(self.kind):
            self._executor, self._gpus = self._make(options)

    def _make(self, options: dict[str, Any]) -> tuple[Any, int]:
        if self.kind == "slurm":
            given = {"slurm_max_num_timeout": RESTARTS_AFTER_TIMEOUT}
            given |= {name: options.pop(name) for name in ("slurm_max_num_timeout", "slurm_python") if name in options}
            executor = self._submitit.AutoExecutor(self.folder, cluster="slurm", **given)
            executor.update_parameters(**{"name": "salmu", "timeout_min": MINUTES_ON_SLURM, **options})
            return executor, 0
        import torch

        gpus = 0 if self._settings.cpu or not torch.cuda.is_available() else 1
        options = {"timeout_min": 60 * 24 * 30, "gpus_per_node": gpus, **options}
        self._submitit.AutoExecutor(self.folder, cluster="local").update_parameters(**options)  # knows all names
        executor = self._submitit.LocalExecutor(self.folder)
        executor.update_parameters(**{name.removeprefix("local_"): value for name, value in options.items()})
        return executor, int(options["gpus_per_node"])

    def free_slots(self, taken: Sequence[int]) -> list[int] | None:
        """Places for further jobs on this machine; None where a scheduler decides."""
        return None if self._parallel is None else [slot for slot in range(self._parallel) if slot not in taken]

    def __call__(self, batch: Sequence[PlannedRun], slots: Sequence[int] | None) -> list[_Job]:
        """Submit a job for each; on Slurm as one array."""
        jobs = [
            RunJob(
                item.resolved.spec,
                item.folder.absolute(),
                self._settings,
                meeting=None if slots is None else meeting_place(self.folder),
            )
            for item in batch
        ]
        if slots is None:
            with _refusals(self.kind):
                with self._executor.batch():
                    submitted = [self._executor.submit(job) for job in jobs]
                return [_Job("slurm", str(job.job_id), 0) for job in submitted]
        started = []
        for job, slot in zip(jobs, slots, strict=False):
            if self._gpus:
                self._executor.update_parameters(visible_gpus=range(slot * self._gpus, (slot + 1) * self._gpus))
            started.append(_Job("local", str(self._executor.submit(job).job_id), slot))
        return started

    def alive(self, jobs: Mapping[str, _Job]) -> set[str]:
        """Names of those that are queued or running."""
        queued = _slurm_queue() if any(job.kind == "slurm" for job in jobs.values()) else set()
        return {
            name
            for name, job in jobs.items()
            if (job.job in queued if job.kind == "slurm" else self._local.alive(int(job.job)))
        }

    def log(self, job: _Job) -> Path:
        """The file with what the job's first process wrote to standard error."""
        return self.folder / f"{job.job}_0_log.err"


def _slurm_queue() -> set[str]:
    """Ids of this user's queued and running jobs, array tasks one by one."""
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format", "%i"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        problem = getattr(error, "stderr", None) or error
        raise SalmuError(
            f"Slurm's queue cannot be read: {str(problem).strip()}",
            "The jobs go on. Run the same command again to wait for them and to compare.",
        ) from error
    return set(listed.stdout.split())


@contextmanager
def _refusals(kind: str) -> Iterator[None]:
    """submitit's and Slurm's own refusals as errors for a person."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        yield
    except (NameError, AssertionError, ValueError, TypeError) as error:
        raise BadOptions(f"The launcher does not take these options: {error}", "Check --launcher-set.") from error
    except (FailedJobError, FailedSubmissionError) as error:
        raise SalmuError(f"Slurm refused the jobs: {error}", "Check --launcher-set, e.g. slurm_partition.") from error
    except RuntimeError as error:
        raise SalmuError(
            f"There is no {kind} here: {error}", "Run this where sbatch and srun work, or use --launcher local."
        ) from error


def _whole_number(value: Any, name: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise BadOptions(f"The launcher's option {name} takes a whole number from 1 on, got '{value}'.")
    return value


def _join_processes(environment: Any, meeting: Path | None) -> None:
    """Tell torch and Accelerate which of the job's processes this is."""
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    if environment.num_nodes == 1:
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a machine's own name does not lead to it everywhere
    if meeting is not None:
        meet(meeting, environment.global_rank, environment.num_tasks)


class _LogLines:
    """A line per stage in the job's log."""

    def __init__(self) -> None:
        self._stage = ""

    @hookimpl
    def run_progress(self, event: Progress) -> None:
        """A stage moves."""
        stage = f"{event.run}: {event.stage}"
        if stage != self._stage and event.stage != "log":
            self._stage = stage
            print(stage, file=sys.stderr, flush=True)
