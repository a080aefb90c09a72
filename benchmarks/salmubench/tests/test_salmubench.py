"""The benchmark `salmubench`: where data and models come from, and what of that is part of a run's identity."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadCheckpoint, BadData, BadOptions
from salmu_core.files.writing import write_json, write_tensors
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.options import parse_options
from salmu_core.plugins.loading import Plugins, load_plugins
from salmu_core.records.schema import RunSpec
from salmu_core.runner.run import Settings, run
from salmu_core.spec.resolve import resolve
from salmubench import Salmubench, SalmubenchOptions

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
RESNET = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}, "text_cfg": TEXT}
CUSTOM_TEXT = {**dict(TOY_MODEL.model_cfg), "custom_text": True, "init_logit_bias": -10.0}


@pytest.fixture
def plugins() -> Plugins:
    return load_plugins(only=["salmu-bench", "salmu-metrics"])


def _benchmark(folder: Path, **options) -> Salmubench:
    return Salmubench(parse_options(SalmubenchOptions, {"data_dir": str(folder), **options}, "salmubench"))


def test_options_left_out_are_the_published_pair_and_ten_passes(plugins: Plugins) -> None:
    assert plugins.benchmarks["salmubench"].cls is Salmubench
    assert SalmubenchOptions().passes == 10
    assert SalmubenchOptions().architecture == "ViT-B-16"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("revision", "main", "a commit is expected"),
        ("clean", "hf-hub:somebody/model", "with a commit of 40 hex digits"),
        ("clean", "hf-hub:somebody/model@main", "with a commit of 40 hex digits"),
        ("passes", "0", "greater than 0"),
    ],
)
def test_what_could_change_behind_a_finished_run_is_refused(option: str, value: str, words: str) -> None:
    with pytest.raises(BadOptions, match=words):
        parse_options(SalmubenchOptions, {option: value}, "salmubench")


def test_paths_are_absolute_in_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = parse_options(SalmubenchOptions, {"data_dir": "here", "clean": "weights.bin"}, "salmubench")
    assert options.data_dir == tmp_path / "here"
    assert options.clean == str(tmp_path / "weights.bin")


def test_a_folder_that_is_no_snapshot_is_refused_before_anything_runs(
    snapshot: Path, tmp_path: Path, plugins: Plugins
) -> None:
    (snapshot / "fragile_set_ids.json").unlink()
    for folder, words in ((tmp_path / "nothing", "There is no folder"), (snapshot, "not complete: fragile_set_ids.json")):
        spec = RunSpec(method="none", benchmark="salmubench", benchmark_options={"data_dir": str(folder)})
        with pytest.raises(BadData, match=words):
            resolve(spec, plugins, tmp_path / "cache")
        assert not _benchmark(folder).ready()
        with pytest.raises(BadData, match=words):
            _benchmark(folder).build()


def test_the_budget_counts_passes_over_forget(exported: Path) -> None:
    assert _benchmark(exported).budget().forget == 10 * 42
    assert _benchmark(exported, passes="2.5").budget().forget == 105


def test_general_knowledge_is_there_only_where_the_snapshot_has_pictures_for_it(snapshot: Path) -> None:
    assert "genknow" in _benchmark(snapshot).splits()
    shutil.rmtree(snapshot / "data", ignore_errors=False)
    assert "genknow" not in _benchmark(snapshot).splits()


def test_the_papers_rows_stand_beside_the_papers_data_only(exported: Path) -> None:
    assert _benchmark(exported).published() == ()
    assert len(Salmubench().published()) > 5


# Identity


def _identity(folder: Path, plugins: Plugins, cache: Path, **options) -> str:
    spec = RunSpec(method="none", benchmark="salmubench", benchmark_options={"data_dir": str(folder), **options})
    return resolve(spec, plugins, cache).id


def test_a_moved_snapshot_gives_the_same_run(exported: Path, tmp_path: Path, plugins: Plugins) -> None:
    moved = Path(shutil.copytree(exported, tmp_path / "elsewhere"))
    assert _identity(exported, plugins, tmp_path) == _identity(moved, plugins, tmp_path)
    clean = {"clean": str(moved / "clean")}  # the same weights by another way
    assert _identity(exported, plugins, tmp_path) == _identity(exported, plugins, tmp_path, **clean)


def _other_fragile_set(folder: Path) -> None:
    path = folder / "fragile_set_ids.json"
    path.write_text(json.dumps(json.loads(path.read_text())[1:]))


def _other_pictures(folder: Path) -> None:
    path = folder / "data" / "forget-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def _other_weights(folder: Path) -> None:
    DualEncoder.create(TOY_MODEL, 5).save(folder / "compromised")
    (folder / "compromised" / "model.safetensors").replace(folder / "compromised" / "open_clip_model.safetensors")


@pytest.mark.parametrize("change", [_other_fragile_set, _other_pictures, _other_weights])
def test_a_changed_snapshot_at_the_same_place_gives_another_run(
    change, snapshot: Path, tmp_path: Path, plugins: Plugins
) -> None:
    before = _identity(snapshot, plugins, tmp_path)
    change(snapshot)
    assert _identity(snapshot, plugins, tmp_path) != before


def test_another_budget_is_another_run(exported: Path, tmp_path: Path, plugins: Plugins) -> None:
    assert _identity(exported, plugins, tmp_path) != _identity(exported, plugins, tmp_path, passes=5)


def test_a_finished_run_is_found_again_after_the_snapshot_moved(
    snapshot: Path, tmp_path: Path, plugins: Plugins, own_cache: Path
) -> None:
    def once(folder: Path, start: str, out: Path):
        options = {"data_dir": str(folder)}
        settings = Settings(cpu=True)
        return run(
            "none",
            benchmark="salmubench",
            benchmark_options=options,
            start=start,
            out=out,
            settings=settings,
            plugins=plugins,
        )

    first = once(snapshot, "clean", tmp_path / "one")
    moved = snapshot.rename(tmp_path / "moved")
    assert once(moved, "clean", tmp_path / "one").created_at == first.created_at
    second = once(moved, "compromised", tmp_path / "two")
    assert second.spec.benchmark_options["data_dir"] != first.spec.benchmark_options["data_dir"]
    assert [row.title for row in compare_records([first, second]).rows] == ["Clean", "Compromised"]


# Models


def _as_directory(model: DualEncoder, folder: Path) -> str:
    model.save(folder)
    return str(folder)


def _as_repository(model: DualEncoder, folder: Path) -> str:
    write_json(folder / "open_clip_config.json", model.config.as_json())
    torch.save(model.weights(), folder / "open_clip_pytorch_model.bin")
    return str(folder)


def _as_file_beside_a_configuration(model: DualEncoder, folder: Path) -> str:
    _as_repository(model, folder)
    return str(folder / "open_clip_pytorch_model.bin")


@pytest.mark.parametrize("kept", [_as_directory, _as_repository, _as_file_beside_a_configuration])
@pytest.mark.parametrize("config", [dict(TOY_MODEL.model_cfg), RESNET, CUSTOM_TEXT], ids=["vit", "resnet", "custom text"])
def test_models_of_any_architecture_are_loaded_from_wherever_they_are_kept(
    kept, config, exported: Path, tmp_path: Path
) -> None:
    model = DualEncoder.create(ModelConfig(config), seed=3)
    source = kept(model, tmp_path / "model")
    benchmark = _benchmark(exported, clean=source)
    assert benchmark.ready()
    loaded = benchmark.load_model("clean")
    assert loaded.fingerprint() == model.fingerprint()
    assert loaded.clip.__class__ is model.clip.__class__
    assert benchmark.load_model("compromised").fingerprint() != model.fingerprint()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin", "weights.pt"])
def test_a_bare_file_is_of_the_named_architecture(name: str, exported: Path, tmp_path: Path, monkeypatch) -> None:
    import open_clip

    known = open_clip.get_model_config
    configs = {"tiny-clip": dict(TOY_MODEL.model_cfg)}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: configs.get(name) or known(name))
    model = DualEncoder.create(ModelConfig(configs["tiny-clip"]), seed=3)
    path = tmp_path / name
    if name.endswith(".safetensors"):
        write_tensors(path, model.weights())
    else:  # as training programs leave it
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in model.weights().items()}}, path)
    loaded = _benchmark(exported, compromised=str(path), architecture="tiny-clip").load_model("compromised")
    assert loaded.fingerprint() == model.fingerprint()
    with pytest.raises(BadCheckpoint, match="no architecture called 'ViT-B-17'"):
        _benchmark(exported, compromised=str(path), architecture="ViT-B-17").load_model("compromised")


def test_weights_of_which_nothing_is_said_have_to_be_a_vit_b_16(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_tensors(tmp_path / "model" / "open_clip_model.safetensors", {"logit_scale": torch.zeros(())})
    with pytest.raises(BadCheckpoint, match="is of another architecture: lacks") as caught:
        _benchmark(exported, clean=str(tmp_path / "model")).load_model("clean")
    assert "embedding 512, image 224 px, vision width 768, vision layers 12" in str(caught.value)


class _Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(exported: Path, tmp_path: Path) -> None:
    victim = tmp_path / "ran"
    (tmp_path / "weights.bin").write_bytes(pickle.dumps(_Malicious(victim)))
    with pytest.raises(BadCheckpoint, match="not a checkpoint that can be read safely"):
        _benchmark(exported, clean=str(tmp_path / "weights.bin")).load_model("clean")
    torch.save({"state_dict": _Malicious(victim)}, tmp_path / "zipped.bin")
    with pytest.raises(BadCheckpoint, match="not a checkpoint that can be read safely"):
        _benchmark(exported, clean=str(tmp_path / "zipped.bin")).load_model("clean")
    assert not victim.exists()


def test_a_path_where_no_model_is_says_so(exported: Path, tmp_path: Path) -> None:
    benchmark = _benchmark(exported, clean=str(tmp_path / "nothing"))
    assert not benchmark.ready()
    for ask in (benchmark.build, benchmark.identity, lambda: benchmark.load_model("clean")):
        with pytest.raises(BadCheckpoint, match=r"There is no model at '.*nothing'"):
            ask()


def test_nothing_is_downloaded_where_everything_is_given(exported: Path) -> None:
    benchmark = _benchmark(exported)
    assert benchmark.downloads() == []
    benchmark.build()
    assert benchmark.ready()


# ImageNet


def _class_folders(folder: Path, colour: int) -> Path:
    from PIL import Image

    from salmubench.imagenet import wordnet_ids

    for number, name in enumerate(wordnet_ids()):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, colour)).save(folder / name / "one.png")
    return folder


def test_imagenet_takes_the_place_of_the_snapshots_pictures_and_is_known_by_its_content(
    exported: Path, tmp_path: Path
) -> None:
    one = _class_folders(tmp_path / "one", 0)
    cache = tmp_path / "cache"
    benchmark, plain = (
        Salmubench(parse_options(SalmubenchOptions, {"data_dir": str(exported), **more}, "salmubench"), cache)
        for more in ({"imagenet": str(one)}, {})
    )
    assert len(benchmark.split("genknow")) == 1000
    assert len(benchmark.split("genknow_prompts")) == 80_000
    assert benchmark.fingerprint() != plain.fingerprint()
    assert benchmark.identity()["imagenet"] is not None
    moved = one.rename(tmp_path / "moved")
    again = Salmubench(Salmubench.Options(data_dir=exported, imagenet=moved), cache)
    assert again.identity() == benchmark.identity()
    (moved / "n01440764" / "one.png").write_bytes((moved / "n01443537" / "one.png").read_bytes())
    assert Salmubench(Salmubench.Options(data_dir=exported, imagenet=moved), cache).identity() != benchmark.identity()
    with pytest.raises(BadData, match=r"one.png' has changed since it was opened"):
        again.split("genknow").images.read(0)
