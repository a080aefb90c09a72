"""What a checkpoint may say about itself. A configuration is data from whoever made the checkpoint: keys and types are on a list,
sizes have limits, nothing in it is run, and nothing in it makes salmu ask the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salmu_core.errors import BadCheckpoint, DamagedFile
from salmu_core.files.seals import parse_json
from salmu_core.files.writing import write_json, write_text
from salmu_core.models.folder_tokenizer import read_tokenizer

CONFIG_FILE = "open_clip_config.json"  # open_clip's own name: a saved directory loads as `local-dir:` there
_LARGEST_FILE = 1_000_000  # bytes of a configuration
_MOST_PLACES = 1_000_000  # of a picture, each of which has a vector; the largest open CLIP has 1,025

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Width = Annotated[int, Field(ge=1, le=32_768)]
Layers = Annotated[int, Field(ge=0, le=512)]
Side = Annotated[int, Field(ge=1, le=8_192)]
Ratio = Annotated[float, Field(gt=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=200)]
Setting = Annotated[dict[Name, bool | int | float | Name | None], Field(max_length=8)]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Activation(_Checked):
    """What is passed on to GELU."""

    approximate: Literal["none", "tanh"] = "none"


class _Norm(_Checked):
    """What is passed on to layer norms."""

    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5


class _Attention(_Checked):
    """What both towers' transformers have."""

    mlp_ratio: Ratio = 4.0
    ls_init_value: float | None = None
    final_ln_after_pool: bool = False
    pool_type: Literal["tok", "avg", "none", "first", "last", "argmax", "eos"] | None = None
    output_tokens: bool = False
    act_kwargs: _Activation | None = None
    norm_kwargs: _Norm | None = None
    block_type: Literal["default", "custom"] | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class VisionConfig(_Attention):
    """`vision_cfg`."""

    layers: Layers | Annotated[list[Layers], Field(min_length=4, max_length=4)] = 12
    width: Width = 768
    head_width: Width = 64
    patch_size: Side | None = None
    image_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] = 224
    patch_dropout: Share = 0.0
    attentional_pool: bool | Name = False
    attn_pooler_queries: Count = 256
    attn_pooler_heads: Width = 8
    no_ln_pre: bool = False
    pos_embed_type: Literal["learnable", "sin_cos_2d", "none"] = "learnable"
    timm_model_name: Name | None = None
    timm_model_pretrained: bool = False
    timm_pool: Name = "avg"
    timm_proj: Name | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: Share = 0.0
    timm_drop_path: Share | None = None


class TextConfig(_Attention):
    """`text_cfg`."""

    context_length: Annotated[int, Field(ge=1, le=8_192)] = 77
    vocab_size: Annotated[int, Field(ge=2, le=2_000_000)] = 49408
    hf_tokenizer_name: Name | None = None
    tokenizer_mode: Literal["clips", ""] | None = None
    tokenizer_kwargs: Setting | None = None
    width: Width = 512
    heads: Width = 8
    layers: Layers = 12
    embed_cls: bool = False
    pad_id: int = 0
    eos_id: int = 2
    no_causal_mask: bool = False
    proj_bias: bool = False
    proj_type: Literal["linear", "none"] = "linear"
    hf_model_name: Name | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: Name | None = "mlp"
    hf_pooler_type: Name | None = "mean_pooler"


class ArchitectureConfig(_Checked):
    """`model_cfg`."""

    embed_dim: Width
    vision_cfg: VisionConfig
    text_cfg: TextConfig
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: float | None = None
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False


class PreprocessConfig(_Checked):
    """`preprocess_cfg`."""

    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    mode: Literal["RGB"] = "RGB"
    # Of colours from 0 to 1; within these bounds what is made of a picture stays finite.
    mean: Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[list[Annotated[float, Field(ge=1e-3, le=1e3)]], Field(min_length=3, max_length=3)] | None = None
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    resize_mode: Literal["shortest", "longest", "squash"] = "shortest"
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0


#: Settings that open_clip's tokenizers take and that only change texts.
_TOKENIZER_KWARGS = {"clean", "strip_sep_token", "language", "reduction_mask_seed"}


@dataclass(frozen=True)
class ModelConfig:
    """open_clip's description of an architecture and of the preprocessing its weights expect.

    Attributes:
        model_cfg, preprocess_cfg: the parts of an `open_clip_config.json`.
        tokenizer: file name -> content of the tokenizer that lies beside it, where the model does not use CLIP's own.
        online: towers and tokenizers of known names may be fetched: the model itself came from the hub.
    """

    model_cfg: Mapping[str, Any]
    preprocess_cfg: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, str] | None = None
    online: bool = False

    def as_json(self) -> dict[str, Any]:
        """The content of an `open_clip_config.json`."""
        return {"model_cfg": dict(self.model_cfg), "preprocess_cfg": dict(self.preprocess_cfg)}

    def write(self, folder: Path) -> None:
        """Write the configuration, and a tokenizer that is not CLIP's own, as open_clip reads them."""
        write_json(folder / CONFIG_FILE, self.as_json())
        for name, content in (self.tokenizer or {}).items():
            write_text(folder / name, content)

    @classmethod
    def named(cls, architecture: str) -> ModelConfig:
        """The configuration that open_clip ships under a name such as `ViT-B-16`.

        Raises:
            BadCheckpoint: open_clip knows no such architecture.
        """
        import open_clip

        found = open_clip.get_model_config(architecture)
        if found is None:
            raise BadCheckpoint(f"open_clip has no architecture called '{architecture}'.")
        return cls(found, online=True)


