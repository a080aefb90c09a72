"""The settings of a CLIP model in transformers' layout, as open_clip's: each is mapped, is known to change nothing, or is refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salmu_core.errors import BadCheckpoint, DamagedFile
from salmu_core.files.seals import read_json

HF_CONFIG = "config.json"
#: Where settings of pictures lie: in files of their own, or since transformers 5 in that of the whole processor.
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
VOCABULARY = 49408  # of CLIP's byte-pair encoding; its last two entries begin and end a text
EPS = 1e-5  # of layer norms, in both libraries
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers -> open_clip's words

#: What transformers takes where config.json is silent.
_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": EPS,
}  # fmt: skip
_TEXT = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "vocab_size": VOCABULARY, "hidden_act": "quick_gelu", "layer_norm_eps": EPS,
    "eos_token_id": VOCABULARY - 1,
}  # fmt: skip
#: The same for pictures.
_PICTURES: dict[str, Any] = {
    "do_resize": True, "size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
_STEPS = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"}
_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")


def is_hf_clip(folder: Path) -> bool:
    """Is that a folder in transformers' CLIP layout, and not in open_clip's?"""
    return not (folder / "open_clip_config.json").is_file() and _model_type(folder) == "clip"


def other_architecture(folder: Path) -> str:
    """Words for a folder of transformers that holds something else; "" for any other folder."""
    kind = _model_type(folder)
    return "" if kind is None else f" and is a folder of transformers of model_type {kind!r} (only 'clip' is read)"


def _model_type(folder: Path) -> Any:
    try:
        content = read_json(folder / HF_CONFIG)
    except (OSError, DamagedFile):
        return None
    return content.get("model_type") if isinstance(content, dict) else None


def read_hf_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's model and preprocessing configuration of a folder in transformers' layout.

    Raises:
        BadCheckpoint: a setting that open_clip has no counterpart of, or files that cannot be read.
    """
    try:
        content = _object(folder / HF_CONFIG)
        vision, text = _part(content, "vision", _VISION), _part(content, "text", _TEXT)
        pictures, tokens = _picture_settings(folder), _tokenizer_settings(folder)
        _check_tower("vision_config", vision)
        _check_tower("text_config", text)
        if vision["hidden_act"] != text["hidden_act"]:
            raise _refused("hidden_act", [vision["hidden_act"], text["hidden_act"]], "one function for both encoders")
        if content.get("quantization_config"):
            raise _refused("quantization_config", content["quantization_config"], "weights that are not quantised")
        preprocess = _preprocess(pictures, vision["image_size"])
        _check_tokenizer(tokens)
        return _model_cfg(content, vision, text), preprocess
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise BadCheckpoint(f"'{folder}' is not a readable model in transformers' layout: {error}.") from error
    except (BadCheckpoint, DamagedFile) as error:
        hint = error.hint or "Convert it to open_clip where you can check the result."
        raise BadCheckpoint(f"'{folder}' cannot be read as open_clip's: {error.message}", hint) from error


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedFile(f"'{path}' is not a JSON object.")
    return content


