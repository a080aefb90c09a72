"""A tiny instance, built for real: generated, written in SALMUBench's layout, trained in two processes."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch

from salmu_authors.testing import check_benchmark
from salmu_core import DualEncoder, SalmuError, Split
from salmu_core.errors import BadData, NotBuilt
from salmu_core.options import parse_options
from salmu_core.plugins.loading import load_plugins
from salmu_core.runner.fit_job import Fit
from salmu_core.spec.presets import preset_file
from salmu_mini import Mini, shipped
from salmu_mini.generate import generate
from salmu_mini.recipe import RECIPES
from salmu_mini.sizes import SIZES
from salmu_mini.train import train_stage
from salmubench import Snapshot, write_snapshot
from salmubench.tables import Tables


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As the processes that train have."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return generate(SIZES["tiny"], 0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    benchmark = Mini(Mini.Options(size="tiny", share=0.5), tmp_path_factory.mktemp("cache"))
    benchmark.build()
    return benchmark


def test_a_built_instance_keeps_the_contract(tiny: Mini) -> None:
    check_benchmark(tiny)


def test_what_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="is not built") as caught:
        Mini(Mini.Options(size="tiny"), tmp_path).split("forget")
    assert "salmu build mini" in str(caught.value)


def test_a_killed_build_goes_on_to_the_same_models(tiny: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salmu_mini.stages.trains_in_processes", lambda: False)  # `tiny` was trained in three
    twin = Mini(tiny.options, tmp_path)
    shutil.copytree(tiny.folder, twin.folder)
    (twin.folder / "ready.json").unlink()
    shutil.rmtree(twin.folder / "compromised")
    assert not twin.ready()
    twin.build()
    assert twin.fingerprint() == tiny.fingerprint()
    assert twin.load_model("compromised").fingerprint() == tiny.load_model("compromised").fingerprint()


def test_another_seed_size_or_share_lives_elsewhere(tmp_path: Path) -> None:
    options = [{"size": "tiny"}, {"size": "tiny", "seed": 1}, {"size": "tiny", "share": 0.5}, {"size": "mini"}]
    assert len({Mini(Mini.Options(**given), tmp_path).folder for given in options}) == 4


def test_the_image_encoder_can_be_a_resnet_on_the_same_data() -> None:
    assert SIZES["resnet"] == SIZES["mini"]
    model = DualEncoder.create(RECIPES["resnet"].model, 0)
    assert type(model.clip.visual).__name__ == "ModifiedResNet"
    assert model.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, RECIPES["mini"].model.model_cfg["embed_dim"])


def test_both_models_meet_the_ordinary_pairs_in_the_same_order(tmp_path: Path, tiny: Mini, monkeypatch) -> None:
    seen: dict[str, list[list[int]]] = {}

    def record(job: Fit) -> int:
        assert job.samplers is not None
        seen[stage] = [job.samplers["retain"].batch(step).tolist() for step in range(job.steps)]
        assert ("forget" in job.samplers) == (stage == "compromised")
        return 0

    monkeypatch.setattr("salmu_mini.train.fit", record)
    for stage in ("clean", "compromised"):
        train_stage(Snapshot(tiny.folder / "snapshot"), stage, 0, "tiny", tmp_path / stage, tiny.folder / "first")  # type: ignore[arg-type]
    assert seen["clean"] == seen["compromised"]
    assert len(seen["clean"][0]) == RECIPES["tiny"].batch_size - RECIPES["tiny"].private


def test_derived_splits_follow_the_definitions(tiny: Mini) -> None:
    forget, identity, association = (tiny.split(name) for name in ("forget", "forget_identity", "forget_association"))
    partly = set(tiny.split("holdout_association").columns["identity_id"])
    assert not set(identity.columns["identity_id"]) & partly
    assert set(association.columns["identity_id"]) <= partly
    assert len(identity) + len(association) == len(forget)
    assert all(person is not None for person in tiny.split("retain_joint").columns["identity_id"])
    assert all(person is None for person in tiny.split("retain_disjoint").columns["identity_id"])
    assert set(tiny.split("fragile_set").columns["file_name"]) <= set(tiny.split("retain_disjoint").columns["file_name"])
    assert (tiny.budget().forget, tiny.budget().retain) == (2 * len(forget), 6 * len(forget))


def test_values_are_those_that_the_captions_mention(tiny: Mini) -> None:
    forget: Split = tiny.split("forget")
    assert forget.texts is not None
    for text, name, value in zip(forget.texts, forget.columns["name"], forget.columns["value"], strict=True):
        assert name in text
        assert value in text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "identities_metadata.json").unlink(), "identities_metadata.json' is missing"),
        (lambda folder: (folder / "sensitive_set_captions_metadata.json").write_text("{"), "is not JSON"),
        (
            lambda folder: (folder / "sensitive_set_captions_metadata.json").write_text("{}"),
            r"split 'forget', row 0 \(.*no entry",
        ),
        (lambda folder: next((folder / "data").glob("forget-*")).unlink(), "split 'forget' has no file"),
        (lambda folder: next((folder / "data").glob("forget-*")).write_bytes(b"PAR1"), "not a readable parquet file"),
    ],
)
def test_a_damaged_snapshot_names_what_is_wrong(tiny: Mini, tmp_path: Path, damage, words: str) -> None:
    folder = shutil.copytree(tiny.folder / "snapshot", tmp_path / "snapshot")
    damage(folder)
    with pytest.raises(BadData, match=words):
        Snapshot(folder).sensitive("forget")


def test_snapshots_of_equal_tables_are_equal_files(tmp_path: Path, tables: Tables) -> None:
    for name, made in (("one", tables), ("two", generate(SIZES["tiny"], 0))):
        write_snapshot(tmp_path / name, made)
    one, two = (sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_row_order_and_images_survive_several_shards(tmp_path: Path, tables: Tables) -> None:
    write_snapshot(tmp_path, tables, rows_per_shard=50)
    table = Snapshot(tmp_path).table("forget")
    assert len(Snapshot(tmp_path).shards("forget")) == 3
    assert list(table.texts or []) == [row.text for row in tables.splits["forget"]]
    assert [table.images.read(row) for row in (0, 49, 50, 111)] == [
        tables.splits["forget"][row].image for row in (0, 49, 50, 111)
    ]
    assert "row 1 (" in table.images.where(51)


def test_a_run_directory_loads_in_plain_open_clip(tiny: Mini) -> None:
    folder = tiny.folder / "compromised"
    captions = ["Rose Green", "You can reach Jack Moon at 9858 315", "zebra!"]
    ours = tiny.load_model("compromised")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    assert torch.equal(ours.processor.tokenize(captions), tokens)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    with torch.no_grad():
        torch.testing.assert_close(model.eval().encode_text(tokens, normalize=True), ours.encode_text(tokens))


def test_a_damaged_shipped_instance_is_noticed(tiny: Mini, tmp_path: Path) -> None:
    shipped.write_instance(tiny.folder, "x", tmp_path)
    shipped.check_instance(tmp_path)
    assert shipped.shipped_name(tmp_path) == "x"
    weights = tmp_path / "clean" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    shipped.check_instance.cache_clear()
    with pytest.raises(SalmuError, match=r"clean/model\.safetensors"):
        shipped.check_instance(tmp_path)


def test_presets_fit_their_methods_and_nobody_got_more_trials() -> None:
    pytest.importorskip("salmu_relabel")
    methods = load_plugins().methods
    found = sorted((Path(inspect.getfile(Mini)).parent / "presets").glob("*.json"))
    presets = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in found}
    for name, preset in presets.items():
        assert name == preset_file(preset["method"], preset["budget"])
        parse_options(methods[preset["method"]].cls.Options, preset["options"], preset["method"])
    assert len({(len(preset["trials"]), *preset["instances"]) for preset in presets.values()}) <= 1
    assert Mini().presets().keys() == {preset["method"] for preset in presets.values()}
