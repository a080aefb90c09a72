"""Writing a CLIP model in the layout of `transformers.CLIPModel`, without transformers.

Only architectures that both libraries compute alike are written; everything else is refused with the reason.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from salmu_core.errors import BadCheckpoint
from salmu_core.files.writing import write_json, write_tensors, write_text
from salmu_core.models.hf_layout import HF_WEIGHTS, LAYER_NAMES, SINGLE_NAMES, TOWER_NAMES, TRANSPOSED_NAMES
from salmu_core.models.hf_settings import EPS, HF_CONFIG, PREPROCESSOR, RESAMPLE, VOCABULARY, clip_vocabulary

#: Keys of open_clip's configuration that transformers' CLIP has, or that change nothing when a model is used.
_VISION_KEYS = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout", "output_tokens"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "output_tokens"}
_MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"}
#: Values with which any other key says nothing.
_SILENT: tuple[Any, ...] = (None, False, {}, "learnable", "tok", "argmax", "linear", "default", 0, 0.0)


def hf_refusal(model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]) -> str | None:
    """Why a model cannot be written in transformers' layout without changing what it computes; None where it can."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    for where, config, known in (
        ("", model_cfg, _MODEL_KEYS),
        ("vision_cfg.", vision, _VISION_KEYS),
        ("text_cfg.", text, _TEXT_KEYS),
    ):
        odd = [key for key, value in config.items() if key not in known and not _silent(key, value)]
        odd = [key for key in odd if key != "norm_kwargs" or set(config[key]) - {"eps"}]
        if odd:
            return f"transformers' CLIPModel has no counterpart of {where}{odd[0]} = {config[odd[0]]!r}"
    if text.get("pool_type", "argmax") != "argmax":
        return f"transformers' CLIPModel has no counterpart of text_cfg.pool_type = {text['pool_type']!r}"
    if not isinstance(vision.get("layers", 12), int) or not isinstance(vision.get("image_size", 224), int):
        return "its image encoder is no plain vision transformer on square pictures"
    if text.get("vocab_size", VOCABULARY) != VOCABULARY:
        return "its vocabulary is not CLIP's"
    resize, filter_ = preprocess_cfg.get("resize_mode", "shortest"), preprocess_cfg.get("interpolation", "bicubic")
    if resize not in ("shortest", "squash") or filter_ not in RESAMPLE.values():
        return f"its pictures are resized in a way ({resize}, {filter_}) that is not the one of CLIPImageProcessor"
    return None


def _eps(config: Mapping[str, Any]) -> float:
    return float((config.get("norm_kwargs") or {}).get("eps", EPS))


def _silent(key: str, value: Any) -> bool:
    # timm_* and hf_* options say nothing unless a model is named, which is not among the silent values.
    return (
        any(value is silent or (type(value) is type(silent) and value == silent) for silent in _SILENT)
        or (
            key.startswith(("timm_", "hf_", "attn_pooler"))
            and key not in ("timm_model_name", "hf_model_name", "hf_tokenizer_name")
        )
        or key in ("pad_id", "eos_id")
    )


def write_hf_folder(
    folder: Path, model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write config, weights, tokenizer and image processor so that `CLIPModel` and `CLIPProcessor` load the folder.

    Args:
        preprocess_cfg: `mean`, `std`, `resize_mode` and `interpolation`, as open_clip has them.

    Raises:
        BadCheckpoint: see `hf_refusal`.
    """
    refusal = hf_refusal(model_cfg, preprocess_cfg)
    if refusal is not None:
        raise BadCheckpoint(f"The model cannot be written for transformers: {refusal}.")
    write_json(folder / HF_CONFIG, hf_config(model_cfg))
    size = int(model_cfg["vision_cfg"].get("image_size", 224))
    square = {"height": size, "width": size}
    squash = preprocess_cfg.get("resize_mode") == "squash"
    filters = {word: number for number, word in RESAMPLE.items()}
    write_json(
        folder / PREPROCESSOR,
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": square if squash else {"shortest_edge": size},
            "resample": filters[preprocess_cfg.get("interpolation", "bicubic")],
            "do_center_crop": not squash,
            "crop_size": square,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(preprocess_cfg["mean"]),
            "image_std": list(preprocess_cfg["std"]),
        },
    )
    _write_tokenizer(folder, int(model_cfg["text_cfg"].get("context_length", 77)))
    write_tensors(folder / HF_WEIGHTS, to_hf_weights(weights), {"format": "pt"})


def hf_config(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `config.json`."""
    vision, text = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    act = "quick_gelu" if model_cfg.get("quick_gelu") else "gelu"
    v_width, t_width = int(vision.get("width", 768)), int(text.get("width", 512))
    dim = int(model_cfg["embed_dim"])
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": dim,
        "logit_scale_init_value": 2.6592,
        "torch_dtype": "float32",
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": t_width,
            "intermediate_size": int(t_width * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": int(text.get("layers", 12)),
            "num_attention_heads": int(text.get("heads", 8)),
            "max_position_embeddings": int(text.get("context_length", 77)),
            "vocab_size": VOCABULARY,
            "projection_dim": dim,
            "hidden_act": act,
            "layer_norm_eps": _eps(text),
            "bos_token_id": VOCABULARY - 2,
            "eos_token_id": VOCABULARY - 1,
            "pad_token_id": VOCABULARY - 1,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": v_width,
            "intermediate_size": int(v_width * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": int(vision.get("layers", 12)),
            "num_attention_heads": v_width // int(vision.get("head_width", 64)),
            "image_size": int(vision.get("image_size", 224)),
            "patch_size": int(vision.get("patch_size", 16)),
            "num_channels": 3,
            "projection_dim": dim,
            "hidden_act": act,
            "layer_norm_eps": _eps(vision),
        },
    }


def to_hf_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors under transformers' names.

    Raises:
        BadCheckpoint: a tensor that has no counterpart there.
    """
    mapped: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == "attn_mask":
            continue
        if name in SINGLE_NAMES:
            mapped[SINGLE_NAMES[name]] = tensor
        elif name in TRANSPOSED_NAMES:
            mapped[TRANSPOSED_NAMES[name]] = tensor.T
        elif name == "text_projection.weight":
            mapped[name] = tensor
        else:
            tower = next((start for start in TOWER_NAMES if name.startswith(start)), None)
            layer, _, rest = name.removeprefix(tower or "").partition(".")
            if tower is None or not layer.isdigit():
                raise BadCheckpoint(f"transformers' CLIPModel has no counterpart of the weight {name}.")
            place = f"{TOWER_NAMES[tower]}{layer}."
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                kind = rest.removeprefix("attn.in_proj_")
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    mapped[f"{place}self_attn.{part}_proj.{kind}"] = piece
            elif rest in LAYER_NAMES:
                mapped[place + LAYER_NAMES[rest]] = tensor
            else:
                raise BadCheckpoint(f"transformers' CLIPModel has no counterpart of the weight {name}.")
    return mapped


def _write_tokenizer(folder: Path, context_length: int) -> None:
    """CLIP's vocabulary and merges as transformers names them, from the file that open_clip ships."""
    from open_clip.tokenizer import default_bpe

    begin, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = clip_vocabulary()
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = lines[
        1 : VOCABULARY - 2 * 256 - 2 + 1
    ]  # after a heading; two entries for each byte and two marks are no merges
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end}
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True, **special},
    )
