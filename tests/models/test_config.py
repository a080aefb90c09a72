"""Configurations of checkpoints are data: what open_clip ships is read, and what could run code, ask the network or fill the memory is
refused with one error."""

import copy
import json
import os
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from salmu_core.errors import BadCheckpoint
from salmu_core.models.config import check_config, known_names, read_config
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig, sized_up
from salmu_core.models.folder_tokenizer import SETTINGS, TOKENIZER
from salmu_core.models.loading import load_model
from salmu_core.models.processor import Processor
from salmu_core.models.weights import read_weights

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


def folder_with(tmp_path, change):
    """A model folder as anybody may write one, without salmu's checksums."""
    model = DualEncoder.create(ModelConfig(SMALL), 0)
    model.config.write(tmp_path)
    save_file(dict(model.weights()), tmp_path / "model.safetensors")
    path = tmp_path / "open_clip_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return tmp_path


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to ask the network fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"asked the network: {args}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


# CoCa has a decoder, which salmu does not build.
def test_every_architecture_of_open_clip_is_on_the_list():
    names = [name for name in open_clip.list_models() if not name.startswith("coca")]
    assert len(names) > 100
    for name in names:
        check_config(ModelConfig.named(name), name)


def test_the_names_that_open_clip_ships_are_known():
    assert {"roberta-base", "xlm-roberta-base", "bert-base-uncased"} <= known_names()


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("text_cfg", "vocab_size", 2_000_000_000, "vocab_size"),
        ("text_cfg", "layers", 10**7, "layers"),
        ("text_cfg", "layers", "12", "layers"),
        ("text_cfg", "context_length", -1, "context_length"),
        ("text_cfg", "brand_new", 1, "brand_new"),
        ("text_cfg", "norm_kwargs", {"eps": {"a": 1}}, "norm_kwargs"),
        ("vision_cfg", "width", 32_769, "width"),
        ("vision_cfg", "image_size", [16, 16, 16], "image_size"),
        ("vision_cfg", "timm_model_name", "hf-hub:somebody/something", "timm does not have"),
        ("vision_cfg", "timm_model_name", "local-dir:/etc", "timm does not have"),
        ("vision_cfg", "timm_model_name", "not_a_model", "timm does not have"),
        ("text_cfg", "hf_model_name", "somebody/something", "none of open_clip's own configurations"),
        ("vision_cfg", "norm_kwargs", {"device": "meta"}, r"norm_kwargs\.device"),
        ("text_cfg", "act_kwargs", {"approximate": "x"}, r"act_kwargs\.approximate"),
        ("text_cfg", "tokenizer_kwargs", {"trust_remote_code": True}, "trust_remote_code"),
        ("text_cfg", "tokenizer_kwargs", {"cache_dir": "/tmp"}, "cache_dir"),
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(tmp_path, part, key, value, said):
    folder = folder_with(tmp_path, lambda content: content["model_cfg"][part].update({key: value}))
    with pytest.raises(BadCheckpoint, match=said):
        load_model(folder)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("text_cfg", {"layers": 8, "width": 32_768}),
        ("vision_cfg", {"image_size": 992, "patch_size": 1, "width": 8192, "head_width": 64}),
        ("vision_cfg", {"layers": 6, "width": 16_384, "mlp_ratio": 64.0, "head_width": 64}),
        ("vision_cfg", {"layers": [1, 1, 1, 24], "width": 16_384}),
        ("vision_cfg", {"timm_model_name": "eva02_enormous_patch14_clip_224"}),
        ("text_cfg", {"context_length": 8_192, "vocab_size": 2_000_000, "width": 16_384}),
    ],
)
def test_a_model_is_not_built_for_weights_that_hold_less(tmp_path, monkeypatch, part, change):
    folder = folder_with(tmp_path, lambda content: content["model_cfg"][part].update(change))
    monkeypatch.setattr(DualEncoder, "create", lambda *given, **named: pytest.fail("built"))
    with pytest.raises(BadCheckpoint, match="lacks most of it"):
        load_model(folder)


