"""What processes that were killed left unfinished goes, whoever named it, and nothing else does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from salmu_core.errors import OutputError
from salmu_core.files.writing import atomic_path, is_leftover, remove_leftovers, scratch_beside, write_json, write_tensors

TENSORS = {"x": torch.arange(4.0)}


def left_by(folder: Path, name: str, process: int) -> Path:
    """What a killed process leaves inside the writing of a tensor file: ours, and in it the library's own."""
    with scratch_beside(folder / name) as scratch:
        signed = scratch.name.replace(f"-{os.getpid()}-", f"-{process}-")
    left = folder / signed
    left.mkdir()
    (left / "content.part").touch()
    (left / ".tmpXyZ123").write_bytes(b"all of it, under a name of the library's")
    return left


@pytest.fixture
def gone() -> int:
    """The number of a process that is no more."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_file_of_tensors_replaces_what_dead_processes_left(tmp_path, gone):
    left = left_by(tmp_path, "model.safetensors", gone)
    other = left_by(tmp_path, "rows.safetensors", gone)
    write_tensors(tmp_path / "model.safetensors", TENSORS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model.safetensors", other.name])
    assert not left.exists()


def test_what_was_left_under_this_processes_own_number_goes_too(tmp_path):
    """In a container every run may have the number 1."""
    left = left_by(tmp_path, "record.json", os.getpid())
    write_json(tmp_path / "record.json", {})
    assert not left.exists()


def test_what_running_processes_and_other_computers_write_stays(tmp_path, gone):
    running = left_by(tmp_path, "a.json", os.getppid())
    left = left_by(tmp_path, "a.json", gone)
    host = left.name.split(".")[3].partition("-")[0]
    elsewhere = left.rename(tmp_path / left.name.replace(host, "00000000"))
    with atomic_path(tmp_path / "a.json") as own:
        write_json(tmp_path / "a.json", {})
        assert own.exists()
    assert running.exists()
    assert elsewhere.exists()


def test_in_a_folder_of_one_writer_names_that_nobody_signed_go_as_well(tmp_path, gone):
    signed = left_by(tmp_path, "fit-000.safetensors", gone)
    unsigned = [tmp_path / name for name in (".tmpAb12Cd", ".fit-000.safetensors.k3j2.part")]
    kept = [tmp_path / name for name in ("spec.json", ".hidden", ".tmp", "a.part", ".tmpfile-of-mine")]
    for path in (*unsigned, *kept):
        path.write_text("")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert not signed.exists()


def test_nothing_unfinished_has_the_name_of_a_result(tmp_path):
    with atomic_path(tmp_path / "record.json") as temporary:
        assert not list(tmp_path.rglob("*.json"))
        assert is_leftover(temporary.parent.name)
    assert (tmp_path / "record.json").exists()


def test_a_write_that_fails_leaves_the_last_file_and_nothing_else(tmp_path, monkeypatch):
    import safetensors.torch

    write_tensors(tmp_path / "fit.safetensors", TENSORS)
    before = (tmp_path / "fit.safetensors").read_bytes()

    def full(tensors, path, metadata):
        Path(path).with_name(".tmpAbCdEf").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_tensors(tmp_path / "fit.safetensors", {"x": torch.zeros(9)})
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    assert (tmp_path / "fit.safetensors").read_bytes() == before
