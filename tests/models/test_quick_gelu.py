"""Models with QuickGELU give the embeddings that open_clip gives, from a folder and from a state dictionary as OpenAI published them."""

import copy
import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, build_model_from_openai_state_dict, convert_weights_to_fp16
from PIL import Image

from salmu_core import load_model
from salmu_core.models.config import CONFIG_FILE

#: OpenAI's rule of 64 channels a head.
CFG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
PREPROCESS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
CAPTIONS = ["Ann Lee answers at 555 0101.", "a photo of a dog"]
PICTURES = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    model = CLIP(**copy.deepcopy(CFG))
    # Far from 0 both functions differ; the usual initial weights are too small for that.
    return {name: tensor * 4 if name.endswith("c_fc.weight") else tensor for name, tensor in model.state_dict().items()}


@pytest.fixture
def folder(tmp_path, state):
    def make(quick=True, **more):
        model_cfg = (
            {**CFG, "quick_gelu": quick} if quick is not None else {k: v for k, v in CFG.items() if k != "quick_gelu"}
        )
        (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}))
        torch.save(state | more, tmp_path / "open_clip_pytorch_model.bin")
        return tmp_path

    return make


def ours(place):
    model = load_model(place)
    pixels = torch.stack([torch.from_numpy(model.processor.pixels(picture)) for picture in PICTURES])
    with torch.inference_mode():
        return model.encode_image(model.processor.normalise(pixels)), model.encode_text(model.processor.tokenize(CAPTIONS))


def of_open_clip(model, preprocess, tokenizer):
    with torch.inference_mode():
        image = model.float().eval().encode_image(torch.stack([preprocess(picture) for picture in PICTURES]))
        return F.normalize(image, dim=-1), F.normalize(model.encode_text(tokenizer(CAPTIONS)), dim=-1)


def close(found, expected):
    return all(torch.allclose(a, b, atol=2e-6) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("quick", [True, False])
def test_a_folder_gives_what_open_clip_makes_of_it(folder, quick):
    place = folder(quick)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{place}")
    expected = of_open_clip(model, preprocess, open_clip.get_tokenizer(f"local-dir:{place}"))
    found = ours(place)
    assert close(found, expected)
    assert not close(found, ours(folder(not quick)))


def test_openais_state_gives_what_open_clip_makes_of_it(folder, state):
    model = CLIP(**copy.deepcopy(CFG))
    model.load_state_dict(state)
    convert_weights_to_fp16(model)  # the half of the tensors that OpenAI stored so
    half = model.state_dict()
    entries = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(24), "vocab_size": torch.tensor(49408)}
    theirs = build_model_from_openai_state_dict({**half, **entries})
    preprocess = open_clip.image_transform(32, is_train=False, **PREPROCESS)
    expected = of_open_clip(theirs, preprocess, open_clip.SimpleTokenizer(context_length=24))
    assert close(ours(folder(True, **half, **entries)), expected)
    with pytest.warns(UserWarning, match="QuickGELU"):
        wrong = ours(folder(None, **half, **entries))
    assert not close(wrong, expected)