def test_pictures_of_too_many_places_are_refused_before_anything_is_made_for_them():
    config = copy.deepcopy(SMALL)
    config["vision_cfg"].update(image_size=[8192, 4096], patch_size=1, pos_embed_type="sin_cos_2d")
    with pytest.raises(BadCheckpoint, match="33,554,432 places"):
        check_config(ModelConfig(config), "x")


@pytest.mark.parametrize("name", ["ViT-bigG-14", "RN50x64", "EVA02-E-14-plus"])
def test_the_largest_models_that_people_keep_are_sized_up_without_memory(name):
    config = ModelConfig.named(name)
    needed, problem = sized_up(json.dumps(config.model_cfg), config.online, Processor(config).image_shape)
    assert needed > 600_000_000
    assert not problem


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timm_model_name": "vit_tiny_patch16_224", "image_size": 256}, "256 x 256 pixels: Input"),
        ({"patch_size": 24}, "16 x 16 pixels"),
        (
            {"timm_model_name": "resnet10t", "timm_proj": "none", "timm_pool": "avg"},
            r"it makes \(1, 512\) of it instead of \(1, 16\)",
        ),
    ],
)
def test_a_model_that_cannot_encode_its_own_pictures_is_refused_when_it_is_loaded(tmp_path, change, said):
    config = copy.deepcopy(SMALL)
    config["vision_cfg"].update(change)
    DualEncoder.create(ModelConfig(config), 0).save(tmp_path)
    with pytest.raises(BadCheckpoint, match=said):
        load_model(tmp_path)


def test_pictures_become_as_large_as_the_encoder_takes_whatever_the_preprocessing_says(tmp_path):
    folder = folder_with(tmp_path, lambda content: content.update(preprocess_cfg={"size": 224, "mean": [0.5, 0.5, 0.5]}))
    model = load_model(folder)
    assert model.processor.image_shape == (3, 16, 16)
    _, _, theirs = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    ours = model.processor.normalise(torch.from_numpy(model.processor.pixels(image))[None])[0]
    assert torch.equal(ours, theirs(image))


def test_a_caption_that_the_model_has_no_vector_for_is_one_error(tmp_path):
    config = copy.deepcopy(SMALL)
    config["text_cfg"]["vocab_size"] = 1000
    DualEncoder.create(ModelConfig(config), 0).save(tmp_path)
    with pytest.raises(BadCheckpoint, match="gives number 49,407; the model has 1,000"):
        load_model(tmp_path).processor.tokenize(["a"])


def test_a_model_other_than_the_one_that_is_wanted_is_refused(tmp_path):
    model = DualEncoder.create(ModelConfig(SMALL), 0)
    model.save(tmp_path)
    assert load_model(tmp_path, fingerprint=model.fingerprint())
    with pytest.raises(BadCheckpoint, match="holds another model than its record"):
        load_model(tmp_path, fingerprint=DualEncoder.create(ModelConfig(SMALL), 1).fingerprint())


@pytest.mark.parametrize("kind", ["missing", "spread", "sparse", "meta"])
def test_a_model_is_not_built_for_weights_that_are_too_few(tmp_path, monkeypatch, kind):
    weights = dict(DualEncoder.create(ModelConfig(SMALL), 0).weights())
    table = weights.pop("token_embedding.weight")
    if kind != "missing":
        made = {"spread": table[:1, :1].clone().expand(table.shape), "sparse": table.to_sparse(), "meta": table.to("meta")}
        weights["token_embedding.weight"] = made[kind]
    torch.save(weights, tmp_path / "w.pt")
    monkeypatch.setattr(DualEncoder, "create", lambda *given, **named: pytest.fail("built"))
    said = {"missing": "lacks most", "spread": "as fewer numbers than"}.get(kind, f"holds token_embedding.weight as {kind}")
    with pytest.raises(BadCheckpoint, match=said):
        load_model(tmp_path / "w.pt", like=ModelConfig(SMALL))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_in_a_configuration(tmp_path, number):
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": {"mean": ["N", 0.5, 0.5]}}).replace('"N"', number))
    with pytest.raises(BadCheckpoint, match="is not a number"):
        read_config(path)


