"""open_clip's and transformers' CLIP: the same tensors under other names, and refusals where they are not the same."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.errors import BadCheckpoint
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.models.hf_layout import from_hf_weights
from salmu_core.models.loading import load_model
from salmu_deletion.forget import difference_to_transformers
from salmu_deletion.hf_folder import hf_refusal, to_hf_weights, write_hf_folder

PREPROCESS = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28)}


def _write(folder, config=TOY_MODEL):
    model = DualEncoder.create(ModelConfig(config.model_cfg, PREPROCESS), seed=3).eval()
    folder.mkdir()
    write_hf_folder(folder, model.config.model_cfg, PREPROCESS, model.weights())
    return model


def test_names_there_and_back_give_every_tensor():
    weights = DualEncoder.create(TOY_MODEL, 0).weights()
    back = from_hf_weights(to_hf_weights(weights))
    assert back.keys() == weights.keys() - {"attn_mask"}
    assert all(torch.equal(back[name], weights[name]) for name in back)


@pytest.mark.parametrize("quick", [False, True])
def test_transformers_computes_the_same(tmp_path, quick):
    pytest.importorskip("transformers")
    model = _write(tmp_path / "hf", ModelConfig({**TOY_MODEL.model_cfg, "quick_gelu": quick}))
    difference = difference_to_transformers(tmp_path / "hf", model)
    assert difference is not None
    assert difference < 1e-5


def test_the_image_processor_gives_the_pixels_of_open_clip(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = _write(tmp_path / "hf")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
    processor = (
        transformers.CLIPImageProcessorPil
        if hasattr(transformers, "CLIPImageProcessorPil")
        else transformers.CLIPImageProcessor
    )
    theirs = processor.from_pretrained(tmp_path / "hf")(picture, return_tensors="pt")["pixel_values"][0]
    ours = model.processor.normalise(torch.from_numpy(model.processor.pixels(picture))[None])[0]
    assert float((theirs - ours).abs().max()) < 0.05  # one step of 8-bit pixels, after scaling, where the crop rounds


def test_a_folder_of_transformers_loads_as_the_same_model(tmp_path):
    model = _write(tmp_path / "hf")
    loaded = load_model(tmp_path / "hf")
    assert all(torch.equal(loaded.weights()[name], tensor) for name, tensor in model.weights().items())
    assert loaded.processor.preprocess.mean == PREPROCESS["mean"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "timm_model_name"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "hf_model_name"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "no plain vision transformer"),
        ({"vision_cfg": {"pool_type": "avg"}}, "pool_type"),
        ({"vision_cfg": {"ls_init_value": 1e-5}}, "ls_init_value"),
        ({"text_cfg": {"no_causal_mask": True}}, "no_causal_mask"),
        ({"init_logit_bias": -10}, "init_logit_bias"),
        ({"text_cfg": {"vocab_size": 32000}}, "vocabulary"),
    ],
)
def test_what_transformers_lacks_is_refused_by_name(change, words, tmp_path):
    config = dict(TOY_MODEL.model_cfg)
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    assert words in str(hf_refusal(config, {}))
    with pytest.raises(BadCheckpoint, match=words):
        write_hf_folder(tmp_path, config, PREPROCESS, {})


def test_other_resizing_is_refused():
    assert "longest" in str(hf_refusal(TOY_MODEL.model_cfg, {"resize_mode": "longest"}))


SIZE = TOY_MODEL.model_cfg["vision_cfg"]["image_size"]
SQUARE = {"height": SIZE, "width": SIZE}


def _change(folder, file, part=None, **values):
    path = folder / file
    content = json.loads(path.read_text())
    (content if part is None else content[part]).update(values)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("eps", "pictures"),
    [
        (1e-3, {}),
        (1e-5, {"size": SQUARE, "do_center_crop": False}),
        (1e-5, {"size": SQUARE, "resample": 2}),
        (1e-5, {"do_normalize": False}),
        (1e-5, {"size": SIZE, "crop_size": SIZE}),  # as transformers 4.20 wrote it
        (1e-5, {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.4, 0.5], "resample": 2}),
    ],
)
def test_settings_of_a_folder_give_transformers_numbers(tmp_path, eps, pictures):
    """And a model that is written back has them again."""
    transformers = pytest.importorskip("transformers")
    _write(tmp_path / "hf")
    for part in ("vision_config", "text_config"):
        _change(tmp_path / "hf", "config.json", part, layer_norm_eps=eps)
    _change(tmp_path / "hf", "preprocessor_config.json", **pictures)
    ours = load_model(tmp_path / "hf")
    write_hf_folder(
        tmp_path / "back",
        ours.config.model_cfg,
        {**vars(ours.processor.preprocess), **ours.config.preprocess_cfg},
        ours.weights(),
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
    kind = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    for folder in ("hf", "back"):
        theirs = transformers.CLIPModel.from_pretrained(tmp_path / folder).eval()
        pixels = kind.from_pretrained(tmp_path / folder)(picture, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            own = ours.processor.normalise(torch.from_numpy(ours.processor.pixels(picture))[None])
            found = theirs(input_ids=ours.processor.tokenize(["a small dog"]), pixel_values=pixels)
            assert float((found.text_embeds - ours.encode_text(ours.processor.tokenize(["a small dog"]))).abs().max()) < 1e-5
            # One step of 8-bit pixels, where the crop rounds.
            assert float((found.image_embeds - ours.encode_image(own)).abs().max()) < 2e-3


@pytest.mark.parametrize(
    ("file", "part", "values", "said"),
    [
        ("preprocessor_config.json", None, {"size": {"shortest_edge": 2 * SIZE}}, "pictures are prepared with size"),
        ("preprocessor_config.json", None, {"do_center_crop": False}, "no crop"),
        ("preprocessor_config.json", None, {"crop_size": {"height": SIZE, "width": 2 * SIZE}}, "crop_size"),
        ("preprocessor_config.json", None, {"size": {"longest_edge": SIZE}}, "longest_edge"),
        ("preprocessor_config.json", None, {"resample": 1}, "sets resample to 1"),
        ("preprocessor_config.json", None, {"do_resize": False}, "sets do_resize to False"),
        ("preprocessor_config.json", None, {"rescale_factor": 1 / 127.5}, "sets rescale_factor"),
        ("preprocessor_config.json", None, {"do_pad": True}, "sets do_pad to True"),
        ("preprocessor_config.json", None, {"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor"),
        ("preprocessor_config.json", None, {"image_mean": [0.5]}, "mean"),
        ("config.json", "vision_config", {"hidden_act": "quick_gelu"}, "one function for both encoders"),
        ("config.json", "text_config", {"eos_token_id": 5}, "eos_token_id to 5"),
        ("config.json", "vision_config", {"image_size": [16, 32]}, r"image_size to \[16, 32\]"),
        ("config.json", "vision_config", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("config.json", None, {"quantization_config": {"bits": 8}}, "quantization_config"),
        ("config.json", None, {"vision_config_dict": {"patch_size": 8}}, "one function for both encoders"),
        ("config.json", None, {"model_type": "siglip"}, "model_type 'siglip'"),
        ("tokenizer_config.json", None, {"do_lower_case": False}, "do_lower_case"),
        ("vocab.json", None, {"dog</w>": 1}, "other words or numbers than CLIP's"),
    ],
)  # fmt: skip
def test_settings_that_open_clip_lacks_are_refused_by_name(tmp_path, file, part, values, said):
    _write(tmp_path / "hf")
    _change(tmp_path / "hf", file, part, **values)
    with pytest.raises(BadCheckpoint, match=said):
        load_model(tmp_path / "hf")


def test_the_older_key_of_a_configuration_wins_as_in_transformers(tmp_path):
    model = _write(tmp_path / "hf")
    content = json.loads((tmp_path / "hf/config.json").read_text())
    _change(tmp_path / "hf", "config.json", text_config_dict={**content["text_config"], "layer_norm_eps": 1e-3})
    assert load_model(tmp_path / "hf").config.model_cfg["text_cfg"]["norm_kwargs"] == {"eps": 1e-3}
    assert "norm_kwargs" not in model.config.model_cfg["text_cfg"]


def test_settings_of_pictures_are_found_in_the_file_of_transformers_5(tmp_path):
    _write(tmp_path / "hf")
    settings = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    (tmp_path / "hf/preprocessor_config.json").unlink()
    (tmp_path / "hf/processor_config.json").write_text(json.dumps({"image_processor": {**settings, "resample": 2}}))
    assert load_model(tmp_path / "hf").processor.preprocess.interpolation == "bilinear"
    (tmp_path / "hf/processor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"holds no preprocessor_config\.json"):
        load_model(tmp_path / "hf")