def read_config(path: Path, *, online: bool = False) -> ModelConfig:
    """Read an `open_clip_config.json` that nobody has to trust, with the tokenizer beside it.

    Args:
        online: see `ModelConfig`.

    Raises:
        BadCheckpoint: not such a file, a key or a value that is not on the list, or a size beyond the limits.
    """
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            raise BadCheckpoint(f"'{path}' is not a file of at most {_LARGEST_FILE:,} bytes, as a configuration is.")
        content = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError, DamagedFile) as error:
        raise BadCheckpoint(f"'{path}' is not an open_clip configuration: {_first_line(error)}.") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise BadCheckpoint(f"'{path}' is not an open_clip configuration: it has no model_cfg.")
    config = ModelConfig(content["model_cfg"], content.get("preprocess_cfg") or {}, online=online)
    check_config(config, str(path))
    if not config.model_cfg["text_cfg"].get("hf_tokenizer_name"):
        return config
    return ModelConfig(config.model_cfg, config.preprocess_cfg, read_tokenizer(path.parent), online)


def check_config(config: ModelConfig, source: str) -> None:
    """Compare a configuration with the list.

    Args:
        source: the file, for the message.

    Raises:
        BadCheckpoint: a key or a value that is not on the list, or a size beyond the limits; all are named.
    """
    try:
        checked = ArchitectureConfig.model_validate(_plain(config.model_cfg))
        PreprocessConfig.model_validate(_plain(config.preprocess_cfg))
    except (ValidationError, RecursionError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else []
        said = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults[:3]]
        raise BadCheckpoint(
            f"'{source}' says something about the model that salmu does not read: {'; '.join(said) or 'it nests too deep'}.",
            "A configuration may hold open_clip's keys with their types; docs/trust.md lists the limits.",
        ) from error
    _check_names(checked, source)
    size, patch = checked.vision_cfg.image_size, checked.vision_cfg.patch_size or 32  # a ResNet makes them small by itself
    height, width = size if isinstance(size, list) else [size] * 2
    if (places := (height // patch) * (width // patch)) > _MOST_PLACES:
        raise BadCheckpoint(f"'{source}' describes pictures of {places:,} places; the limit is {_MOST_PLACES:,}.")


def _check_names(config: ArchitectureConfig, source: str) -> None:
    tower = config.vision_cfg.timm_model_name
    if tower is not None and not (re.fullmatch(r"[A-Za-z0-9_.]+", tower) and _timm_knows(tower)):
        raise BadCheckpoint(
            f"'{source}' names the image encoder '{tower}', which timm does not have.",
            "Only timm's own architectures are built; they start from random weights, and the checkpoint fills them.",
        )
    for key, name in (
        ("hf_model_name", config.text_cfg.hf_model_name),
        ("hf_tokenizer_name", config.text_cfg.hf_tokenizer_name),
    ):
        # A tokenizer's name says nothing where the tokenizer lies in the folder; the processor decides.
        if key == "hf_model_name" and name is not None and name not in known_names():
            raise BadCheckpoint(
                f"'{source}' names the text encoder '{name}', which none of open_clip's own configurations names.",
                f"Known: {', '.join(sorted(known_names()))}.",
            )
    odd = sorted(set(config.text_cfg.tokenizer_kwargs or {}) - _TOKENIZER_KWARGS)
    if odd:
        raise BadCheckpoint(
            f"'{source}' sets {odd[0]} on its tokenizer, which salmu does not pass on.",
            f"Allowed: {', '.join(sorted(_TOKENIZER_KWARGS))}.",
        )


@cache
def known_names() -> frozenset[str]:
    """Names of text encoders and tokenizers in the configurations that open_clip ships."""
    import open_clip

    configs = [open_clip.get_model_config(name) or {} for name in open_clip.list_models()]
    texts = [config.get("text_cfg", {}) for config in configs]
    return frozenset(str(text[key]) for text in texts for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key))


def on_this_machine(name: str, source: str) -> str:
    """The folder where an earlier download of a known name lies, so that a local checkpoint asks no network.

    Raises:
        BadCheckpoint: it is not here.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in ("tokenizer.json", "config.json"):
        found = try_to_load_from_cache(name, file)
        if isinstance(found, str):
            return str(Path(found).parent)
    raise BadCheckpoint(
        f"{source} needs '{name}', which is neither in its folder nor on this machine; a local checkpoint asks no network.",
        f"Put its tokenizer.json into the folder, or fetch it yourself: hf download {name}",
    )


def _timm_knows(name: str) -> bool:
    import timm

    return bool(timm.is_model(name.split(".")[0]))


def _plain(value: Any) -> Any:
    """Mappings and tuples as JSON has them; whole floats stay floats."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
