"""Runs in processes of their own: several at once, one each for packages that nobody vouches for, and none that stays behind."""

import math
import multiprocessing
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from salmu_core import compare
from salmu_core.plugins.loading import load_plugins
from salmu_core.plugins.own_packages import is_own, own_packages
from salmu_core.records.attacks import read_attacks
from salmu_core.records.schema import RunSpec
from salmu_core.records.store import read_record
from salmu_core.runner import workers as workers_module
from salmu_core.runner.run import Settings
from salmu_core.runner.workers import LARGEST, choose_workers, finished_runs, isolated, run_alone
from salmu_core.spec.resolve import resolve
from toy_methods import Hooks, toy_plugins

pytest.importorskip("salmu_gradient_ascent")
pytest.importorskip("salmu_retain_finetuning")
METHODS = ["gradient-ascent", "retain-finetuning", "direct-similarity-minimisation"]


def test_runs_side_by_side_end_at_the_weights_of_runs_one_after_another(tmp_path):
    told = []
    plugins = load_plugins()
    plugins.watch(Hooks(run_finished=lambda record: told.append(record.spec.method)))
    options = {name: {"batch_size": 12, "epochs": 1} for name in METHODS}
    arguments = {"benchmark": "toy", "options": options, "plugins": plugins, "audits": "none"}
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    compare(
        METHODS[:1], **{**arguments, "options": {METHODS[0]: options[METHODS[0]]}}, out=tmp_path / "two", settings=settings
    )
    told.clear()
    two = compare(METHODS, **arguments, out=tmp_path / "two", settings=settings, workers=2)
    assert sorted(told) == sorted(METHODS[1:])  # what was done before is not done again
    one = compare(METHODS, **arguments, out=tmp_path / "one", settings=settings)
    assert [record.spec.method for record in two.records] == [record.spec.method for record in one.records]
    for first, second in zip(one.records, two.records, strict=True):
        assert first.id == second.id
        assert first.provenance.model_fingerprint == second.provenance.model_fingerprint


def test_workers_attack_the_runs_that_they_carry_out(tmp_path):
    audits = pytest.importorskip("salmu_audits.comparison")
    plugins, settings = load_plugins(), Settings(cache=tmp_path / "cache", cpu=True)
    spec = RunSpec(method=METHODS[0], benchmark="toy", method_options={"batch_size": 12, "epochs": 1})
    resolved = resolve(spec, plugins, settings.cache_folder)
    runs = [(resolved, tmp_path / "run")]
    told = [position for position, _ in finished_runs(runs, settings, 1, audits="fast")]
    assert told == [0]  # before the attacks, and not again after them
    record = read_record(tmp_path / "run")
    attacked = [item.audit for item in read_attacks(record, tmp_path / "run").results]
    assert attacked == [audit.name for audit in audits.chosen_audits(plugins, "fast")]


def test_workers_are_chosen_for_small_models_on_processors_only(monkeypatch):
    settings = Settings(cpu=True)
    monkeypatch.setattr(workers_module.os, "cpu_count", lambda: 4)
    memory = psutil.virtual_memory()._replace(available=64_000_000_000)
    monkeypatch.setattr(workers_module.psutil, "virtual_memory", lambda: memory)
    assert choose_workers(9, 1000, settings) == 4
    assert choose_workers(3, 1000, settings) == 3
    assert choose_workers(9, LARGEST + 1, settings) == 1
    monkeypatch.setattr(workers_module, "process_count", lambda: 2)
    assert choose_workers(9, 1000, settings) == 1
    monkeypatch.setattr(workers_module, "process_count", lambda: 1)
    low = memory._replace(available=5_000_000_000)
    monkeypatch.setattr(workers_module.psutil, "virtual_memory", lambda: low)
    assert choose_workers(9, 1000, settings) == 2
    monkeypatch.setattr(workers_module.torch.accelerator, "is_available", lambda: True)
    assert choose_workers(9, 1000, Settings()) == 1


BAD = """
import os, signal, subprocess, time
from salmu_core import UnlearningMethod, hookimpl


class Bad(UnlearningMethod):
    family, data, summary = "baseline", ("forget",), "Misbehaves."

    def unlearn(self, ctx):
        print("noise")
        self.misbehave()


class Dies(Bad):
    name = "dies"

    def misbehave(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Sleeps(Bad):
    name = "sleeps"

    def misbehave(self):
        time.sleep(1000)


class Tells(Bad):
    name = "tells"

    def misbehave(self):
        child = subprocess.Popen(["sleep", "1000"])
        open(os.environ["TOLD"], "w").write(f"{os.getpid()} {os.getcwd()} {child.pid}")


@hookimpl
def register_methods():
    return [Dies, Sleeps, Tells]
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """A package that is installed and not salmu's own."""
    home = tmp_path / "site"
    info = home / "bad_methods-1.dist-info"
    info.mkdir(parents=True)
    (home / "bad_methods.py").write_text(BAD)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-methods\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[salmu]\nbad = bad_methods\n")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("SALMU_PLUGINS", "bad-methods,salmu-gradient-ascent,salmu-metrics")
    yield
    sys.modules.pop("bad_methods", None)