def _part(content: Mapping[str, Any], tower: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    given = content.get(f"{tower}_config") or {}
    old = content.get(f"{tower}_config_dict")
    # transformers lets the older key win, with its own defaults for whatever it leaves out.
    return {**usual, **given} if old is None else {**given, **usual, **old}


def _check_tower(where: str, tower: Mapping[str, Any]) -> None:
    """Settings that change what is computed and that open_clip has only one value of."""
    allowed: dict[str, tuple[Any, ...]] = {
        "num_channels": (3,),
        "vocab_size": (VOCABULARY,),
        "hidden_act": ("gelu", "quick_gelu"),
        "eos_token_id": (2, VOCABULARY - 1),  # 2, an old mistake, means the largest entry, as in open_clip
        "pruned_heads": ({}, None),
    }
    for name, values in allowed.items():
        if name in tower and tower[name] not in values:
            raise _refused(f"{where}.{name}", tower[name], f"{' or '.join(map(repr, values))} only")
    for name in ("image_size", "patch_size"):
        if name in tower and not isinstance(tower[name], int):
            raise _refused(f"{where}.{name}", tower[name], "squares only")


def _model_cfg(content: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    width = vision["hidden_size"]
    return {
        "embed_dim": content.get("projection_dim", 512),
        "quick_gelu": vision["hidden_act"] == "quick_gelu",
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": width,
            "head_width": width // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
            "mlp_ratio": vision["intermediate_size"] / width,
            **_norms(vision),
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
            "mlp_ratio": text["intermediate_size"] / text["hidden_size"],
            **_norms(text),
        },
    }


def _norms(tower: Mapping[str, Any]) -> dict[str, Any]:
    eps = float(tower["layer_norm_eps"])
    return {} if eps == EPS else {"norm_kwargs": {"eps": eps}}


# ------------------------------------------------------------------ pictures


def _picture_settings(folder: Path) -> dict[str, Any]:
    if (folder / PREPROCESSOR).is_file():
        return _object(folder / PREPROCESSOR)
    if (folder / PROCESSOR).is_file():
        found = _object(folder / PROCESSOR).get("image_processor")
        if isinstance(found, dict):
            return found
    warnings.warn(f"'{folder}' holds no {PREPROCESSOR}: pictures are prepared as OpenAI's CLIP does.", stacklevel=4)
    return {"crop_size": None}


def _preprocess(given: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """open_clip's preprocess_cfg."""
    kind = given.get("image_processor_type") or given.get("feature_extractor_type") or _PROCESSORS[0]
    if kind not in _PROCESSORS:
        raise _refused("image_processor_type", kind, "CLIPImageProcessor only")
    known = {name: value for name, value in given.items() if value is not None}
    if "crop_size" in given and given["crop_size"] is None:  # nothing is said at all
        known |= {"size": {"shortest_edge": image_size}, "crop_size": image_size}
    settings = {**_PICTURES, **known}
    odd = [name for name, value in settings.items() if name.startswith("do_") and name not in _STEPS and value]
    if odd:
        raise _refused(odd[0], settings[odd[0]], "no such step")
    for name in ("do_resize", "do_rescale"):
        if not settings[name]:
            raise _refused(
                name, settings[name], "pictures that are always resized, and bytes that are always scaled to 0..1"
            )
    if abs(settings["rescale_factor"] * 255 - 1) > 1e-6:
        raise _refused("rescale_factor", settings["rescale_factor"], "1/255 only")
    if settings["resample"] not in RESAMPLE:
        raise _refused("resample", settings["resample"], "2 (bilinear) and 3 (bicubic)")
    mode = _resize_mode(settings, image_size)
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3}
    found: dict[str, Any] = {"mean": list(settings["image_mean"]), "std": list(settings["image_std"])}
    found = found if settings["do_normalize"] else plain
    # Only what differs from open_clip's own values, so that models as usual keep the configuration that they had.
    found |= {} if mode == "shortest" else {"resize_mode": mode}
    found |= {} if settings["resample"] == 3 else {"interpolation": RESAMPLE[settings["resample"]]}
    return found


def usual_pictures(preprocess: Mapping[str, Any]) -> bool:
    """Are pictures prepared as OpenAI's CLIP does?"""
    return preprocess == {"mean": _PICTURES["image_mean"], "std": _PICTURES["image_std"]}


def _resize_mode(settings: Mapping[str, Any], image_size: int) -> str:
    """`shortest`: the shorter side becomes the model's, and its middle is cut out. `squash`: both sides become the model's."""
    size, crop = settings["size"], _square(settings["crop_size"])
    if not isinstance(size, Mapping):
        size = {"height": size, "width": size} if settings.get("default_to_square") else {"shortest_edge": size}
    cropped = crop == image_size if settings["do_center_crop"] else None
    if set(size) == {"shortest_edge"} and size["shortest_edge"] == image_size and cropped:
        return "shortest"
    if set(size) == {"height", "width"} and _square(size) == image_size and cropped is not False:
        return "squash"
    said = f"size {dict(size)}, " + (f"crop_size {settings['crop_size']}" if settings["do_center_crop"] else "no crop")
    raise BadCheckpoint(
        f"its pictures are prepared with {said}. open_clip makes them {image_size} pixels wide and high, by the shorter side and a"
        " crop of that size or by both sides."
    )


def _square(size: Any) -> Any:
    if isinstance(size, Mapping):
        return size["height"] if size.get("height") == size.get("width") else None
    return size


# ------------------------------------------------------------------ captions


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    """The vocabulary and what is said of it, as far as it is there."""
    found: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        found |= {"lower": _object(folder / "tokenizer_config.json").get("do_lower_case", True)}
    if (folder / "vocab.json").is_file():
        found |= {"vocabulary": _object(folder / "vocab.json")}
    elif (folder / "tokenizer.json").is_file():
        content = _object(folder / "tokenizer.json")
        found |= {"vocabulary": content["model"]["vocab"]}
        found["lower"] = found.get("lower", True) and "Lowercase" in str(content.get("normalizer"))
    return found


def _check_tokenizer(tokens: Mapping[str, Any]) -> None:
    """Captions are cut into open_clip's own words, so the folder's must be the same."""
    if not tokens.get("lower", True):
        raise _refused("do_lower_case", False, "captions in lower case")
    vocabulary = tokens.get("vocabulary")
    if vocabulary is not None and vocabulary != clip_vocabulary():
        raise BadCheckpoint("its tokenizer has other words or numbers than CLIP's.")


def clip_vocabulary() -> dict[str, int]:
    """CLIP's words and numbers under the names that transformers has for them."""
    from open_clip.tokenizer import SimpleTokenizer

    tokens = SimpleTokenizer()
    renamed = {tokens.sot_token_id: "<|startoftext|>", tokens.eot_token_id: "<|endoftext|>"}
    return {renamed.get(number, word): number for word, number in tokens.encoder.items()}


def _refused(name: str, value: Any, instead: str) -> BadCheckpoint:
    return BadCheckpoint(f"it sets {name} to {value!r}; open_clip has {instead}.")
