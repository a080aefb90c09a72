"""Reading the hub: what is fetched, what is checked, what happens when it goes wrong. Against a stub on this machine."""

import json
from collections import Counter

import pytest
import torch

from hub_stub import TOKEN, HubStub, running_hub
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.errors import BadCheckpoint, BadData, HubError, OutputError
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_hub import fetching as reading

COMMIT = "b76aa3885a696969e51de4786c9f92e8064b4679"
WANTED = reading.Repository("dataset", "owner/data", COMMIT, ("meta.json", "data/*.parquet"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub(monkeypatch, tmp_path / "hf") as stub:
        yield stub


@pytest.fixture
def data(hub: HubStub, tmp_path):
    folder = tmp_path / "source"
    (folder / "data").mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"a": 1}))
    (folder / "README.md").write_text("not wanted")
    (folder / "data" / "a-00000-of-00002.parquet").write_bytes(bytes(range(256)) * 400)
    (folder / "data" / "a-00001-of-00002.parquet").write_bytes(b"second" * 1000)
    hub.add("dataset", "owner/data", folder, COMMIT)
    return folder


def same(folder, source) -> bool:
    return all(
        (folder / name).read_bytes() == (source / name).read_bytes()
        for name in ("meta.json", "data/a-00000-of-00002.parquet", "data/a-00001-of-00002.parquet")
    )


def test_only_the_wanted_files_are_fetched_and_progress_ends_at_their_size(hub, data):
    told = []
    folder = reading.fetch(WANTED, lambda *step: told.append(step))
    assert same(folder, data)
    assert not (folder / "README.md").exists()
    assert hub.fetched("README.md") == 0
    size = 256 * 400 + 6000 + len((data / "meta.json").read_bytes())
    fetching = [step for step in told if step[0].startswith("fetch dataset owner/data at b76aa388")]
    assert fetching[0][1:] == (0, size)
    assert fetching[-1][1:] == (size, size)
    assert [step[1] for step in fetching] == sorted(step[1] for step in fetching)


def test_nothing_is_asked_or_fetched_twice_and_a_full_copy_needs_no_network(hub, data, monkeypatch):
    assert reading.cached_folder(WANTED) is None
    folder = reading.fetch(WANTED)
    asked = len(hub.requests)
    assert reading.fetch(WANTED) == folder
    assert reading.cached_folder(WANTED) == folder
    assert len(hub.requests) == asked
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert reading.fetch(WANTED) == folder


def test_sizes_still_to_fetch_are_known_before_fetching(hub, data):
    listing = reading.list_files(WANTED)
    assert Counter({file.path: file.size for file in reading.missing_files(listing)}) == {
        "data/a-00000-of-00002.parquet": 102400,
        "data/a-00001-of-00002.parquet": 6000,
        "meta.json": (data / "meta.json").stat().st_size,
    }
    reading.fetch(WANTED)
    assert reading.missing_files(listing) == []


def test_a_dropped_connection_goes_on_where_it_broke(hub, data, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.fail("drop", "a-00000-of-00002.parquet")
    assert same(reading.fetch(WANTED), data)
    ranges = [headers.get("Range") for _, path, headers in hub.requests if "cdn" in path and "00000" in path]
    assert ranges == [None, "bytes=51200-"] or (ranges[0] is None and int(ranges[1][6:-1]) >= 50_000)


def test_files_that_arrived_before_a_killed_download_are_kept(hub, data):
    hub.fail(404, "a-00001-of-00002.parquet", times=99, code="EntryNotFound")
    with pytest.raises(HubError, match="not there"):
        reading.fetch(WANTED)
    hub.faults.clear()
    before = hub.fetched("a-00000-of-00002.parquet")
    assert before == 1
    assert same(reading.fetch(WANTED), data)
    assert hub.fetched("a-00000-of-00002.parquet") == before


@pytest.mark.parametrize("name", ["meta.json", "a-00001-of-00002.parquet"])
def test_a_damaged_file_is_fetched_once_more(hub, data, name):
    hub.fail("corrupt", name)
    assert same(reading.fetch(WANTED), data)
    assert not hub.faults[0].times


def test_a_file_that_stays_damaged_is_named(hub, data):
    hub.fail("corrupt", "meta.json", times=9)
    with pytest.raises(BadData, match=r"'meta.json' of dataset owner/data at b76aa388 differs"):
        reading.fetch(WANTED)
    assert reading.cached_folder(WANTED) is None  # and it is not taken for good later
    hub.faults.clear()
    assert same(reading.fetch(WANTED), data)


def test_a_file_that_decays_in_the_cache_is_found_when_asked_to_look_again(hub, data, monkeypatch):
    folder = reading.fetch(WANTED)
    shard = (folder / "data" / "a-00001-of-00002.parquet").resolve()
    shard.write_bytes(b"decayed" + shard.read_bytes()[7:])
    assert not same(reading.fetch(WANTED), data)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"'data/a-00001-of-00002.parquet' of dataset .* HF_HUB_OFFLINE forbids"):
        reading.fetch(WANTED, again=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert same(reading.fetch(WANTED, again=True), data)


def test_a_copy_is_checked_without_the_network(hub, data, tmp_path, monkeypatch):
    listing = reading.list_files(WANTED)
    reading.fetch(WANTED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert reading.list_files(WANTED) == listing
    assert reading.damaged_files(data, listing) == []
    shard = data / "data" / "a-00001-of-00002.parquet"
    content = bytearray(shard.read_bytes())
    content[17] ^= 1
    shard.write_bytes(content)
    (data / "meta.json").unlink()
    assert sorted(reading.damaged_files(data, listing)) == ["data/a-00001-of-00002.parquet", "meta.json"]


def test_too_little_space_is_found_before_fetching(hub, data, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100_000})())
    with pytest.raises(OutputError, match=r"(?s)has 0\.1 MB free.*needs 0\.1 MB.*HF_HUB_CACHE"):
        reading.fetch(WANTED)
    assert hub.fetched(".parquet") == 0