@pytest.mark.parametrize("extreme", [{"mean": [1e308, 0.5, 0.5]}, {"std": [5e-324, 0.3, 0.3]}], ids=["mean", "std"])
def test_colours_that_would_not_stay_finite_are_refused(tmp_path, extreme):
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": extreme}))
    with pytest.raises(BadCheckpoint, match=next(iter(extreme))):
        read_config(path)


def test_code_beside_a_tokenizer_is_not_run(tmp_path):
    mark = tmp_path / "EXECUTED"
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "evil.py").write_text(f"open({str(mark)!r}, 'w').write('x')\nclass Evil: pass\n")
    (evil / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"})
    )
    for number, change in enumerate(
        (
            {"hf_tokenizer_name": str(evil), "tokenizer_kwargs": {"trust_remote_code": True}},
            {"hf_tokenizer_name": str(evil)},
        )
    ):
        folder = folder_with(tmp_path / f"m{number}", lambda content, c=change: content["model_cfg"]["text_cfg"].update(c))
        with pytest.raises(BadCheckpoint):
            load_model(folder)
    assert not mark.exists()


def test_a_known_tokenizer_is_not_fetched_for_a_local_checkpoint(tmp_path):
    folder = folder_with(tmp_path, lambda content: content["model_cfg"]["text_cfg"].update(hf_tokenizer_name="roberta-base"))
    with pytest.raises(BadCheckpoint, match=r"a local checkpoint asks no network[\s\S]*hf download roberta-base"):
        load_model(folder)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "[" * 100_000,
        "{",
        '{"model_cfg": 3}',
        '{"model_cfg": {"embed_dim": 4}}',
        "\udc80".encode("utf-8", "surrogatepass"),
    ],
)
def test_what_is_not_a_configuration_is_one_error(tmp_path, text):
    path = tmp_path / "open_clip_config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadCheckpoint, match=r"open_clip_config\.json"):
        read_config(path)


def test_a_pipe_is_not_read(tmp_path):
    folder = folder_with(tmp_path, lambda content: None)
    (folder / "open_clip_config.json").unlink()
    os.mkfifo(folder / "open_clip_config.json")
    with pytest.raises(BadCheckpoint, match=r"holds no open_clip_config\.json"):
        load_model(folder)
    os.mkfifo(folder / "weights.pt")
    with pytest.raises(BadCheckpoint, match="is not a file"):
        read_weights(folder / "weights.pt")


def test_compressed_archives_are_refused(tmp_path):
    torch.save({"x": torch.zeros(1000)}, tmp_path / "plain.pt")
    assert read_weights(tmp_path / "plain.pt")["x"].shape == (1000,)
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(BadCheckpoint, match="holds compressed data"):
        read_weights(tmp_path / "packed.pt")


def test_settings_of_pictures_are_checked_too(tmp_path):
    folder = folder_with(tmp_path, lambda content: content.update(preprocess_cfg={"mean": ["a", 0.5, 0.5]}))
    with pytest.raises(BadCheckpoint, match="mean"):
        load_model(folder)


def test_towers_that_a_configuration_wants_pretrained_are_built_from_random_weights(tmp_path):
    vision = {
        "timm_model_name": "resnet18",
        "timm_model_pretrained": True,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    }
    DualEncoder.create(ModelConfig({**SMALL, "vision_cfg": vision}), 0).save(tmp_path)
    assert load_model(tmp_path).config.model_cfg["vision_cfg"]["timm_model_name"] == "resnet18"


# ---------------------------------------------------------------- a tokenizer in the model's folder

CAPTIONS = ["A red star", "call Rose: 4821 332", "", "rose.green48@starmail.com — ünïcode words " * 5]


