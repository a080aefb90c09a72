"""Decoded pixels and token ids of a split, read once per preprocessing and shared by everything that follows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from salmu_core.data import ImageRows, Split, code_values
from salmu_core.errors import BadData
from salmu_core.model import Processor


def decode_image(images: ImageRows, row: int, split: str) -> Image.Image:
    """One decoded RGB image.

    Raises:
        BadData: bytes that are no image or are cut short; names split, file and row.
    """
    try:
        image = Image.open(io.BytesIO(images.read(row)))
        image.load()
        return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadData(
            f"An image of split '{split}' cannot be decoded: {images.where(row)}: {error}.",
            "The file is cut short or is no image. Fetch or build the data again.",
        ) from error


def decode_rows(split: Split, rows: Sequence[int], processor: Processor) -> UInt8[Tensor, "rows 3 height width"]:
    """Preprocessed 8-bit pixels of the given rows."""
    if split.images is None:
        raise BadData(f"Split '{split.name}' has no images.")
    out = np.empty((len(rows), *processor.image_shape), dtype=np.uint8)
    for position, row in enumerate(rows):
        out[position] = processor.pixels(decode_image(split.images, row, split.name))
    return torch.from_numpy(out)


class PairStore:
    """Pixels, tokens and codes of one split, ready to be indexed by batches.

    Pixels are decoded once and kept as bytes; they move to the device and become floats per batch.
    """

    def __init__(self, split: Split, processor: Processor, device: torch.device | str = "cpu") -> None:
        self.split = split
        self.processor = processor
        self.device = torch.device(device)
        self.captions = split.render(None)
        identity = split.columns.get("identity_id", [None] * len(split))
        fields = split.columns.get("data_field", [None] * len(split))
        associations = [
            None if person is None or field is None else (person, field)
            for person, field in zip(identity, fields, strict=True)
        ]
        self.codes = {
            "identity": code_values(identity),
            "association": code_values(associations),
            "caption": code_values(self.captions),
        }

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def _pixels(self) -> UInt8[Tensor, "n 3 height width"]:
        return decode_rows(self.split, range(len(self.split)), self.processor)

    @cached_property
    def _tokens(self) -> Int[Tensor, "n context"]:
        return self.processor.tokenize(self.captions)

    def pixels(self, index: Int[Tensor, " rows"]) -> Float[Tensor, "rows 3 height width"]:
        """Preprocessed images of the given rows, on the store's device."""
        return self.processor.normalise(self._pixels[index.cpu()].to(self.device, non_blocking=True))

    def tokens(self, index: Int[Tensor, " rows"]) -> Int[Tensor, "rows context"]:
        """Tokenised captions of the given rows, on the store's device."""
        return self._tokens[index.cpu()].to(self.device, non_blocking=True)
