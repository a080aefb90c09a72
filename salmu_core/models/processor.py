"""What turns encoded pictures and captions into what an encoder takes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from salmu_core.errors import BadCheckpoint
from salmu_core.models.config import CONFIG_FILE as CONFIG_FILE
from salmu_core.models.config import ModelConfig as ModelConfig
from salmu_core.models.config import known_names, on_this_machine
from salmu_core.models.folder_tokenizer import fingerprint, folder_tokenizer, forget_folder_tokenizers


@lru_cache(maxsize=8)
def _tokenizer(name: str | None, context_length: int, kwargs: str) -> Callable[[list[str]], Tensor]:
    """A tokenizer, made once: reading the vocabulary takes longer than making a small model."""
    import open_clip

    given = json.loads(kwargs)
    if name:
        return open_clip.tokenizer.HFTokenizer(  # type: ignore[no-any-return]
            name, context_length=context_length, trust_remote_code=False, **given
        )
    return open_clip.tokenizer.SimpleTokenizer(context_length=context_length, **given)  # type: ignore[no-any-return]


def forget_tokenizers() -> None:
    """Make tokenizers anew from now on: models share them, and somebody wrote into one."""
    _tokenizer.cache_clear()
    forget_folder_tokenizers()


def _make_tokenizer(config: ModelConfig, length: int) -> Callable[[list[str]], Tensor]:
    """The tokenizer of a configuration for captions of `length` tokens.

    Raises:
        BadCheckpoint: see `_named_tokenizer`.
    """
    if config.model_cfg["text_cfg"].get("hf_tokenizer_name") and config.tokenizer:
        return folder_tokenizer(config.tokenizer, length)
    return _named_tokenizer(config, length)


def _named_tokenizer(config: ModelConfig, length: int) -> Callable[[list[str]], Tensor]:
    """The tokenizer that a configuration names, or CLIP's own.

    Raises:
        BadCheckpoint: a name that is not known, or not on this machine where the model is a local one.
    """
    text = config.model_cfg["text_cfg"]
    name, kwargs = text.get("hf_tokenizer_name"), dict(text.get("tokenizer_kwargs") or {})
    if name and name not in known_names():
        raise BadCheckpoint(
            f"The model names the tokenizer '{name}', which lies neither in its folder nor in open_clip's own configurations.",
            "Put its tokenizer.json and tokenizer_config.json into the model's folder.",
        )
    if name and not config.online:
        name = on_this_machine(name, "The model")
    try:
        return _tokenizer(name, length, json.dumps(kwargs, sort_keys=True))
    except (TypeError, ValueError, OSError) as error:
        raise BadCheckpoint(f"The model's tokenizer cannot be made: {str(error).splitlines()[0]}.") from error


class Processor:
    """Turns encoded images and captions into what an encoder takes, exactly as open_clip's evaluation transform does.

    Resizing and cropping end in 8-bit pixels; scaling and normalising follow later, on the device. So pixels can be cached
    as bytes without changing a single value.
    """

    def __init__(self, config: ModelConfig) -> None:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        vision = config.model_cfg["vision_cfg"]
        settings = {**config.preprocess_cfg, "size": vision.get("image_size", 224)}  # the encoder's, as open_clip does
        known = {name: settings[name] for name in PreprocessCfg.__dataclass_fields__ if name in settings}
        self.preprocess = PreprocessCfg(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})
        # The last two transforms are ToTensor and Normalize; everything before them yields a PIL image.
        self._to_pixels = image_transform_v2(self.preprocess, is_train=False).transforms[:-2]
        text = config.model_cfg["text_cfg"]
        self.context_length = int(text.get("context_length", 77))
        self._vocabulary_size = math.inf if "hf_model_name" in text else int(text.get("vocab_size", 49408))
        name = text.get("hf_tokenizer_name")
        kwargs = dict(text.get("tokenizer_kwargs") or {})
        self._own = not name  # CLIP's own: end-of-text has the largest id, and the model reads up to the first one
        if name and config.tokenizer:
            self._tokenizer_name = fingerprint(config.tokenizer)
        else:
            self._tokenizer_name = name or "open_clip.SimpleTokenizer"
            if kwargs:
                self._tokenizer_name += json.dumps(kwargs, sort_keys=True, default=str)
        self._config = config
        self._tokenizer = _make_tokenizer(config, self.context_length)
        self._mean = torch.tensor(self.preprocess.mean).view(1, 3, 1, 1)
        self._std = torch.tensor(self.preprocess.std).view(1, 3, 1, 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Processor:
        """Copies of a model share it: it never changes, and its vocabulary is large."""
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an encoder's input."""
        size = self.preprocess.size
        height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
        return 3, height, width

    def pixels(self, image: Image.Image) -> UInt8[np.ndarray, "3 height width"]:
        """Resized, cropped 8-bit RGB pixels of one image."""
        for transform in self._to_pixels:
            image = transform(image)
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))

    def normalise(self, pixels: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Bytes to the floats that the image encoder takes, on the device of `pixels`."""
        if self._mean.device != pixels.device:  # moved once: a copy per batch would hold up the device
            self._mean, self._std = self._mean.to(pixels.device), self._std.to(pixels.device)
        return pixels.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "batch context"]:
        """Token ids, padded with 0 and cut to the context length. BadCheckpoint: the model has no vector for one of them."""
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        tokens: Tensor = self._tokenizer(list(texts))
        if (largest := int(tokens.max())) >= self._vocabulary_size:
            raise BadCheckpoint(f"The model's tokenizer gives number {largest:,}; the model has {self._vocabulary_size:,}.")
        return tokens

    def what_is_read(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n context"], Bool[np.ndarray, " n"]]:
        """What of captions reaches the model.

        Returns:
            Token ids up to the first end-of-text, 0 after it: captions of equal rows are one caption to the model. And which captions
            lose their end: beyond the context, or after an end-of-text that stands in them.
        """
        tokens = self.tokenize(texts).numpy().copy()
        cut = np.zeros(len(texts), dtype=np.bool_)
        if not len(texts):
            return tokens, cut
        [empty] = self.tokenize([""]).numpy()
        full = np.flatnonzero(tokens[:, -1] != empty[-1])  # no padding: exactly as long as the context, or longer
        if len(full):
            longer = _make_tokenizer(self._config, 2 * self.context_length)
            [padded] = longer([""]).numpy()
            ids = longer([texts[row] for row in full.tolist()]).numpy()
            cut[full] = (ids[:, self.context_length :] != padded[self.context_length :]).any(axis=1)
        if self._own:
            behind = np.arange(tokens.shape[1]) > tokens.argmax(axis=1)[:, None]
            cut |= (behind & (tokens != 0)).any(axis=1)
            tokens[behind] = 0
        return tokens, cut

    @property
    def vocabulary(self) -> int:
        """A hash of what CLIP's own tokenizer knows, which is Python's and can be written into; 0 for others."""
        encoder = getattr(self._tokenizer, "encoder", None)
        return hash((*encoder, *encoder.values())) if isinstance(encoder, dict) else 0

    @cached_property
    def image_fingerprint(self) -> str:
        """Hash of everything that decides the pixels."""
        return _hash_text(json.dumps(self.preprocess.__dict__, sort_keys=True, default=list))

    @cached_property
    def text_fingerprint(self) -> str:
        """Hash of everything that decides the tokens."""
        return _hash_text(f"{self._tokenizer_name}/{self.context_length}")


def _hash_text(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
