"""What the official loader makes of the tables, and how a snapshot that says it is the published one is checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from salmubench import Salmubench, SalmubenchLayout, hub, layout
from salmubench.tables import Row
from salmubench.writer import write_split


@pytest.fixture
def others_in_retain(snapshot: Path) -> Path:
    """`retain_synth` shows people of holdout_identity too, as the published table does."""
    [shard] = (snapshot / "data").glob("retain_synth-*.parquet")
    table = pq.read_table(shard).to_pylist()
    [holdout] = (snapshot / "data").glob("holdout_identity-*.parquet")
    outside = sorted({row["identity_id"] for row in pq.read_table(holdout).to_pylist()})
    known = [row for row in table if row["identity_id"] is not None]
    for row, identity in zip(known[:2], outside, strict=False):
        row["identity_id"] = identity
    rows = [Row(row["image"]["bytes"], row["text"], row["identity_id"], row["file_name"]) for row in table]
    write_split(snapshot, "retain_synth", rows)
    return snapshot


def test_retain_joint_shows_only_people_of_forget(exported: Path, others_in_retain: Path, own_cache: Path) -> None:
    before, after = (Salmubench(Salmubench.Options(data_dir=folder)) for folder in (exported, others_in_retain))
    forgotten = set(after.split("forget").columns["identity_id"])
    assert set(before.split("retain_joint").columns["identity_id"]) <= forgotten
    [shard] = (others_in_retain / "data").glob("retain_synth-*.parquet")
    table = pq.read_table(shard, columns=["identity_id", "file_name"]).to_pylist()
    wanted = [row["file_name"] for row in table if row["identity_id"] is not None and row["identity_id"] in forgotten]
    assert list(after.split("retain_joint").columns["file_name"]) == wanted
    assert len(wanted) == len(before.split("retain_joint")) - 2
    # Neither do the others become strangers, and methods go on seeing them.
    assert list(after.split("retain_disjoint").columns["identity_id"]) == [None] * len(before.split("retain_disjoint"))
    assert len(after.split("retain")) == len(before.split("retain"))


def test_a_check_tells_how_many_portraits_are_in_no_split(others_in_retain: Path) -> None:
    findings = SalmubenchLayout().check(others_in_retain, decode=False)
    [told] = [finding for finding in findings if "who are not in forget" in finding.message]
    assert told.severity == "fact"
    assert told.message.startswith("retain_synth: 2 rows show 2 people")


@pytest.mark.parametrize("claims", [False, True])
def test_derived_counts_are_held_against_the_published_ones_only_where_a_snapshot_claims_to_be_it(
    exported: Path, monkeypatch: pytest.MonkeyPatch, claims: bool
) -> None:
    if claims:  # the tables' own counts are the published ones; only people differ
        rows = {split: Salmubench(Salmubench.Options(data_dir=exported)).snapshot().rows(split) for split in layout.SPLITS}
        monkeypatch.setattr(layout, "PUBLISHED_ROWS", rows)
    findings = SalmubenchLayout().check(exported, decode=False)
    for split, published in {"forget_identity": "15,342", "forget_association": "15,126", "retain_joint": "749"}.items():
        [found] = [finding for finding in findings if finding.message.startswith(f"{split}: ")]
        assert found.severity == ("error" if claims else "fact")
        assert published in found.message


@pytest.mark.parametrize("claims", [False, True])
def test_a_model_file_is_held_against_the_published_checksum(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, claims: bool
) -> None:
    folder = snapshot / "compromised"
    [weights] = folder.glob("*.safetensors")
    from salmu_core.models.loading import load_model

    model = load_model(folder)
    import torch

    torch.save(model.weights(), folder / "open_clip_pytorch_model.bin")
    weights.unlink()
    if claims:
        rows = {split: Salmubench(Salmubench.Options(data_dir=snapshot)).snapshot().rows(split) for split in layout.SPLITS}
        monkeypatch.setattr(layout, "PUBLISHED_ROWS", rows)
        monkeypatch.setattr(layout, "PUBLISHED_DERIVED", {})
    findings = SalmubenchLayout().check(snapshot, decode=False)
    [told] = [finding for finding in findings if "SHA-256" in finding.message]
    assert "c48f390a…5466 is published" in told.message
    assert told.severity == ("error" if claims else "fact")

    digest = hashlib.sha256((folder / "open_clip_pytorch_model.bin").read_bytes()).hexdigest()
    monkeypatch.setattr(hub, "_pinned_content", lambda: {"clean": {}, "compromised": {"sha256": [digest[:8], digest[-4:]]}})
    [told] = [finding for finding in SalmubenchLayout().check(snapshot, decode=False) if "SHA-256" in finding.message]
    assert told.severity == "fact"
    assert "only its first and last digits are known here" in told.message


def test_the_whole_checksum_of_the_hub_is_used_where_its_listing_was_read(own_cache: Path, monkeypatch) -> None:
    repository = hub.pinned()["clean"]
    assert hub.known_weights("clean").begins is None
    file = hub.hub.HubFile("open_clip_model.safetensors", 3, "b", "ab" * 32)
    listing = hub.hub.Listing(repository, repository.revision, (file,))
    monkeypatch.setattr(hub.hub, "read_manifest", lambda wanted: listing if wanted == repository else None)
    assert hub.known_weights("clean") == hub.KnownWeights("open_clip_model.safetensors", "ab" * 32)
    assert json.dumps(hub.known_weights("compromised").begins) == '"c48f390a"'
