"""Images of a snapshot: read by row group, read once for all models, and never taken for those of another file."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from salmu_core import View
from salmu_core.benchmark import Report
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.data import parquet_images
from salmu_core.data.cache import DataCache
from salmu_core.data.parquet_images import HeldGroups, ParquetImages
from salmu_core.errors import BadData
from salmu_core.evaluation.embed import embed_views
from salmu_core.models.dual_encoder import DualEncoder
from salmubench import Snapshot
from salmubench.benchmark import SnapshotBenchmark

RETAIN = [View("retain", "image"), View("retain", "text")]


def _jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def _write(folder: Path, numbers: list[int], shard: int = 0) -> Path:
    path = folder / "data" / f"retain_synth-{shard:05d}-of-00002.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{number:08d}_000_ar-1.00.jpg" for number in numbers]
    table = pa.table(
        {
            "image": [{"bytes": _jpeg(number), "path": name} for number, name in zip(numbers, names, strict=True)],
            "text": [f"a portrait, number {number}" for number in numbers],
            "identity_id": pa.array([None] * len(numbers), pa.string()),
            "file_name": names,
        }
    )
    pq.write_table(table, path, row_group_size=4)
    return path


class _OnDisk(SnapshotBenchmark):
    name, version, summary = "on-disk", "1", "A snapshot of two shards."

    def snapshot(self) -> Snapshot:
        return Snapshot(self.cache.parent / "snapshot")

    def ready(self) -> bool:
        return True

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None: ...

    def load_model(self, which: str) -> DualEncoder:
        return DualEncoder.create(TOY_MODEL, seed=len(which))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("salmu_core.files.digests.SETTLED_NS", -(10**12))  # these files are young and yet left alone
    _write(tmp_path / "snapshot", list(range(10)))
    _write(tmp_path / "snapshot", list(range(10, 17)), shard=1)
    return tmp_path / "cache"


def _embed(cache: Path, which: str = "clean") -> list[torch.Tensor]:
    benchmark = _OnDisk(cache=cache)
    found = embed_views(benchmark.load_model(which), benchmark, RETAIN, data=DataCache(cache))
    return [found[view].vectors for view in RETAIN]


def test_a_second_model_reads_no_image_of_the_snapshot(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _embed(cache)
    fingerprint = _OnDisk(cache=cache).fingerprint()
    monkeypatch.setattr(ParquetImages, "read", lambda self, row: pytest.fail("read again"))
    digest = hashlib.file_digest

    def of_others(file: Any, *how: Any) -> Any:  # kept embeddings are compared with their checksums
        return pytest.fail("hashed again") if str(file.name).endswith(".parquet") else digest(file, *how)

    monkeypatch.setattr("hashlib.file_digest", of_others)
    assert torch.equal(_embed(cache)[0], first[0])
    _embed(cache, "compromised")
    assert _OnDisk(cache=cache).fingerprint() == fingerprint


def test_a_changed_shard_is_read_again_and_the_other_is_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _embed(cache)
    fingerprint = _OnDisk(cache=cache).fingerprint()
    changed = _write(cache.parent / "snapshot", [10, 11, 12, 99, 14, 15, 16], shard=1)
    read = ParquetImages.read
    seen: set[Path] = set()
    monkeypatch.setattr(ParquetImages, "read", lambda self, row: (seen.add(self.shard), read(self, row))[1])
    again = _embed(cache)
    assert seen == {changed}
    assert [row for row in range(17) if not torch.equal(first[0][row], again[0][row])] == [13]
    assert _OnDisk(cache=cache).fingerprint() != fingerprint


def test_a_shard_that_is_replaced_under_an_open_split_is_refused(cache: Path) -> None:
    split = _OnDisk(cache=cache).split("retain")
    assert split.images is not None
    assert split.images.read(12) == _jpeg(12)
    _write(cache.parent / "snapshot", list(range(20, 27)), shard=1)
    with pytest.raises(BadData, match="has changed since it was opened"):
        split.images.read(12)
    assert split.images.read(3) == _jpeg(3)


def test_few_row_groups_are_held_at_a_time_over_all_shards(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldGroups(1)
    monkeypatch.setattr(parquet_images, "_held", held)
    data = cache.parent / "snapshot" / "data"
    first, second = (ParquetImages(data / f"retain_synth-0000{shard}-of-00002.parquet") for shard in (0, 1))
    for row in (0, 5, 9, 1):
        assert first.read(row) == _jpeg(row)
        assert second.read(0) == _jpeg(10)
        assert len(held._groups) <= 2
    roomy = HeldGroups(10**9)
    monkeypatch.setattr(parquet_images, "_held", roomy)
    for images in (first, second):
        images.read(0)
    assert len(roomy._groups) == 2
    assert roomy._bytes == sum(size for _, size in roomy._groups.values())


def test_images_of_a_table_without_file_names_are_named_by_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [b"x", None]}), tmp_path / "val.parquet")
    images = ParquetImages(tmp_path / "val.parquet", column="picture")
    assert images.read(0) == b"x"
    with pytest.raises(BadData, match=r"no image bytes in .*val\.parquet, row 1\."):
        images.read(1)


def test_threads_read_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen threads that go through a file in blocks stand on both sides of where a row group ends."""
    pictures = [f"picture {row}".encode() for row in range(192)]
    pq.write_table(pa.table({"image": pictures}), tmp_path / "t.parquet", row_group_size=32)
    monkeypatch.setattr(parquet_images, "_held", HeldGroups(1))  # not even one group fits
    images = ParquetImages(tmp_path / "t.parquet")
    reads: list[int] = []
    read_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, group, **more: (reads.append(group), read_group(self, group, **more))[1],
    )
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda start: [images.read(row) for row in range(start, start + 2)], range(0, 192, 2)))
    assert [picture for block in found for picture in block] == pictures
    assert len(reads) < 30, reads  # of 6 groups; 340 where one group is held and all threads fight over it


def test_a_pointer_of_git_lfs_and_hidden_files_are_told_apart_from_data(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(BadData, match="Git LFS pointer"):
        len(ParquetImages(path))
    _write(tmp_path, [1, 2])
    (tmp_path / "data" / "._retain_synth-00000-of-00002.parquet").write_bytes(b"macOS")
    assert [shard.name for shard in Snapshot(tmp_path).shards("retain_synth")] == ["retain_synth-00000-of-00002.parquet"]
