"""ImageNet in its three layouts, 1,000 classes each, and the zero-shot classifier against open_clip's own."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from salmu_core.benchmark import Benchmark
from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import View
from salmu_core.errors import BadData
from salmu_core.evaluation.embed import embed_views
from salmu_metrics import GenKnow, class_vectors
from salmubench.imagenet import imagenet_prompts, load_imagenet, wordnet_ids

IDS = wordnet_ids()


def picture(label: int, number: int = 0) -> bytes:
    """Bytes that stand for a picture; nothing here decodes them."""
    return b"\xff\xd8 %d/%d " % (label, number) + b"x" * (label % 7)


def write_folders(folder: Path, per_class: int = 1, labels=range(1000)) -> None:
    for label in labels:
        (folder / IDS[label]).mkdir(parents=True)
        for number in range(per_class):
            (folder / IDS[label] / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(picture(label, number))


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_parquet(path: Path, labels: list[int], image: str = "image") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": picture(label), "path": f"{label}.jpg"} for label in labels]
    pq.write_table(pa.table({image: pictures, "label": labels}), path, row_group_size=64)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write_folders(tmp_path / "val", per_class=2)
    (tmp_path / "val" / IDS[3] / "README.txt").write_text("no picture")
    return tmp_path


def test_class_folders_are_labelled_in_the_order_of_their_ids(folders: Path) -> None:
    images, _ = load_imagenet(folders)
    assert images.columns["label"] == [label for label in range(1000) for _ in range(2)]
    assert images.images.read(2 * 431 + 1) == picture(431, 1)
    assert f"{IDS[431]}/ILSVRC2012_val_00000001.JPEG" in images.images.where(2 * 431 + 1)
    assert load_imagenet(folders / "val").images.columns == images.columns


def test_a_quick_look_takes_the_first_of_each_class(folders: Path) -> None:
    images, prompts = load_imagenet(folders, first_per_class=1)
    assert images.columns["label"] == list(range(1000))
    assert images.images.read(77) == picture(77, 0)
    assert len(prompts) == 80_000


def test_webdataset_shards_are_read_by_offset_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(1000).tolist()
    for shard in range(11):  # 10.tar comes after 9.tar, not after 1.tar
        files = []
        for row in range(shard * 91, min(1000, (shard + 1) * 91)):
            label = order[row]
            suffix = ("jpg", "JPEG", "webp")[row % 3]
            answer = (
                (f"s{row:07d}.cls", str(label).encode())
                if row % 2
                else (f"s{row:07d}.json", json.dumps({"label": label}).encode())
            )
            files += [answer, (f"s{row:07d}.{suffix}", picture(label))]
        write_tar(tmp_path / "test" / f"{shard}.tar", files)
    write_tar(tmp_path / "train" / "0.tar", [("a.jpg", b"never read")])
    images, _ = load_imagenet(tmp_path)
    assert images.columns["label"] == order
    assert [images.images.read(row) for row in (0, 90, 91, 999)] == [picture(order[row]) for row in (0, 90, 91, 999)]
    assert "10.tar', entry s0000999.jpg" in images.images.where(999)


def test_parquet_shards_of_the_validation_set_are_read_in_order(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(1000).tolist()
    for shard in range(3):
        write_parquet(tmp_path / "data" / f"validation-{shard:05d}-of-00003.parquet", order[shard * 400 : (shard + 1) * 400])
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [5])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [-1])
    images, _ = load_imagenet(tmp_path)
    assert images.columns["label"] == order
    assert [images.images.read(row) for row in (0, 399, 400, 999)] == [picture(order[row]) for row in (0, 399, 400, 999)]
    assert "validation-00002-of-00003.parquet, row 199" in images.images.where(999)


def test_prompts_are_the_80_templates_of_each_class_in_turn() -> None:
    prompts = imagenet_prompts()
    assert len(prompts) == 80_000
    assert prompts.texts[0] == "a bad photo of a tench."
    assert prompts.texts[80] == "a bad photo of a goldfish."
    assert prompts.columns["label"][79:81] == [0, 1]
    assert IDS[0] == "n01440764"  # tench
    assert sorted(IDS) == IDS


def _bad_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    write_tar(path / "0.tar", files)


def _cut_tar(path: Path) -> None:
    write_tar(path / "0.tar", [("a.cls", b"1"), ("a.jpg", b"x" * 5000)])
    whole = (path / "0.tar").read_bytes()
    (path / "0.tar").write_bytes(whole[:3000])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.rmdir(), "no ImageNet folder"),
        (lambda path: (path / "notes.txt").write_text(""), "holds no ImageNet pictures"),
        (lambda path: (path / "ILSVRC2012_val_1.JPEG").write_bytes(b""), "do not say which class they show"),
        (lambda path: write_folders(path, labels=range(990)), r"990 of ImageNet's 1000 classes; missing: 990 \(n1"),
        (lambda path: (path / "n00000001").mkdir(), "not of ImageNet-1k: n00000001"),
        (lambda path: _bad_tar(path, [("a.jpg", b"x")]), "0.tar', entry a.jpg: there is neither a.cls"),
        (lambda path: _bad_tar(path, [("a.jpg", b"x"), ("a.cls", b"tench")]), "entry a.cls holds no label: b'tench'"),
        (lambda path: _bad_tar(path, [("a.jpg", b"x"), ("a.cls", b"1000")]), "entry a.jpg: the label is 1000"),
        (lambda path: (path / "0.tar").write_bytes(b"nonsense"), "not a readable tar file"),
        (_cut_tar, "ends inside a.jpg"),
        (lambda path: write_parquet(path / "a.parquet", [1], image="picture"), "lacks the column image.*"),
        (lambda path: write_parquet(path / "test-0.parquet", [-1]), "row 0: the label is -1"),
        (lambda path: (path / "a.parquet").write_bytes(b"PAR1"), "not a readable parquet file"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, make, words: str) -> None:
    folder = tmp_path / "imagenet"
    folder.mkdir()
    make(folder)
    with pytest.raises(BadData, match=words):
        load_imagenet(folder)


def test_a_part_of_the_classes_is_taken_when_that_is_asked_for(tmp_path: Path) -> None:
    write_folders(tmp_path, labels=[0, 217, 999])
    images, prompts = load_imagenet(tmp_path, partial=True)
    assert images.columns["label"] == [0, 217, 999]
    assert len(set(prompts.columns["label"])) == 1000


def test_the_training_set_is_not_taken_for_the_validation_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salmubench.imagenet._MOST_PICTURES", 1999)
    write_folders(tmp_path, per_class=2)
    with pytest.raises(BadData, match=r"2,000 pictures.*training set"):
        load_imagenet(tmp_path)


class _PromptsOnly(Toy):
    """The toy with other prompts."""

    prompts = None

    def load_split(self, name: str):
        return self.prompts if name == "genknow_prompts" else super().load_split(name)


def test_class_vectors_are_those_of_open_clips_zero_shot_classifier() -> None:
    benchmark: Benchmark = _PromptsOnly()
    prompts = imagenet_prompts().take(range(80 * 12))
    _PromptsOnly.prompts = prompts
    model = benchmark.load_model("compromised")
    view = GenKnow().needs()["prompts"]
    assert view == View("genknow_prompts", "text")
    embedded = embed_views(model, benchmark, [view])[view]
    ours = class_vectors(embedded.vectors, torch.tensor(prompts.columns["label"]), 12)
    theirs = open_clip.build_zero_shot_classifier(
        _Bare(model), model.processor.tokenize, open_clip.IMAGENET_CLASSNAMES[:12], open_clip.OPENAI_IMAGENET_TEMPLATES
    )
    assert ours.shape == (12, theirs.shape[0])
    assert torch.allclose(ours, theirs.T, atol=1e-6)
    assert float((ours @ ours.T).fill_diagonal_(0).max()) < 0.9999  # classes differ, or the comparison says nothing


class _Bare:
    """What open_clip's function calls."""

    def __init__(self, model) -> None:
        self.model = model

    def encode_text(self, tokens: torch.Tensor, normalize: bool) -> torch.Tensor:
        assert normalize
        return self.model.encode_text(tokens)
