"""The pinned dataset and models: announced, fetched, found again without a network. Against a stub of the hub."""

import json

import pytest
from torch import save

from hub_stub import running_hub
from salmu_core import BuildStep, load_model
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.errors import HubError
from salmu_core.models.dual_encoder import DualEncoder
from salmubench import hub, layout
from salmubench.check import check_snapshot
from salmubench.full import Salmubench

SPLITS = ("forget", "forget_target", "retain_synth", "holdout_identity", "holdout_association")
METADATA = (
    layout.IDENTITIES,
    layout.CAPTIONS,
    layout.GENERIC_CAPTIONS,
    layout.FRAGILE_IDS,
    layout.FRAGILE_SIMILARITIES,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """The hub with the pinned dataset (files of the layout's names, of no meaning) and two small models."""
    with running_hub(monkeypatch, tmp_path / "hf") as running:
        data = tmp_path / "dataset"
        (data / "data").mkdir(parents=True)
        for number, name in enumerate(METADATA):
            (data / name).write_text(json.dumps({"file": number}))
        for split in SPLITS:
            for shard in range(2):
                (data / "data" / f"{split}-{shard:05d}-of-00002.parquet").write_bytes(f"{split} {shard} ".encode() * 60_000)
        (data / "README.md").write_text("a card")
        (data / "preview.png").write_bytes(b"picture" * 100)
        pinned = hub.pinned()
        running.add("dataset", pinned["dataset"].name, data, pinned["dataset"].revision)
        for seed, which in enumerate(("clean", "compromised")):
            folder = tmp_path / which
            model = DualEncoder.create(TOY_MODEL, seed)
            weights = model.save(folder)
            weights.rename(folder / "open_clip_model.safetensors")
            if which == "compromised":
                (folder / "open_clip_model.safetensors").unlink()
                save(dict(model.weights()), folder / "open_clip_pytorch_model.bin")
            running.add("model", pinned[which].name, folder, pinned[which].revision)
        yield running


def test_the_pinned_revisions_are_those_of_the_published_benchmark():
    pinned = hub.pinned()
    assert str(pinned["dataset"]) == "dataset cvc-mmu/salmubench-512-redistributed at b76aa388"
    assert pinned["clean"].revision == "1d3c0b01dceaf0e66b4d0abeefa3bc8a616f73f8"
    assert pinned["compromised"].revision == "230b1b4f7b84d1bb96927a0a47ac7a007ceba528"
    assert all(len(repository.revision) == 40 for repository in pinned.values())


def test_what_is_missing_is_announced_with_its_size_then_fetched_then_nothing_is_missing(stub, tmp_path):
    wanted = [*(tmp_path / "dataset").glob("*.json"), *(tmp_path / "dataset" / "data").iterdir()]
    dataset, clean, compromised = hub.missing()
    assert (dataset.what, dataset.size) == (str(hub.pinned()["dataset"]), sum(path.stat().st_size for path in wanted))
    assert dataset.place == str(tmp_path / "hf" / "hub")
    assert clean.size == sum(path.stat().st_size for path in (tmp_path / "clean").iterdir())
    assert hub.local_snapshot() is None

    told: list[BuildStep] = []
    folder = hub.fetch_snapshot(told.append)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == sorted(path.name for path in wanted)
    assert told[0].stage == f"fetch {dataset.what} (MB)"
    assert (told[0].done, told[0].total) == (0, dataset.size // 1_000_000)
    assert told[-1].done == told[-1].total == dataset.size // 1_000_000

    assert [download.what for download in hub.missing()] == [clean.what, compromised.what]
    for seed, which in enumerate(("clean", "compromised")):
        model = load_model(hub.fetch_model(which))
        assert model.fingerprint() == DualEncoder.create(TOY_MODEL, seed).fingerprint()
    assert hub.missing() == []


def test_everything_is_found_without_a_network(stub, monkeypatch):
    folders = [hub.fetch_snapshot(), hub.fetch_model("clean"), hub.fetch_model("compromised")]
    asked = len(stub.requests)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert [hub.local_snapshot(), hub.local_model("clean"), hub.local_model("compromised")] == folders
    assert [hub.fetch_snapshot(), hub.fetch_model("clean"), hub.fetch_model("compromised")] == folders
    assert hub.missing() == []
    assert len(stub.requests) == asked


def test_a_cache_that_another_tool_filled_is_used_and_an_incomplete_one_is_not(stub, monkeypatch):
    from huggingface_hub import snapshot_download

    pinned = hub.pinned()["dataset"]
    folder = snapshot_download(pinned.name, repo_type="dataset", revision=pinned.revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert str(hub.local_snapshot()) == folder
    assert hub.damaged_files(hub.local_snapshot()) is None  # nobody here knows the checksums
    (hub.local_snapshot() / "data" / "forget-00001-of-00002.parquet").unlink()
    assert hub.local_snapshot() is None
    [dataset] = hub.missing(["dataset"])
    assert dataset.size is None
    with pytest.raises(HubError, match=r"(?s)HF_HUB_OFFLINE forbids the network.*--data-dir"):
        hub.fetch_snapshot()


def test_sizes_are_unknown_while_the_hub_is_down(stub):
    stub.fail(503, "/api/", times=99)
    assert [download.size for download in hub.missing()] == [None, None, None]


def test_a_broken_pull_goes_on_with_what_is_missing(stub):
    whole = hub.missing(["dataset"])[0].size
    stub.fail(404, "holdout_association-00001", times=99, code="EntryNotFound")
    with pytest.raises(HubError):
        hub.fetch_snapshot()
    left = hub.missing(["dataset"])[0].size
    assert 0 < left < whole
    stub.faults.clear()
    hub.fetch_snapshot()
    assert stub.fetched("holdout_association-00000-of-00002.parquet") == 1


def test_another_revision_can_be_asked_for(stub, tmp_path):
    (tmp_path / "dataset" / layout.FRAGILE_IDS).write_text('["newer"]')
    stub.add("dataset", hub.pinned()["dataset"].name, tmp_path / "dataset")
    assert json.loads((hub.fetch_snapshot(revision="main") / layout.FRAGILE_IDS).read_text()) == ["newer"]
    assert json.loads((hub.fetch_snapshot() / layout.FRAGILE_IDS).read_text()) == {"file": 3}
    assert hub.local_snapshot("main") != hub.local_snapshot()


def test_a_folder_elsewhere_is_compared_with_the_hubs_checksums(stub, tmp_path):
    folder = tmp_path / "dataset"
    assert hub.damaged_files(folder) == []
    (folder / layout.CAPTIONS).write_text("{}")
    assert hub.damaged_files(folder) == [layout.CAPTIONS]


def test_a_check_compares_a_copy_of_the_pinned_dataset_byte_for_byte(stub, tmp_path, monkeypatch):
    def found() -> list[tuple[str, str]]:
        findings = check_snapshot(tmp_path / "dataset", decode=False)
        return [(finding.severity, finding.message) for finding in findings if finding.rule == "checksums"]

    assert found() == []  # nothing is known of the hub's checksums yet, and a check asks no network
    assert stub.requests == []
    hub.fetch_snapshot()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert found() == [("fact", f"Every file is that of {hub.pinned()['dataset']}, byte for byte.")]
    shard = tmp_path / "dataset" / "data" / "forget-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    [(severity, message)] = found()
    assert severity == "warning"
    assert str(shard) in message
    (tmp_path / "dataset" / "data" / "own-00000-of-00001.parquet").write_bytes(b"")
    assert found() == []  # another dataset in the same layout


def test_a_published_run_names_the_model_it_started_from(tmp_path):
    pinned = hub.pinned()["compromised"]
    assert Salmubench().hub_model("compromised") == f"{pinned.name}@{pinned.revision}"
    local = Salmubench(Salmubench.Options(compromised=str(tmp_path / "mine.bin")))
    assert local.hub_model("compromised") is None
    assert local.hub_model("clean") is not None
