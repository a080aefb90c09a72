"""What is derived from a benchmark's data and kept for every later model, process and run: digests, keys, tokens, pixels."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import features
from torch import Tensor

from salmu_core.data.images import FileImages, ImagePlaces, ImageRows, content_key, read_encoded
from salmu_core.data.pixel_file import PixelFile, stride_bytes
from salmu_core.data.processes import process_count, process_index, processes_here, wait_for_all
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, DamagedFile, OutputError
from salmu_core.files.digests import FileDigests
from salmu_core.files.writing import elsewhere, read_tensors, write_tensors
from salmu_core.models.processor import Processor

_PIXEL_FORMAT = 2  # 1 had no checksums
_BLOCK = 64  # images that a thread takes at a time


def _unheard(text: str) -> None:
    """Nobody watches."""


class DataCache:
    """The cache of everything that depends on data and preprocessing and on no weights.

    Keys hold the content that each thing was made from and the versions of what made it, so nothing in it is ever stale;
    any of it may be deleted at any time.

    Args:
        folder: where; None: nothing is kept.
        keep_pixels: keep decoded pixels too, by far the largest part.
        announce: told in words before much is written.
    """

    def __init__(
        self, folder: Path | None = None, keep_pixels: bool = True, announce: Callable[[str], None] = _unheard
    ) -> None:
        self.folder = folder
        self.keep_pixels = keep_pixels and folder is not None
        self._announce = announce
        self._files = FileDigests(folder / "digests" if folder else None)
        self._digests: dict[int, tuple[ImageRows, str]] = {}
        self._pixel_files: dict[Path, PixelFile] = {}

    # ------------------------------------------------------------------ content of images

    def source_digest(self, source: ImageRows) -> str:
        """A hash of the content of every row of a source (see `ImagePlaces`)."""
        if isinstance(source, FileImages):  # asked every time: a file may change while the program lives
            files = self._files.of(source.files())
            return digest_of(type(source).__qualname__, str(len(source)), *files)
        held = self._digests.get(id(source))
        if held is None or held[0] is not source:
            whole = hashlib.blake2b(digest_size=20)
            for row in range(len(source)):
                whole.update(content_key(read_encoded(source, row)))
            held = self._digests[id(source)] = (source, whole.hexdigest())
        return held[1]

    def image_keys(self, splits: Sequence[Split]) -> list[list[str]]:
        """`Split.image_keys` of each split. Of files that did not change since, no image is read again.

        Several processes share the work; each must ask for the same splits.

        Raises:
            BadData: a split without images.
        """
        places = []
        for split in splits:
            if split.images is None:
                raise BadData(f"Split '{split.name}' has no images.")
            places.append(ImagePlaces.of(split.images))
        joined = ImagePlaces.join(places)
        keys = np.empty((len(joined), 16), dtype=np.uint8)
        kept = [isinstance(source, FileImages) and self.folder is not None for source in joined.sources]
        if process_count() > 1 and any(kept):
            for number, source in enumerate(joined.sources):
                if kept[number] and number % process_count() == process_index():
                    self._source_keys(source)
            wait_for_all()
        for number, positions in joined.by_source(np.arange(len(joined))):
            source, rows = joined.sources[number], joined.row[positions]
            if kept[number]:
                keys[positions] = self._source_keys(source)[rows]
            else:
                chosen, back = np.unique(rows, return_inverse=True)
                keys[positions] = _keys(source, chosen)[back]
        texts = [bytes(key).hex() for key in keys]
        ends = np.cumsum([len(part) for part in places]).tolist()
        return [texts[end - len(part) : end] for part, end in zip(places, ends, strict=True)]

    def _source_keys(self, source: ImageRows) -> np.ndarray:
        assert self.folder is not None
        path = self.folder / "keys" / f"{self.source_digest(source)}.safetensors"
        found = read_kept(path, "keys")
        if found is None or found.shape != (len(source), 16):
            found = torch.from_numpy(_keys(source, np.arange(len(source))))
            keep_tensor(path, "keys", found)
        return found.numpy()

    # ------------------------------------------------------------------ pixels

    def pixel_file(self, source: ImageRows, processor: Processor) -> PixelFile | None:
        """Where pixels of that source are kept; None: they are not.

        Raises:
            OutputError: the place cannot be written.
        """
        if not self.keep_pixels or self.folder is None:
            return None
        made_by = digest_of(str(_PIXEL_FORMAT), processor.image_fingerprint, str(processor.image_shape), decoder_version())
        path = self.folder / "pixels" / made_by / f"{self.source_digest(source)}.pixels"
        if path not in self._pixel_files:
            self._pixel_files[path] = PixelFile(path, len(source), processor.image_shape)
        return self._pixel_files[path]

    def announce_pixels(self, rows: int, processor: Processor) -> None:
        """Say how much is going to be written and where, or that there is no room for it.

        Raises:
            OutputError: the disk has less than that free.
        """
        if not rows or not self.keep_pixels or self.folder is None:
            return
        needed = rows * stride_bytes(processor.image_shape)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OutputError(
                f"{rows:,} decoded images take {needed / 1e6:,.1f} MB, and '{self.folder}' has {free / 1e6:,.1f} MB free.",
                f"{elsewhere(self.folder, 'Free some space')[:-1]}, or pass --no-cache to decode images each time.",
            )
        if process_index() == 0:
            self._announce(
                f"{rows:,} decoded images are going to be kept: {needed / 1e9:.2f} GB in {self.folder / 'pixels'}"
            )

    # ------------------------------------------------------------------ tokens

    def tokens(self, texts: Sequence[str], processor: Processor) -> Int[Tensor, "texts context"]:
        """Token ids as `Processor.tokenize` gives them, in int32."""
        if self.folder is None:
            return processor.tokenize(texts).to(torch.int32)
        key = digest_of("tokens", processor.text_fingerprint, tokenizer_version(), *texts)
        path = self.folder / "tokens" / f"{key}.safetensors"
        found = read_kept(path, "tokens")
        if found is None or len(found) != len(texts):
            found = processor.tokenize(texts).to(torch.int32)
            if process_index() == 0:
                keep_tensor(path, "tokens", found)
        return found


class DecodePool:
    """Threads that read and decode images: Pillow frees the interpreter while it works."""

    @cached_property
    def threads(self) -> int:
        """This process's share of the cores."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // processes_here())

    @cached_property
    def executor(self) -> ThreadPoolExecutor:
        """Started when first used."""
        return ThreadPoolExecutor(self.threads, "decode")

    def in_blocks(self, work: Callable[[int, int], None], rows: int, block: int = _BLOCK) -> None:
        """Call `work(start, end)` for blocks that cover `rows`, and wait; the first error in row order is raised."""
        block = max(1, min(block, -(-rows // self.threads)))
        futures = [self.executor.submit(work, start, min(start + block, rows)) for start in range(0, rows, block)]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()


decode_pool = DecodePool()


def _keys(source: ImageRows, rows: Int[np.ndarray, " n"]) -> np.ndarray:
    keys = np.empty((len(rows), 16), dtype=np.uint8)

    def fill(start: int, end: int) -> None:
        for position in range(start, end):
            keys[position] = np.frombuffer(content_key(read_encoded(source, int(rows[position]))), dtype=np.uint8)

    decode_pool.in_blocks(fill, len(rows))
    return keys


def digest_of(*parts: str) -> str:
    """One hash of several texts; where one ends and the next begins counts."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


@cache
def decoder_version() -> str:
    """Versions of what decodes and resizes: another one may give other pixels."""
    codecs = [f"{name} {features.version(name)}" for name in ("pil", "libjpeg_turbo", "jpg", "zlib", "webp", "jpg_2000")]
    return ", ".join([*codecs, f"open_clip {_version('open_clip_torch')}", f"torchvision {_version('torchvision')}"])


@cache
def tokenizer_version() -> str:
    """Versions of what makes token ids."""
    return ", ".join(
        f"{name} {_version(name)}" for name in ("open_clip_torch", "ftfy", "regex", "transformers", "tokenizers")
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def keep_tensor(path: Path, name: str, tensor: Tensor) -> None:
    """Keep a tensor in the cache under a key, which is the file's name."""
    write_tensors(path, {name: tensor}, {"key": path.stem})


def read_kept(path: Path, name: str) -> Tensor | None:
    """What `keep_tensor` kept; None where it is not there, and where it is damaged or another key's: it is then made again."""
    try:
        tensors, metadata = read_tensors(path, sealed=True)
    except DamagedFile:
        return None
    return tensors.get(name) if metadata.get("key") == path.stem else None
