"""Loading a model from wherever people keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from salmu_core.errors import BadCheckpoint
from salmu_core.models.config import CONFIG_FILE, ModelConfig, check_config, read_config
from salmu_core.models.dual_encoder import DualEncoder, encoding_problem, sized_up
from salmu_core.models.hf_layout import from_hf_weights
from salmu_core.models.hf_settings import is_hf_clip, other_architecture, read_hf_config
from salmu_core.models.processor import Processor
from salmu_core.models.sources import fetched
from salmu_core.models.weight_numbers import check_numbers, numbers_in
from salmu_core.models.weights import read_weights, without_constants


def load_model(
    source: str | Path, *, like: ModelConfig | None = None, fingerprint: Mapping[str, str] | None = None
) -> DualEncoder:
    """Load a model from wherever people keep them.

    Args:
        source: a directory with `open_clip_config.json` (a run directory is one), a `.safetensors`, `.pt`, `.pth` or `.bin`
            file, an index of shards, a directory of `transformers.CLIPModel`, an open_clip name starting with `local-dir:`, or a
            name of a source that a package offers: `hf-hub:OWNER/NAME`, perhaps with @REVISION.
        like: architecture of a checkpoint that has no `open_clip_config.json` beside it.
        fingerprint: the model must have it, e.g. that of a run's record; empty: any will do.

    Raises:
        BadCheckpoint: nothing there, a pickle that holds more than tensors, weights of another architecture, or another model.
        HubError: a model on the hub that is not there, not for this user, or out of reach.
    """
    model = _loaded(source, like)
    if fingerprint and model.fingerprint() != fingerprint:
        raise BadCheckpoint(f"'{source}' holds another model than its record was made of.", "Run it again: --overwrite.")
    return model


def _loaded(source: str | Path, like: ModelConfig | None) -> DualEncoder:
    text = str(source)
    if (files := fetched(text)) is not None:
        config_path, weights = files
        return _with_weights(read_config(config_path, online=True), read_weights(weights), text)
    path = Path(text.removeprefix("local-dir:"))
    if path.is_dir() and is_hf_clip(path):
        model_cfg, preprocess_cfg = read_hf_config(path)
        return _with_weights(ModelConfig(model_cfg, preprocess_cfg), from_hf_weights(read_weights(path)), str(path))
    if path.is_dir():
        config_path = path / CONFIG_FILE
        if not config_path.is_file() and like is None:
            raise BadCheckpoint(
                f"'{path}' holds no {CONFIG_FILE}{other_architecture(path)}.",
                "Give a run directory, a checkpoint file, or an open_clip model directory.",
            )
    elif path.is_file():
        config_path = path.parent / CONFIG_FILE
    else:
        raise BadCheckpoint(
            f"There is no model at '{source}'.",
            "A model is a run directory, a .safetensors/.pt/.bin file, hf-hub:OWNER/NAME, local-dir:PATH, or one of the"
            " words clean and compromised.",
        )
    config = read_config(config_path) if config_path.exists() else like
    if config is None:
        raise BadCheckpoint(f"'{path}' does not say its architecture.", f"Put an {CONFIG_FILE} beside it.")
    return _with_weights(config, read_weights(path), str(path))


def _with_weights(config: ModelConfig, weights: dict[str, Tensor], source: str) -> DualEncoder:
    check_config(config, source)
    held, shape = numbers_in(weights, source), Processor(config).image_shape
    needed, problem = sized_up(json.dumps(config.model_cfg, default=list), config.online, shape)
    if 2 * held < needed:  # found out before memory is taken for the model
        raise _of_another(config, source, f"lacks most of it, and holds {held:,} numbers where there are {needed:,}")
    model = DualEncoder.create(config, seed=0)
    expected = model.weights()
    weights = without_constants(weights, expected, dict(model.clip.named_buffers()), config.model_cfg, source)
    if "logit_scale" in weights and weights["logit_scale"].numel() == expected["logit_scale"].numel():
        weights["logit_scale"] = weights["logit_scale"].reshape(expected["logit_scale"].shape)
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & weights.keys())
        if weights[name].shape != expected[name].shape
    ]
    if missing or surplus or shapes:
        found = [*(f"lacks {name}" for name in missing), *(f"has {name}" for name in surplus), *shapes]
        more = f" and {len(found) - 3} more differences" if len(found) > 3 else ""
        raise _of_another(config, source, f"{'; '.join(found[:3])}{more}")
    check_numbers(weights, expected, source)
    model.clip.load_state_dict(weights)
    model.float().eval()
    if problem and (problem := encoding_problem(model.clip, shape, config.model_cfg["embed_dim"])):  # in earnest as well
        raise BadCheckpoint(
            f"The model of '{source}' cannot encode a picture of {shape[1]} x {shape[2]} pixels: {problem}.",
            "Its configuration does not fit its image encoder.",
        )
    return model


def _of_another(config: ModelConfig, source: str, said: str) -> BadCheckpoint:
    vision = config.model_cfg["vision_cfg"]
    return BadCheckpoint(
        f"'{source}' is of another architecture: {said}.",
        f"Expected: embedding {config.model_cfg['embed_dim']}, image {vision.get('image_size')} px,"
        f" vision width {vision.get('width')}, vision layers {vision.get('layers')}.",
    )
