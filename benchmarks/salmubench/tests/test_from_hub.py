"""The benchmark from a stub of the hub: fetched once, the same run before and after, and without a network from then on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hub_stub import running_hub
from salmu_core.cli.main import cli
from salmu_core.errors import HubError, NotBuilt
from salmu_core.models.dual_encoder import CONFIG_FILE
from salmu_core.models.weights import read_weights
from salmu_core.options import parse_options
from salmubench import Salmubench, SalmubenchOptions, hub


@pytest.fixture
def stub(monkeypatch, exported: Path, own_cache: Path, tmp_path: Path):
    """The hub with the small snapshot as the pinned dataset, and its models in the formats of the published ones."""
    data = tmp_path / "dataset"
    shutil.copytree(exported / "data", data / "data")
    for path in exported.glob("*.json"):
        shutil.copy(path, data)
    (data / "data" / "genknow-00000-of-00001.parquet").unlink()  # ours; the published dataset has none
    compromised = tmp_path / "compromised"
    compromised.mkdir()
    shutil.copy(exported / "compromised" / CONFIG_FILE, compromised)
    weights = read_weights(exported / "compromised" / "open_clip_model.safetensors")
    torch.save(weights, compromised / "open_clip_pytorch_model.bin")
    with running_hub(monkeypatch, tmp_path / "hf") as running:
        pinned = hub.pinned()
        for kind, part, folder in (
            ("dataset", "dataset", data),
            ("model", "clean", exported / "clean"),
            ("model", "compromised", compromised),
        ):
            running.add(kind, pinned[part].name, folder, pinned[part].revision)
        running.add("model", "somebody/clip", exported / "clean", "a" * 40)
        yield running


def test_what_the_hub_has_is_fetched_once_and_is_what_a_folder_gives(stub, exported: Path, monkeypatch) -> None:
    benchmark = Salmubench()
    before = benchmark.identity()
    assert not benchmark.ready()
    assert [download.what.split()[0] for download in benchmark.downloads()] == ["dataset", "model", "model"]
    assert all(download.size for download in benchmark.downloads())
    with pytest.raises(NotBuilt, match=r"(?s)not on this machine.*salmu data pull salmubench"):
        benchmark.split("forget")
    with pytest.raises(NotBuilt, match="salmu data pull salmubench"):
        benchmark.load_model("clean")
    benchmark.build()

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = len(stub.requests)
    fetched, folder = Salmubench(), Salmubench(Salmubench.Options(data_dir=exported))
    assert fetched.ready()
    assert fetched.downloads() == []
    assert fetched.identity() == before
    fetched.build()
    for name in fetched.splits():
        assert fetched.split(name).columns == folder.split(name).columns
        assert fetched.split(name).image_keys == folder.split(name).image_keys
    for which in ("clean", "compromised"):
        assert fetched.load_model(which).fingerprint() == folder.load_model(which).fingerprint()
    assert "genknow" not in fetched.splits()
    assert len(stub.requests) == asked


def test_a_model_of_somebody_else_is_fetched_at_its_commit(stub, exported: Path) -> None:
    source = f"hf-hub:somebody/clip@{'a' * 40}"
    benchmark = Salmubench(
        parse_options(SalmubenchOptions, {"data_dir": str(exported), "compromised": source}, "salmubench")
    )
    assert benchmark.identity()["models"]["compromised"] == source.removeprefix("hf-hub:")
    assert [download.what for download in benchmark.downloads()] == [f"model somebody/clip@{'a' * 40}"]
    assert not benchmark.ready()
    benchmark.build()
    assert benchmark.ready()
    assert benchmark.downloads() == []
    assert benchmark.load_model("compromised").fingerprint() == benchmark.load_model("clean").fingerprint()


def test_offline_with_nothing_here_says_what_to_do(stub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert [download.size for download in Salmubench().downloads()] == [None, None, None]
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        Salmubench().build()


def test_pulling_from_the_command_line_announces_and_fetches(stub, monkeypatch) -> None:
    monkeypatch.setenv("SALMU_PLUGINS", "salmubench,salmu-hub,salmu-upkeep")
    done = CliRunner().invoke(cli, ["data", "pull", "salmubench"], catch_exceptions=False, standalone_mode=False)
    assert done.return_value == 0
    assert "dataset cvc-mmu/salmubench-512-redistributed at b76aa388" in " ".join(done.stderr.split())
    assert "kB" in done.stderr
    said = " ".join(done.stderr.split())
    for which in ("clean", "compromised"):
        assert f"Terms of model cvc-mmu/clip-vit-b-16-salmu-{which}: Gated: log in and accept" in said
        assert f"https://huggingface.co/cvc-mmu/clip-vit-b-16-salmu-{which}" in said
    assert "cc-by-nc-4.0 at one revision and cc-by-4.0 at a later one" in said
    assert "Accept the terms on both pages first" in said
    assert Salmubench().ready()
    again = CliRunner().invoke(cli, ["data", "pull", "salmubench"], catch_exceptions=False, standalone_mode=False)
    assert "Everything that salmubench needs is here." in again.stdout


def test_terms_go_with_what_was_published_and_with_nothing_else(stub, exported: Path) -> None:
    assert [item.gated for item in Salmubench().terms()] == [False, True, True]
    assert list(Salmubench(Salmubench.Options(data_dir=exported)).terms()) == []  # its own models lie beside it
    mixed = Salmubench(Salmubench.Options(data_dir=exported, compromised=f"hf-hub:me/model@{'a' * 40}"))
    assert list(mixed.terms()) == []  # what a stranger's terms are is not known here
