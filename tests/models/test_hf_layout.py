"""open_clip's and transformers' CLIP: the same tensors under other names, and refusals where they are not the same."""

import pytest
import torch

from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.errors import BadCheckpoint
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig, load_model
from salmu_core.models.hf_layout import from_hf_weights, hf_refusal, to_hf_weights, write_hf_folder
from salmu_deletion.forget import difference_to_transformers

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
    import numpy as np
    from PIL import Image

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
    assert "squash" in str(hf_refusal(TOY_MODEL.model_cfg, {"resize_mode": "squash"}))