def test_a_process_that_dies_or_takes_too_long_costs_its_own_row(third_party, tmp_path, monkeypatch, capfd):
    told = []
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.chdir(tmp_path)
    plugins = load_plugins()
    plugins.watch(Hooks(run_finished=lambda record: told.append((record.spec.method, record.status))))
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    options = {"gradient-ascent": {"batch_size": 12, "epochs": 1}}
    names = ["dies", "gradient-ascent", "tells"]
    result = compare(
        names, benchmark="toy", options=options, out="out", settings=settings, plugins=plugins, workers=3, audits="none"
    )
    found = {record.spec.method: record for record in result.records[2:]}
    assert {name: found[name].status for name in names} == dict(zip(names, ["failed", "ok", "ok"], strict=True))
    assert found["dies"].error.startswith("The method dies (bad-methods 1): Its process was ended by SIGKILL")
    assert sorted(told[-3:]) == sorted((name, record.status) for name, record in found.items())
    process, folder, child = (tmp_path / "told").read_text().split()
    assert int(process) != os.getpid()
    assert folder == str(tmp_path)  # where the comparison was called
    assert _ended(int(child))  # what a run left behind ends with its process
    assert read_record(next((tmp_path / "out" / "runs").glob("dies-*"))) == found["dies"]
    limited = replace(settings, time_limit=0.5)
    record = run_alone(resolve(RunSpec(method="sleeps", benchmark="toy"), plugins), tmp_path / "slow", limited, plugins)
    assert record == read_record(tmp_path / "slow")
    assert record.error == "The method sleeps (bad-methods 1): It took longer than 0.5 s, its time limit."
    assert "noise" not in capfd.readouterr().out
    assert multiprocessing.active_children() == []


def _ended(process: int) -> bool:
    """Is it gone, or dead and not yet collected, within a few seconds? A kill takes its time on a busy machine."""
    for _ in range(100):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_runs_of_packages_that_salmu_does_not_name_are_isolated_by_default(third_party, monkeypatch):
    plugins = load_plugins()
    theirs, ours = (resolve(RunSpec(method=name, benchmark="toy"), plugins) for name in ("dies", "gradient-ascent"))
    for settings, expected in (
        (Settings(), (True, False)),
        (Settings(isolate="all"), (True, True)),
        (Settings(isolate="none"), (False, False)),
        (Settings(isolate="none", time_limit=9), (True, True)),
    ):
        assert (isolated(theirs, settings), isolated(ours, settings)) == expected
    monkeypatch.setattr(workers_module, "thread_left", lambda: "A method left a thread running in this process")
    assert isolated(ours, Settings(isolate="none"))
    monkeypatch.setattr(workers_module, "process_count", lambda: 2)
    assert not isolated(theirs, Settings(isolate="all"))
    # What is not installed cannot be found by another process.
    assert not isolated(resolve(RunSpec(method="ascent", benchmark="toy"), toy_plugins()), Settings(isolate="all"))


def test_every_package_of_the_workspace_is_salmus_own():
    root = Path(__file__).parents[2]
    members = [tomllib.loads(file.read_text())["project"]["name"] for file in root.glob("*/*/pyproject.toml")]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert len(members) > 20
    assert sorted({*members} - {"salmu-zoo"}) == sorted(extras["zoo"])  # which is the list itself, as a package
    assert {"salmu", "salmu-metrics"} <= own_packages()
    assert not is_own("salmu-somebodys")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("way", ["kernel", "thread"])
def test_a_worker_ends_with_its_parent(way):
    """However the parent ends; without the kernel's help a thread of the worker sees to it."""
    script = (
        "import multiprocessing, time, salmu_core.runner.parent as parent\n"
        f"parent.sys = type('Other', (), {{'platform': {'linux' if way == 'kernel' else 'other'!r}}})\n"
        "def work():\n    parent.die_with_parent()\n    print(flush=True)\n    time.sleep(1000)\n"
        "child = multiprocessing.get_context('fork').Process(target=work)\n"
        "child.start()\nprint(child.pid, flush=True)\nchild.join()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = next(psutil.Process(int(line)) for line in (parent.stdout.readline(), parent.stdout.readline()) if line.strip())
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()


def test_observers_hear_of_a_comparison_in_which_nothing_ends_for_a_while(monkeypatch):
    told, pauses = [], []
    pool = workers_module._Pool.__new__(workers_module._Pool)
    going = SimpleNamespace(sentinel=None, is_alive=lambda: True, exitcode=None)
    pool._busy = [SimpleNamespace(ends=math.inf, connection=None, process=going)]
    pool._plugins = SimpleNamespace(tell=lambda hook, event: told.append((hook, event.stage)))
    monkeypatch.setattr(workers_module, "wait", lambda things, pause: pauses.append(pause) or [])
    monkeypatch.setattr(workers_module, "_received", lambda worker: None)
    pool._look()
    assert told == [("run_progress", "waiting")]
    assert pauses == [25.0]
