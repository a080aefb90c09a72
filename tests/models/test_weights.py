"""Weights as people keep them: each file gives the right tensors, or one error that names what is wrong."""

import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

from salmu_core import load_model
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.errors import BadCheckpoint
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.weights import weight_files

MODEL = DualEncoder.create(TOY_MODEL, 5).eval()
STATE = {name: tensor.clone() for name, tensor in MODEL.weights().items()}
OTHER = {name: tensor * 2 for name, tensor in STATE.items()}
NAMES = sorted(STATE)


def under(prefix: str, state=STATE) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


def folder_with(place, files: dict):
    """A model folder with these files: name -> state, text or bytes."""
    MODEL.config.write(place)
    for name, content in files.items():
        path = place / name
        if isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".safetensors"):
            save_file(content, path)
        else:
            torch.save(content, path)
    return place


def same(loaded: DualEncoder) -> bool:
    weights = loaded.weights()
    return weights.keys() == STATE.keys() and all(torch.equal(weights[name], STATE[name]) for name in STATE)


EMA = {"n_averaged": torch.tensor(7), **under("module.")}
MASK = torch.full((TOY_MODEL.model_cfg["text_cfg"]["context_length"],) * 2, float("-inf")).triu_(1)
ADAM = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.parametrize(
    "content",
    [
        under("_orig_mod."),
        under("module._orig_mod."),
        {"state_dict": under("model.")},
        {"model_state_dict": STATE, "optimizer_state_dict": ADAM, "epoch": 3},
        {"checkpoint": {"model": under("module.")}, "args": {"lr": 0.1}},
        {"module": under("_forward_module.clip.")},
        {name.replace("visual.", "visual._orig_mod.", 1): tensor for name, tensor in STATE.items()},
        {name.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module."): tensor for name, tensor in STATE.items()},
        EMA,
        {**STATE, "attn_mask": MASK},
        {**STATE, "attn_mask": MASK.half()},
        {**STATE, "text_model.embeddings.position_ids": torch.arange(24)[None]},
        {**STATE, "logit_scale": STATE["logit_scale"].reshape(1)},
    ],
)
def test_what_is_wrapped_around_weights_is_taken_off(tmp_path, content):
    assert same(load_model(folder_with(tmp_path, {"w.pt": content})))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": STATE, "state_dict_ema": OTHER}, r"several sets of weights: state_dict, state_dict_ema"),
        ({"model": STATE, "ema": {"shadow": OTHER}}, r"several sets of weights: model, ema\.shadow"),
        (under("student.") | under("teacher."), r"several models: student\.\*, teacher\.\*"),
        ({"state_dict": under("model.") | {"loss.temperature": torch.ones(1)}}, r"under 'model\.' and beside it loss\.temperature"),
        (STATE | {"_orig_mod." + NAMES[0]: STATE[NAMES[0]]}, rf"holds {NAMES[0]} twice"),
        (STATE | {"attn_mask": torch.zeros_like(MASK)}, "attn_mask with other content"),
        (STATE | {"x.position_ids": torch.ones(4)}, "position_ids with other content"),
        (STATE | {"x.position_ids": torch.zeros(1).expand(10**12)}, "position_ids as fewer numbers than"),
        (STATE | {"input_resolution": torch.tensor(float("nan"))}, "says input_resolution nan"),
        (STATE | {"logit_scale": torch.zeros(3)}, r"logit_scale is \(3,\), expected \(\)"),
        (STATE | {"input_resolution": torch.tensor(336)}, "says input_resolution 336, and the configuration says"),
        (STATE | {NAMES[0]: STATE[NAMES[0]].to(torch.int8)}, f"holds {NAMES[0]} as int8"),
        (STATE | {NAMES[0]: STATE[NAMES[0]].to_sparse()}, f"holds {NAMES[0]} as sparse_coo"),
        (STATE | {"step": 3}, "no state dictionary of tensors: step is not a tensor"),
        ({0: STATE[NAMES[0]]}, "no state dictionary of tensors"),
        ([STATE[NAMES[0]]], "it holds a list"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_refused_by_name(tmp_path, content, said):
    with pytest.raises(BadCheckpoint, match=said):
        load_model(folder_with(tmp_path, {"w.pt": content}))


SHARDS = {
    "model-00001-of-00002.safetensors": {name: STATE[name] for name in NAMES[::2]},
    "model-00002-of-00002.safetensors": {name: STATE[name] for name in NAMES[1::2]},
}
INDEX = json.dumps({"weight_map": {name: list(SHARDS)[number % 2] for number, name in enumerate(NAMES)}})
BIN = {name.replace("model-", "pytorch_model-").replace(".safetensors", ".bin"): part for name, part in SHARDS.items()}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    "files",
    [
        SHARDS,
        SHARDS | {"model.safetensors.index.json": INDEX},
        BIN,
        {"renamed.bin": STATE, "training_args.bin": b"x", "optimizer.pt": ADAM, "rng_state_0.pth": b"x"},
        {"best.ckpt": {"state_dict": under("model.")}, "._best.ckpt": b"\x00\x05\x16\x07"},
        {"model.safetensors": STATE, "rows.safetensors": {"GenKnow/rows": torch.zeros(3)}},
    ],
)
def test_the_files_of_a_folder_are_joined_and_others_left_alone(tmp_path, files):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(load_model(folder_with(tmp_path, files)))


def test_an_index_may_be_named_itself(tmp_path):
    folder_with(tmp_path, SHARDS | {"model.safetensors.index.json": INDEX})
    assert same(load_model(tmp_path / "model.safetensors.index.json"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.safetensors": STATE, "b.safetensors": OTHER}, r"several files of weights: a\.safetensors, b\.safetensors"),
        ({"epoch_1.pt": STATE, "epoch_2.pt": OTHER}, "several files of weights"),
        (dict([next(iter(SHARDS.items()))]), "model-00002-of-00002.safetensors not there"),
        ({"model.safetensors.index.json": INDEX}, "names shards that are not there"),
        ({"model.safetensors.index.json": "{}"}, "is not an index of sharded weights"),
        (SHARDS | {"model-00002-of-00002.safetensors": STATE}, "for the second time"),
        ({"model.safetensors": POINTER}, "is a Git LFS pointer"),
        ({"model.pt": "<!DOCTYPE html><html>log in</html>"}, "is a web page"),
        ({"model.pt": ""}, "is an empty file"),
        ({"model.pt": b"\x1f\x8b\x08" + b"0" * 90}, "is compressed with gzip"),
        ({"tf_model.h5": b"\x89HDF"}, "holds no weights"),
    ],
)  # fmt: skip
def test_files_that_give_no_model_are_named(tmp_path, files, said):
    with pytest.raises(BadCheckpoint, match=said):
        load_model(folder_with(tmp_path, files))


def test_a_file_is_read_by_its_content_and_not_by_its_name(tmp_path):
    save_file(STATE, tmp_path / "a.bin")
    torch.save(STATE, tmp_path / "b.safetensors")
    assert same(load_model(tmp_path / "a.bin", like=TOY_MODEL))
    assert same(load_model(tmp_path / "b.safetensors", like=TOY_MODEL))


def test_which_of_two_usual_names_is_read_is_said(tmp_path):
    folder_with(tmp_path, {"model.safetensors": OTHER, "open_clip_pytorch_model.bin": STATE})
    with pytest.warns(UserWarning, match=r"from open_clip_pytorch_model\.bin.* not from model\.safetensors"):
        assert same(load_model(tmp_path))


def test_a_program_is_not_run(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT.pt")
    with pytest.raises(BadCheckpoint, match="TorchScript program"):
        load_model(tmp_path / "ViT.pt", like=TOY_MODEL)


def test_openais_entries_warn_of_quickgelu(tmp_path):
    cfg = TOY_MODEL.model_cfg
    entries = {"input_resolution": cfg["vision_cfg"]["image_size"], "context_length": cfg["text_cfg"]["context_length"]}
    content = STATE | {name: torch.tensor(value) for name, value in entries.items()}
    with pytest.warns(UserWarning, match="use QuickGELU"):
        assert same(load_model(folder_with(tmp_path, {"w.pt": content})))


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    folder_with(tmp_path, {})
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs")
    with pytest.raises(BadCheckpoint, match="link that leads nowhere"):
        load_model(tmp_path)


def test_all_shards_make_the_identity_of_a_model(tmp_path):
    assert [path.name for path in weight_files(folder_with(tmp_path, SHARDS))] == list(SHARDS)
