"""Comparisons as jobs: of this machine end to end, and what Slurm would get."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from salmu_core.cli.main import cli
from salmu_core.errors import BadOptions, SalmuError
from salmu_core.records.store import read_record
from salmu_core.runner.planned import plan_comparison
from salmu_core.runner.run import Settings
from salmu_core.spec.study import StudyLauncher as Launcher
from salmu_slurm.launch import RunJob, launch_planned
from salmu_slurm.local_jobs import LocalJobs
from toy_methods import toy_plugins

#: Stands for Slurm: sbatch keeps what it is given and numbers jobs, squeue lists those that were not taken off.
FAKE_SLURM = {
    "srun": "",
    "scontrol": "",
    "sbatch": """
        cp "$1" "$SLURM_FAKE/script-$(date +%s%N).sh"
        if grep -q -- --array "$1"; then job=41; printf '41_%d\\n' 0 1 2 3; else job=42; echo 42; fi >> "$SLURM_FAKE/queue"
        echo "Submitted batch job $job"
    """,
    "squeue": 'echo "$@" > "$SLURM_FAKE/asked"; cat "$SLURM_FAKE/queue" 2>/dev/null || true',
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A folder that Slurm's fake commands work in."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, body in FAKE_SLURM.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_FAKE", str(folder))
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(cache=tmp_path / "cache", cpu=True, micro_batch=6)


def _planned(tmp_path, settings, plugins, methods=("ascent", "weight-edit"), **more):
    return plan_comparison(methods, benchmark="toy", out=tmp_path / "out", settings=settings, plugins=plugins, **more)


def test_slurm_is_given_one_array_with_the_resources_asked_for(tmp_path, settings, slurm):
    plugins = toy_plugins()
    planned = _planned(tmp_path, settings, plugins)
    asked = {
        "timeout_min": 90, "gpus_per_node": 4, "tasks_per_node": 4, "nodes": 2, "slurm_partition": "gpu",
        "slurm_array_parallelism": 3, "slurm_account": "vision",
    }  # fmt: skip
    launched = launch_planned(planned, tmp_path / "out", settings, plugins, Launcher("slurm", asked), wait=False)
    assert launched.result is None
    assert len(launched.waiting) == 4  # Clean, Compromised and two methods
    (script,) = slurm.glob("script-*.sh")
    lines = script.read_text().splitlines()
    for line in (
        "#SBATCH --array=0-3%3", "#SBATCH --time=90", "#SBATCH --gpus-per-node=4", "#SBATCH --ntasks-per-node=4",
        "#SBATCH --nodes=2", "#SBATCH --partition=gpu", "#SBATCH --account=vision", "#SBATCH --job-name=salmu",
        "#SBATCH --open-mode=append", "#SBATCH --signal=USR2@90",
    ):  # fmt: skip
        assert line in lines, line
    command = lines[-1]
    assert command.startswith("srun ")
    assert f"{sys.executable} -u -m submitit.core._submit {tmp_path / 'out' / 'jobs'}" in command
    jobs = json.loads((tmp_path / "out" / "jobs" / "jobs.json").read_text())
    assert sorted(job["job"] for job in jobs.values()) == ["41_0", "41_1", "41_2", "41_3"]


def test_the_same_command_attaches_to_jobs_that_are_still_queued_and_submits_the_rest(tmp_path, settings, slurm):
    plugins = toy_plugins()
    arguments = (tmp_path / "out", settings, plugins, Launcher("slurm"))
    planned = _planned(tmp_path, settings, plugins)
    launch_planned(planned, *arguments, wait=False)
    launch_planned(planned, *arguments, wait=False)
    assert len(list(slurm.glob("script-*.sh"))) == 1
    assert "--array" in (slurm / "asked").read_text()
    (slurm / "queue").write_text("41_0\n41_1\n41_3\n")  # the third job died
    launch_planned(planned, *arguments, wait=False)
    _, second = sorted(slurm.glob("script-*.sh"))
    assert "#SBATCH --array" not in second.read_text()
    again = Settings(cache=settings.cache, cpu=True, overwrite=True)
    with pytest.raises(SalmuError, match="4 of these runs have a job that is queued or running"):
        launch_planned(planned, tmp_path / "out", again, plugins, Launcher("slurm"), wait=False)


def test_a_job_that_died_is_named_with_its_log_and_the_others_are_compared(tmp_path, settings, slurm, monkeypatch):
    from salmu_slurm import launch

    monkeypatch.setattr(launch, "_POLL_SECONDS", {"slurm": 0.0})
    monkeypatch.setattr(launch, "_record_after_a_moment", launch._record)
    plugins = toy_plugins()
    planned = _planned(tmp_path, settings, plugins)

    def work_of_the_cluster(user):
        """Three jobs do their runs, one is killed; then the queue is empty."""
        for item in planned:
            if item.resolved.spec.method != "ascent":
                launch.run_resolved(item.resolved, item.folder, settings, plugins)
        return set()

    monkeypatch.setattr(launch, "_slurm_queue", lambda: work_of_the_cluster("me"))
    launched = launch_planned(planned, tmp_path / "out", settings, plugins, Launcher("slurm"))
    (dead,) = launched.dead
    assert (dead.run, dead.job) == ("ascent seed 0", "41_2")
    assert dead.log == tmp_path / "out" / "jobs" / "41_2_0_log.err"
    assert [row.title for row in launched.result.comparison.rows] == ["Clean", "Compromised", "weight-edit"]


def test_a_preempted_job_is_submitted_again_as_it_was(tmp_path, settings):
    planned = _planned(tmp_path, settings, toy_plugins())[-1]
    job = RunJob(planned.resolved.spec, planned.folder, settings)
    again = job.checkpoint()
    assert again.function == job
    assert not again.args


def test_processes_of_a_job_that_starts_again_do_not_meet_where_they_met_before(tmp_path, settings):
    planned = _planned(tmp_path, settings, toy_plugins())[-1]
    job = RunJob(planned.resolved.spec, planned.folder, settings, meeting=tmp_path / "meet-before")
    again = job.checkpoint().function
    assert again.meeting.parent == tmp_path
    assert again.meeting != job.meeting
    assert replace(again, meeting=job.meeting) == job


def _wait_until(found):
    until = time.monotonic() + 60
    while not found():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_job_whose_process_waits_for_one_that_died_is_ended():
    # A shell stands for submitit's watcher: of its two processes one dies early.
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 2 & wait", "submitit.local._local"])
    jobs = LocalJobs(seconds=0.5)
    try:
        _wait_until(lambda: jobs.alive(shell.pid))  # the name of a process that has just begun may not be there yet
        _wait_until(lambda: not jobs.alive(shell.pid))
        assert not psutil.pid_exists(shell.pid)
    finally:
        shell.kill()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slurm_partitoin": "gpu"}, "slurm_partitoin"),
        ({"gpus": 1}, "gpus"),
        ({"timeout_min": "long"}, "timeout_min"),
    ],
)
def test_options_that_submitit_does_not_know_are_refused(tmp_path, settings, slurm, options, words):
    plugins = toy_plugins()
    with pytest.raises(BadOptions, match=words):
        launch_planned(
            _planned(tmp_path, settings, plugins), tmp_path / "out", settings, plugins, Launcher("slurm", options)
        )


def test_without_slurm_or_with_jobs_that_nobody_would_start_it_says_so(tmp_path, settings, monkeypatch):
    plugins = toy_plugins()
    planned = _planned(tmp_path, settings, plugins)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SalmuError, match="no slurm here"):
        launch_planned(planned, tmp_path / "out", settings, plugins, Launcher("slurm"))
    with pytest.raises(BadOptions, match="--no-wait needs a cluster"):
        launch_planned(planned, tmp_path / "out", settings, plugins, Launcher("local"), wait=False)
    with pytest.raises(BadOptions, match="parallel takes a whole number"):
        launch_planned(planned, tmp_path / "out", settings, plugins, Launcher("local", {"parallel": 0}))


def test_jobs_of_this_machine_end_to_end_with_two_processes_each(tmp_path, monkeypatch):
    pytest.importorskip("salmu_gradient_ascent")
    pytest.importorskip("salmu_metrics")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    taken = socket.create_server(("127.0.0.1", 0))  # a port that another program has is no hindrance
    monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
    out = tmp_path / "out"
    here = ["compare", "--benchmark", "toy", "--cpu", "--out", str(out), "--audits", "none", "--json"]
    # The two reference rows are done by this process, so that one job is left.
    CliRunner().invoke(cli, [*here, "none", "--workers", "1"], catch_exceptions=False, standalone_mode=False)
    command = [
        *here, "gradient-ascent-retain", "--micro-batch", "3", "--set", "gradient-ascent-retain.batch_size=12",
        "--launcher", "local", "--launcher-set", "tasks_per_node=2",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, command, catch_exceptions=False, standalone_mode=False)
    assert done.return_value == 0, done.stderr
    assert [row["title"] for row in json.loads(done.stdout)["rows"]] == ["Clean", "Compromised", "gradient-ascent-retain"]
    (folder,) = (out / "runs").glob("gradient-ascent-retain-*")
    record = read_record(folder)
    assert record.provenance.processes == 2
    assert record.provenance.execution == {"micro_batch": 3}
    assert len(list((out / "jobs").glob("*_submitted.pkl"))) == 1
    again = CliRunner().invoke(cli, command, catch_exceptions=False, standalone_mode=False)
    assert again.return_value == 0
    assert len(list((out / "jobs").glob("*_submitted.pkl"))) == 1
    taken.close()


def test_without_a_package_that_launches_jobs_a_launcher_is_one_clear_error(tmp_path, settings):
    from salmu_core.runner.jobs import launch_runs

    plugins = toy_plugins()
    with pytest.raises(SalmuError, match="No installed package launches jobs"):
        launch_runs([], tmp_path, settings, plugins, Launcher("slurm"))
