"""Decoded pixels and token ids of a split, read once per preprocessing and shared by everything that follows."""

from __future__ import annotations

import io
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from salmu_core.data.cache import DataCache, decode_pool
from salmu_core.data.images import ImagePlaces, ImageRows, read_encoded
from salmu_core.data.pairs import code_values
from salmu_core.data.pixel_file import MemoryPixels, PixelRows
from salmu_core.data.splits import Split
from salmu_core.errors import BadData
from salmu_core.models.processor import Processor

# Of palettes that say how opaque each colour is: made RGB, like open_clip does, they lose that, and nothing else.
warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
T = TypeVar("T")
_LONGEST = 500  # times the shorter side: such a picture takes 75 MB once it is resized to 224 pixels
_DIM = 64  # of 255: the upper eight bits of a picture of 14 bits that is stored in 16
_AS_8_BITS = "Save it as 8-bit, with values scaled to 0 to 255."
_IN_MEMORY_BYTES = 256_000_000  # splits below this keep their pixels in memory where there is no cache


class UnfitPicture(ValueError):
    """A picture that can be decoded, and would not be seen as it is.

    Args:
        kind: "deep" or "long".
        words: what is so, as a sentence without its subject.
        hint: what to do.
    """

    def __init__(self, kind: Literal["deep", "long"], words: str, hint: str) -> None:
        super().__init__(words)
        self.kind, self.hint = kind, hint


def open_picture(encoded: bytes) -> Image.Image:
    """A decoded picture, in its own mode.

    Raises:
        UnfitPicture: values beyond 0 to 255, as in grey pictures of 16 or 32 bits, or of floating point numbers from 0 to 1: made RGB,
            they would all become black or white. Or colours of 16 bits that use fewer, as cameras of 10 to 14 bits leave them:
            of those the upper eight bits are read, which are nearly 0. Or one side more than 500 times the other: resized by the
            shorter one, it would fill the memory.
        OSError, SyntaxError, ValueError, DecompressionBombError: bytes that are not an image or are cut short.
    """
    image = Image.open(io.BytesIO(encoded))
    if max(image.size) > _LONGEST * min(image.size):
        raise UnfitPicture("long", f"it has {image.size[0]} x {image.size[1]} pixels", "Cut out what it is to show.")
    of_16_bits = any(";16" in str(tile[3]) for tile in image.tile)  # how Pillow will read it; gone after it has
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())  # NaN where one is
        if not (low >= 0 and high <= 255) or (image.mode == "F" and 0 < high <= 1):
            words = f"it has values from {low:g} to {high:g}, and a picture of 8 bits has 0 to 255"
            raise UnfitPicture("deep", words, _AS_8_BITS)
    elif of_16_bits and 0 < (high := _brightest(image)) < _DIM:
        words = f"it has colours of 16 bits whose largest value is below {256 * (high + 1)} of 65536, so it would be nearly black"
        raise UnfitPicture("deep", words, _AS_8_BITS)
    return image


def _brightest(image: Image.Image) -> int:
    """The largest value of a colour, without what says how opaque it is."""
    return max(int(np.asarray(image.getchannel(band)).max()) for band in image.getbands() if band != "A")