def word_tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "<unk>", "<start>", "a", "red", "star", "call", "rose", ":", *"0123456789", "<end>"]
    ids = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", len(words) - 1)]
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<end>"}
    return {TOKENIZER: made.to_str(), SETTINGS: json.dumps(settings)}, len(words)


def test_a_tokenizer_in_the_folder_gives_the_tokens_that_open_clip_gives(tmp_path):
    files, size = word_tokenizer()
    text = {**SMALL["text_cfg"], "vocab_size": size, "hf_tokenizer_name": "in-this-folder"}
    DualEncoder.create(ModelConfig({**SMALL, "text_cfg": text}, {}, files), 0).save(tmp_path)
    ours = load_model(tmp_path)
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert torch.equal(ours.processor.tokenize(CAPTIONS), theirs(CAPTIONS))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    with torch.no_grad():
        expected = model.eval().encode_text(theirs(CAPTIONS), normalize=True)
        torch.testing.assert_close(ours.encode_text(ours.processor.tokenize(CAPTIONS)), expected)


def test_what_a_folders_tokenizer_leaves_of_captions_is_seen():
    files, size = word_tokenizer()
    text = {**SMALL["text_cfg"], "vocab_size": size, "hf_tokenizer_name": "in-this-folder"}
    processor = Processor(ModelConfig({**SMALL, "text_cfg": text}, {}, files))
    fits, longer, unknown, other = "1" * 14, "1" * 15, "a 张 star", "a 李 star"
    tokens, cut = processor.what_is_read([fits, longer, unknown, other, ""])
    assert cut.tolist() == [False, True, False, False, False]
    assert (tokens[2] == tokens[3]).all()
    assert (tokens[4] == processor.what_is_read([" "])[0][0]).all()
    assert not (tokens[4] == tokens[0]).all()


def test_another_vocabulary_is_another_fingerprint(tmp_path):
    files, size = word_tokenizer()
    text = {**SMALL["text_cfg"], "vocab_size": size, "hf_tokenizer_name": "in-this-folder"}
    changed = {**files, TOKENIZER: files[TOKENIZER].replace('"red"', '"blue"')}
    one, other = (DualEncoder.create(ModelConfig({**SMALL, "text_cfg": text}, {}, f), 0) for f in (files, changed))
    assert one.processor.text_fingerprint != other.processor.text_fingerprint


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_one_error(tmp_path, content):
    files, size = word_tokenizer()
    text = {**SMALL["text_cfg"], "vocab_size": size, "hf_tokenizer_name": "in-this-folder"}
    DualEncoder.create(ModelConfig({**SMALL, "text_cfg": text}, {}, files), 0).save(tmp_path)
    (tmp_path / TOKENIZER).write_text(content)
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json"):
        load_model(tmp_path)
    (tmp_path / TOKENIZER).write_text(files[TOKENIZER])
    (tmp_path / SETTINGS).write_text(content)
    with pytest.raises(BadCheckpoint, match="tokenizer"):
        load_model(tmp_path)


def test_captions_sorted_by_length_get_the_embeddings_they_get_one_by_one():
    model = DualEncoder.create(ModelConfig(SMALL), 0).eval()
    captions = [" ".join(["word"] * (1 + number % 11)) for number in range(50)]
    tokens = model.processor.tokenize(captions)
    with torch.no_grad():
        alone = torch.cat([model.encode_text(row[None]) for row in tokens])
        torch.testing.assert_close(model.encode_text(tokens), alone, rtol=1e-4, atol=1e-5)


def test_hooks_on_the_text_encoder_see_whole_batches():
    model = DualEncoder.create(ModelConfig(SMALL), 0).eval()
    tokens = model.processor.tokenize([" ".join(["word"] * (1 + number % 11)) for number in range(50)])
    seen = []
    handle = model.clip.ln_final.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.no_grad():
        model.encode_text(tokens)
    handle.remove()
    assert seen == [50]
