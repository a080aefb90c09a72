"""A benchmark written in the layout and read back is the same benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from salmu_authors.testing import check_benchmark
from salmu_core import Split
from salmu_core.builtin.toy import Toy
from salmu_core.errors import BadData, OutputError
from salmu_core.evaluation.evaluate import evaluate_model
from salmu_core.files.writing import write_json
from salmu_core.models.dual_encoder import DualEncoder
from salmu_mini import Mini
from salmu_mini.generate import generate
from salmu_mini.recipe import RECIPES
from salmu_mini.sizes import SIZES
from salmubench import Salmubench, SalmubenchLayout, Snapshot, SnapshotBenchmark, write_snapshot

salmu_metrics = pytest.importorskip("salmu_metrics")


def _scores(benchmark, which) -> dict[str, float]:
    evaluation = evaluate_model(benchmark.load_model(which), benchmark, [cls() for cls in salmu_metrics.register_metrics()])
    assert not evaluation.skipped
    return {name: score.value for name, score in evaluation.scores.items()}


def _same_scores(source, copy) -> None:
    for which in ("clean", "compromised"):
        wanted = _scores(source, which)
        assert len(wanted) == len(salmu_metrics.register_metrics()) == 11
        assert _scores(copy, which) == pytest.approx(wanted, abs=1e-6)


def test_toy_reads_back_with_equal_rows_models_and_scores(toy: Toy, exported: Path, own_cache: Path) -> None:
    copy = Salmubench(Salmubench.Options(data_dir=exported))
    check_benchmark(copy)
    for name in toy.splits():
        source, found = toy.split(name), copy.split(name)
        assert list(source.texts or []) == list(found.texts or [])
        if source.images is not None:
            assert [source.images.read(row) for row in range(len(source))] == [
                found.images.read(row) for row in range(len(found))
            ]
    for which in ("clean", "compromised"):
        assert copy.load_model(which).fingerprint() == toy.load_model(which).fingerprint()
    _same_scores(toy, copy)


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    """A tiny instance whose pair is not trained: equal scores of equal models are what is asked for."""
    benchmark = Mini(Mini.Options(size="tiny"), tmp_path / "cache")
    write_snapshot(benchmark.folder / "snapshot", generate(SIZES["tiny"], 0))
    for seed, which in enumerate(("clean", "compromised")):
        DualEncoder.create(RECIPES["tiny"].model, seed).save(benchmark.folder / which)
    write_json(benchmark.folder / "ready.json", {})
    return benchmark


def test_mini_reads_back_with_equal_scores_and_metadata(mini: Mini, tmp_path: Path, own_cache: Path) -> None:
    SalmubenchLayout().export(mini, tmp_path / "snapshot")
    copy = Salmubench(Salmubench.Options(data_dir=tmp_path / "snapshot"))
    _same_scores(mini, copy)
    assert copy.split("retain").texts == mini.split("retain").texts
    # The budget belongs to the benchmark and not to its data: ten passes there, two of forget and six of retain in mini.
    assert copy.budget().forget == 5 * mini.budget().forget
    for name in ("identities_metadata.json", "fragile_set_all_similarities.json"):
        assert Snapshot(tmp_path / "snapshot").metadata(name) == mini.snapshot().metadata(name)
    assert not Snapshot(tmp_path / "snapshot").has("pretrain")  # what only the training of the pair sees


def test_an_export_of_an_export_is_the_same_files(exported: Path, tmp_path: Path) -> None:
    copy = Salmubench(Salmubench.Options(data_dir=exported), tmp_path / "cache")
    written = SalmubenchLayout().export(copy, tmp_path / "again")
    assert [path.relative_to(tmp_path / "again") for path in written] == sorted(
        path.relative_to(exported) for path in exported.rglob("*") if path.is_file()
    )
    for path in written:
        assert path.read_bytes() == (exported / path.relative_to(tmp_path / "again")).read_bytes(), path


def test_a_directory_that_holds_something_is_refused(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not an empty directory"):
        SalmubenchLayout().export(toy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Failing(Toy):
        def load_model(self, which: str) -> DualEncoder:
            raise RuntimeError("no model")

    target = tmp_path / "snapshot"
    target.mkdir()
    with pytest.raises(RuntimeError, match="no model"):
        SalmubenchLayout().export(Failing(), target)
    assert list(tmp_path.iterdir()) == [target]
    assert not list(target.iterdir())


def test_what_a_killed_export_left_is_replaced(toy: Toy, tmp_path: Path) -> None:
    leftover = tmp_path / ".snapshot.part" / "data"
    leftover.mkdir(parents=True)
    (leftover / "forget-00000-of-00001.parquet").write_bytes(b"half")
    SalmubenchLayout().export(toy, tmp_path / "snapshot")
    assert [path.name for path in tmp_path.iterdir()] == ["snapshot"]
    assert Snapshot(tmp_path / "snapshot").is_complete()


class OtherIdentities(Toy):
    """Its forget_identity is not what the layout derives."""

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        return split.take(range(2)) if name == "forget_identity" else split


class OtherFields(Toy):
    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        if name != "forget":
            return split
        return Split(name, split.images, split.texts, {**split.columns, "data_field": ["shoe_size"] * len(split)})


class FewerSplits(Toy):
    def splits(self):
        return {name: info for name, info in super().splits().items() if name != "holdout_identity"}


@pytest.mark.parametrize(
    ("benchmark", "words"),
    [
        (OtherIdentities, "its split 'forget_identity' reads back with other captions"),
        (OtherFields, "data_field 'shoe_size' of split 'forget' of toy is unknown"),
        (FewerSplits, "toy has no split holdout_identity"),
    ],
)
def test_a_benchmark_that_does_not_fit_the_layout_is_refused(benchmark: type[Toy], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=words):
        SalmubenchLayout().export(benchmark(), tmp_path / "snapshot")
    assert not list(tmp_path.iterdir())


def test_shards_tell_the_datasets_library_that_the_column_holds_pictures(exported: Path) -> None:
    import pyarrow.parquet as pq

    for split, label in (("forget", None), ("genknow", {"dtype": "int64", "_type": "Value"})):
        [shard] = Snapshot(exported).shards(split)
        features = json.loads(pq.read_schema(shard).metadata[b"huggingface"])["info"]["features"]
        assert features["image"] == {"_type": "Image"}
        assert features.get("label") == label


def test_methods_see_the_same_rows(toy: Toy, exported: Path) -> None:
    copy: SnapshotBenchmark = Salmubench(Salmubench.Options(data_dir=exported))
    for role in ("forget", "retain"):
        assert copy.split_for(role).columns["file_name"] == toy.split_for(role).columns["file_name"]