def test_errors_say_what_to_do(hub, data, monkeypatch):
    def refused(repository: reading.Repository = WANTED) -> str:
        with pytest.raises(HubError) as error:
            reading.fetch(repository)
        return str(error.value)

    assert "is not there for you" in refused(reading.Repository("dataset", "owner/nothing", "main", ("*",)))
    assert "no such revision" in refused(reading.Repository("dataset", "owner/data", "0" * 40, ("*",)))
    assert "holds no other.json" in refused(reading.Repository("dataset", "owner/data", COMMIT, ("other.json",)))
    assert "OWNER/NAME" in refused(reading.Repository("dataset", "a/b/c", "main", ("*",)))
    stub = hub.repositories["dataset", "owner/data"]
    (reading.default_cache() / "hub" / "datasets--owner--data" / f"{COMMIT}.json").unlink()
    stub.private = True
    assert "HF_TOKEN" in refused()
    stub.private, stub.gated = False, True
    assert f"Accept its terms at {hub.url}/datasets/owner/data and log in" in refused()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "refuses your token" in refused()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fail(429, "/api/datasets", times=9)
    assert "too many requests" in refused()
    hub.faults.clear()
    hub.fail(503, "/api/datasets", times=9)
    assert "a problem of its own (HTTP 503)" in refused()
    hub.faults.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub.close()
    assert "cannot be reached" in refused()


@pytest.fixture
def model() -> DualEncoder:
    return DualEncoder.create(TOY_MODEL, seed=3)


def upload(hub: HubStub, folder, model: DualEncoder, weights: str, revision: str | None = None) -> None:
    """Serve a model under a file name of open_clip's."""
    model.save(folder)
    (folder / "model.safetensors").rename(folder / weights)
    if weights.endswith(".bin"):
        torch.save(dict(model.weights()), folder / weights)
    hub.add("model", "owner/clip", folder, revision)


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors"])
def test_models_load_from_the_hub_by_whatever_name_open_clip_gives_weights(hub, model, tmp_path, weights, monkeypatch):
    upload(hub, tmp_path / "model", model, weights)
    assert load_model("hf-hub:owner/clip").fingerprint() == model.fingerprint()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("hf-hub:owner/clip").fingerprint() == model.fingerprint()


def test_a_revision_stays_what_it_was(hub, model, tmp_path):
    upload(hub, tmp_path / "old", model, "open_clip_model.safetensors", COMMIT)
    newer = DualEncoder.create(TOY_MODEL, seed=4)
    upload(hub, tmp_path / "new", newer, "open_clip_model.safetensors")
    assert load_model(f"hf-hub:owner/clip@{COMMIT}").fingerprint() == model.fingerprint()
    assert load_model("hf-hub:owner/clip").fingerprint() == newer.fingerprint()


def test_a_cached_model_is_used_when_the_hub_is_down(hub, model, tmp_path):
    upload(hub, tmp_path / "model", model, "open_clip_model.safetensors")
    load_model("hf-hub:owner/clip")
    hub.close()
    assert load_model("hf-hub:owner/clip").fingerprint() == model.fingerprint()


def test_a_model_without_weights_or_with_code_in_them_is_refused(hub, model, tmp_path):
    upload(hub, tmp_path / "model", model, "weights.safetensors")
    with pytest.raises(HubError, match="no weights under a name that open_clip uses"):
        load_model("hf-hub:owner/clip")
    torch.save(model, tmp_path / "model" / "open_clip_pytorch_model.bin")  # a whole object: unpickling runs code
    hub.add("model", "owner/clip", tmp_path / "model")
    with pytest.raises(BadCheckpoint, match="read safely"):
        load_model("hf-hub:owner/clip")
