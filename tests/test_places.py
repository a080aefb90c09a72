"""Folders that vanish while a run goes on, and results that change while they are read."""

import shutil
import threading

import pytest

from records import COMPROMISED, record, references
from salmu_core.comparison.compare import compare_records
from salmu_core.records.store import load_records, write_record
from salmu_core.runner.run import Settings, run
from salmu_upkeep.live_folder import LiveFolder
from toy_methods import Hooks, toy_plugins


@pytest.mark.parametrize("which", ["out", "cache"])
@pytest.mark.parametrize("stage", ["unlearn", "save", "score"])
def test_a_folder_that_is_deleted_meanwhile_costs_no_number(which, stage, tmp_path):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    expected = run("ascent", benchmark="toy", out=tmp_path / "sound", settings=Settings(cpu=True), plugins=toy_plugins())
    deleted = []

    def delete(event):
        if event.stage == stage and not deleted:
            deleted.append(event.stage)
            shutil.rmtree(tmp_path / which)

    plugins = toy_plugins()
    plugins.watch(Hooks(run_progress=delete))
    found = run("ascent", benchmark="toy", out=tmp_path / "out", settings=settings, plugins=plugins)
    assert deleted == [stage]
    assert found.scores == expected.scores
    loaded = load_records(tmp_path / "out")
    assert [item.scores for item in loaded.records] == [expected.scores]
    assert not loaded.problems
    again = run("ascent", benchmark="toy", out=tmp_path / "out", settings=settings, plugins=toy_plugins())
    assert again.created_at == found.created_at  # read back


def test_results_may_change_while_they_are_read(tmp_path):
    for number, item in enumerate(references()):
        write_record(tmp_path / f"reference-{number}", item)
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            place = tmp_path / "runs" / str(number % 5)
            write_record(place, record(f"m{number % 5}", {**COMPROMISED, "RetFail": 0.1}))
            if number % 3 == 0:
                shutil.rmtree(place)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        live = LiveFolder(tmp_path)
        for _ in range(30):
            loaded = load_records(tmp_path)
            compared = compare_records(loaded.records, loaded.folders)
            assert {row.title for row in compared.rows} <= {"Clean", "Compromised", *(f"m{n}" for n in range(5))}
            assert all("There is no record" in problem for problem in loaded.problems)
            live.version()
        assert "Compromised" in live.page()
    finally:
        stop.set()
        writer.join()