def decode_image(images: ImageRows, row: int, split: str) -> Image.Image:
    """One decoded RGB image.

    Raises:
        BadData: bytes that are not an image, are cut short, or do not fit into 8 bits; names split, file and row.
    """
    try:
        return open_picture(read_encoded(images, row, split)).convert("RGB")
    except UnfitPicture as error:
        raise BadData(
            f"An image of split '{split}' would not be seen as it is: {images.where(row)}: {error}.", error.hint
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        cause = (
            "of no kind that is read" if isinstance(error, UnidentifiedImageError) else error
        )  # whose words are an address
        raise BadData(
            f"An image of split '{split}' cannot be decoded: {images.where(row)}: {cause}.",
            "The file is cut short or is not an image. Fetch or build the data again.",
        ) from error


class PixelTable:
    """Preprocessed 8-bit pixels of chosen rows of splits, by position. Decoded where they are not in the cache.

    Safe to use from several threads.

    Args:
        parts: splits and which of their rows, one after another.
        memory: keep pixels in memory where the cache keeps none.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Split, Sequence[int]]],
        processor: Processor,
        data: DataCache,
        memory: bool = False,
    ) -> None:
        places = []
        for split, rows in parts:
            if split.images is None:
                raise BadData(f"Split '{split.name}' has no images.")
            places.append(ImagePlaces.of(split.images).take(np.asarray(rows, dtype=np.int64)))
        self.processor = processor
        self._data = data
        self._places = ImagePlaces.join(places)
        self._names = [split.name for split, _ in parts]
        self._name = np.repeat(np.arange(len(parts)), [len(rows) for _, rows in parts])
        self._memory = memory
        self._announced = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _kept(self) -> list[PixelRows | None]:
        """Where the pixels of each source are kept."""
        shape = self.processor.image_shape
        kept: list[PixelRows | None] = []
        for source in self._places.sources:
            found: PixelRows | None = self._data.pixel_file(source, self.processor)
            kept.append(MemoryPixels(len(source), shape) if found is None and self._memory else found)
        return kept

    def prepare(self) -> int:
        """Find out how many images have to be decoded, and announce what will be written; done once.

        Raises:
            OutputError: no room for it.
        """
        with self._lock:
            missing = 0
            for number, positions in self._places.by_source(np.arange(len(self))):
                kept, rows = self._kept[number], np.unique(self._places.row[positions])
                missing += len(rows) if kept is None else int((~kept.has(rows)).sum())
            if not self._announced:
                self._data.announce_pixels(missing, self.processor)
                self._announced = True
            return missing

    def read(self, positions: Int[np.ndarray, " n"], pinned: bool = False) -> UInt8[Tensor, "n 3 height width"]:
        """Pixels at the given positions.

        Args:
            pinned: in memory that a GPU reads from while the program goes on.

        Raises:
            BadData: an image that cannot be decoded; split, file and row are named.
            OutputError: they cannot be kept.
        """
        if not self._announced:
            self.prepare()
        result = torch.empty((len(positions), *self.processor.image_shape), dtype=torch.uint8, pin_memory=pinned)
        out = result.numpy()
        for number, chosen in self._places.by_source(positions):
            kept, rows = self._kept[number], self._places.row[positions[chosen]]
            there = np.zeros(len(rows), dtype=np.bool_) if kept is None else kept.has(rows)
            if kept is not None and there.any():
                there[there] = self._copy(kept, rows[there], out, chosen[there])
            lacking = np.flatnonzero(~there)
            if len(lacking):
                # In row order: a reader of files then goes through them once.
                lacking = lacking[np.argsort(rows[lacking], kind="stable")]
                self._decode(number, positions[chosen[lacking]], out, chosen[lacking])
                if kept is not None:
                    kept.write(rows[lacking], out[chosen[lacking]])
        return result

    def _copy(
        self, kept: PixelRows, rows: Int[np.ndarray, " m"], out: np.ndarray, into: Int[np.ndarray, " m"]
    ) -> Bool[np.ndarray, " m"]:
        """Copy kept rows to their places. Which of them were sound?"""
        if len(rows) == len(out):
            return kept.read(rows, out)
        some = np.empty((len(rows), *out.shape[1:]), dtype=np.uint8)
        good = kept.read(rows, some)
        out[into] = some
        return good

    def _decode(self, source: int, positions: Int[np.ndarray, " m"], out: np.ndarray, into: Int[np.ndarray, " m"]) -> None:
        images = self._places.sources[source]

        def decode(start: int, end: int) -> None:
            for step in range(start, end):
                position = positions[step]
                image = decode_image(images, int(self._places.row[position]), self._names[self._name[position]])
                out[into[step]] = self.processor.pixels(image)

        decode_pool.in_blocks(decode, len(positions), block=16)


def read_ahead(read: Callable[[int], T], count: int, *, ahead: int = 3, threads: int = 2) -> Iterator[T]:
    """`read(0)`, `read(1)`, ... in order, the next `ahead` of them being read in the background."""
    with ThreadPoolExecutor(threads, "read") as pool:
        waiting: deque[Future[T]] = deque(pool.submit(read, number) for number in range(min(ahead, count)))
        try:
            for number in range(count):
                result = waiting.popleft().result()
                if number + ahead < count:
                    waiting.append(pool.submit(read, number + ahead))
                yield result
        finally:
            for future in waiting:
                future.cancel()


class PairStore:
    """Pixels, tokens and codes of one split, ready to be indexed by batches.

    Pixels stay bytes until they are on the device. They come from the cache, or else from the encoded images; a small split
    is decoded once and kept in memory where there is no cache.
    """

    def __init__(
        self, split: Split, processor: Processor, device: torch.device | str = "cpu", data: DataCache | None = None
    ) -> None:
        self.split = split
        self.processor = processor
        self.device = torch.device(device)
        self.captions = split.render(None)
        self.columns_read: set[str] = set()  # metadata that a method has read, directly or as codes
        self._data = data or DataCache()
        self._ahead: deque[tuple[Int[np.ndarray, " rows"], Future[Tensor]]] = deque(maxlen=2)
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
    def _table(self) -> PixelTable:
        small = len(self) * int(np.prod(self.processor.image_shape)) <= _IN_MEMORY_BYTES
        return PixelTable([(self.split, range(len(self)))], self.processor, self._data, memory=small)

    @cached_property
    def _tokens(self) -> Int[Tensor, "n context"]:
        return self._data.tokens(self.captions, self.processor)

    @cached_property
    def _reader(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "prefetch")

    def prefetch(self, index: Int[Tensor, " rows"]) -> None:
        """Start reading the pixels of these rows in the background. A following `pixels` of them, or of some of them, finds
        them ready; the last two calls count.
        """
        rows = index.cpu().numpy().copy()
        _ = self._table  # made here and not in the background, where there could be two of it
        self._ahead.append((rows, self._reader.submit(self._read, rows)))

    def _read(self, rows: Int[np.ndarray, " rows"]) -> UInt8[Tensor, "rows 3 height width"]:
        return self._table.read(rows, pinned=self.device.type == "cuda")

    def pixels(self, index: Int[Tensor, " rows"]) -> Float[Tensor, "rows 3 height width"]:
        """Preprocessed images of the given rows, on the store's device.

        Raises:
            BadData: an image that cannot be decoded; split, file and row are named.
        """
        return self.processor.normalise(self._bytes(index.cpu().numpy()).to(self.device, non_blocking=True))

    def _bytes(self, rows: Int[np.ndarray, " rows"]) -> UInt8[Tensor, "rows 3 height width"]:
        for fetched, future in list(self._ahead):
            if len(rows) <= len(fetched) and np.isin(rows, fetched).all():
                pixels = future.result()
                if np.array_equal(rows, fetched):
                    return pixels
                order = np.argsort(fetched, kind="stable")
                return pixels[torch.from_numpy(order[np.searchsorted(fetched, rows, sorter=order)])]
        return self._read(rows)

    def tokens(self, index: Int[Tensor, " rows"]) -> Int[Tensor, "rows context"]:
        """Tokenised captions of the given rows, on the store's device."""
        return self._tokens[index.cpu()].to(self.device, non_blocking=True).long()

    @cached_property
    def _text_lengths(self) -> Int[Tensor, " n"]:
        return self._tokens.argmax(dim=-1) + 1  # end-of-text has the largest id

    def text_length(self, index: Int[Tensor, " rows"]) -> int:
        """Columns up to the last end-of-text of the given rows, found on the CPU: asking the device would wait for it."""
        return int(self._text_lengths[index.cpu()].max()) if len(index) else 0
