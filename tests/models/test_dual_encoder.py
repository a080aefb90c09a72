"""The dual encoder: same numbers as plain open_clip, safe loading, clear refusals."""

import pickle

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import image_transform_v2
from PIL import Image

from salmu_core import load_model
from salmu_core.builtin.toy import TOY_MODEL, Toy
from salmu_core.errors import BadCheckpoint
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig

CAPTIONS = ["a red square", "Person 3 answers at p003, a rather longer caption than the others", "x"]


@pytest.fixture
def model() -> DualEncoder:
    return Toy().load_model("compromised")


def test_captions_cut_after_their_last_end_of_text_embed_the_same(model):
    tokens = model.processor.tokenize(CAPTIONS)
    expected = F.normalize(model.clip.encode_text(tokens), dim=-1)
    torch.testing.assert_close(model.encode_text(tokens), expected, atol=2e-6, rtol=0)


def test_pixels_kept_as_bytes_are_those_of_open_clips_own_transform(model):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
    transform = image_transform_v2(model.processor.preprocess, is_train=False)
    ours = model.processor.normalise(torch.from_numpy(model.processor.pixels(picture))[None])
    assert torch.equal(ours[0], transform(picture))


def test_a_saved_folder_loads_in_plain_open_clip(model, tmp_path):
    model.save(tmp_path)
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(CAPTIONS)
    picture = Image.new("RGB", (20, 30), (200, 10, 10))
    with torch.no_grad():
        ours = model.encode_text(model.processor.tokenize(CAPTIONS))
        torch.testing.assert_close(plain.eval().encode_text(tokens, normalize=True), ours, atol=2e-6, rtol=0)
        image = model.encode_image(model.processor.normalise(torch.from_numpy(model.processor.pixels(picture))[None]))
        torch.testing.assert_close(plain.encode_image(transform(picture)[None], normalize=True), image)


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin"])
def test_a_pickle_of_tensors_is_read(model, tmp_path, name):
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.weights().items()}}, tmp_path / name)
    loaded = load_model(tmp_path / name, like=TOY_MODEL)
    assert loaded.fingerprint() == model.fingerprint()


class _Evil:
    def __reduce__(self):
        return (print, ("code of a checkpoint was run",))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": _Evil()}))
    with pytest.raises(BadCheckpoint, match=r"cannot be read safely|not a checkpoint"):
        load_model(tmp_path / "evil.pt", like=TOY_MODEL)
    assert "code of a checkpoint" not in capsys.readouterr().out


def test_another_architecture_says_what_was_expected(model, tmp_path):
    wider = {**TOY_MODEL.model_cfg, "embed_dim": 24}
    DualEncoder.create(ModelConfig(wider), 0).save(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"text_projection is \(16, 24\), expected \(16, 16\)") as caught:
        load_model(tmp_path / "model.safetensors", like=TOY_MODEL)
    assert "embedding 16" in str(caught.value)


def test_a_damaged_or_missing_file_is_named(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(BadCheckpoint, match=r"cut\.safetensors"):
        load_model(tmp_path / "cut.safetensors", like=TOY_MODEL)
    with pytest.raises(BadCheckpoint, match="There is no model at"):
        load_model(tmp_path / "nothing")


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    weights = model.weights()
    weights["visual.proj"] = weights["visual.proj"] * float("nan")
    torch.save(weights, tmp_path / "nan.pt")
    with pytest.raises(BadCheckpoint, match=r"not finite: visual\.proj"):
        load_model(tmp_path / "nan.pt", like=TOY_MODEL)


def test_one_changed_weight_changes_its_towers_fingerprint_only(model):
    before = model.fingerprint()
    with torch.no_grad():
        model.clip.visual.proj[0, 0] += 1e-6
    after = model.fingerprint()
    assert after["image"] != before["image"]
    assert after["text"] == before["text"]


def test_creating_a_model_leaves_global_randomness_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    DualEncoder.create(TOY_MODEL, 0)
    assert torch.equal(torch.rand(1), expected)


def test_towers_share_no_parameter_and_leave_the_logit_scale_out(model):
    image, text = (set(map(id, model.tower_parameters(tower))) for tower in ("image", "text"))
    assert not image & text
    assert id(model.clip.logit_scale) not in image | text
    assert len(image | text) == len(list(model.parameters())) - 1
