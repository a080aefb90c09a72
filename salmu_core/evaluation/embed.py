"""The one embedding pass: every image and every caption that any metric needs is encoded exactly once per model.

Rows are gathered over all views and told apart by content, so a split that is part of another costs nothing. Results are kept
in a cache whose key holds the tower's weights, its preprocessing or tokenizer, the number type and the content of every row.
Pixels are read, and decoded where they are not in the cache, in the background while the encoder works; no split is ever in
memory as a whole.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache, decoder_version, digest_of, keep_tensor, read_kept, tokenizer_version
from salmu_core.data.pairs import Embedded, Side, View
from salmu_core.data.pixels import PixelTable, read_ahead
from salmu_core.data.processes import process_count, process_index
from salmu_core.data.splits import Split
from salmu_core.errors import Diverged
from salmu_core.models.dual_encoder import DualEncoder, Tower

CHUNK = 256  # rows per forward; fixed, because another size may round differently
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EmbeddingCache:
    """Where embeddings are kept."""

    folder: Path

    def read(self, key: str) -> Tensor | None:
        """The vectors of that key; a damaged file counts as missing."""
        return read_kept(self._path(key), "vectors")

    def write(self, key: str, vectors: Tensor) -> None:
        """Keep vectors."""
        keep_tensor(self._path(key), "vectors", vectors)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def embed_views(
    model: DualEncoder,
    benchmark: Benchmark,
    views: Sequence[View],
    cache: EmbeddingCache | None = None,
    tell: Tell = lambda stage, done, total: None,
    *,
    data: DataCache | None = None,
    fingerprint: Mapping[Tower, str] | None = None,
) -> dict[View, Embedded]:
    """Embed every view of one model.

    Args:
        model: on the device it is to run on.
        cache: where to look first and to keep the result; None: neither.
        data: where content keys, tokens and pixels are kept; None: nowhere.
        fingerprint: the model's, where it is known already.

    Returns:
        One `Embedded` per view, rows in the split's order, fp32 on the CPU. The same numbers whatever the caches hold and
        however many processes share the work.

    Raises:
        BadData: an image that cannot be decoded; split, file and row are named.
        Diverged: an embedding that is not finite.
        OutputError: there is no room for decoded images.
    """
    model.eval()  # a third party's model may come in training mode, in which attention takes another path and rounds otherwise
    data = data or DataCache()
    splits = {view.split: benchmark.split(view.split) for view in views}
    with_images = list(dict.fromkeys(view.split for view in views if view.side == "image"))
    image_keys = dict(zip(with_images, data.image_keys([splits[name] for name in with_images]), strict=True))
    first: dict[str, tuple[str, int]] = {}
    for name, keys in image_keys.items():
        for row, key in enumerate(keys):
            first.setdefault(key, (name, row))
    rendered = {view: splits[view.split].render(view.template) for view in views if view.side == "text"}
    texts = sorted({text for lines in rendered.values() for text in lines})

    tables = _tables(model, splits, first, texts, cache, tell, data, fingerprint or model.fingerprint())
    result = {}
    for view in views:
        position, vectors = tables[view.side]
        rows = image_keys[view.split] if view.side == "image" else rendered[view]
        index = torch.tensor([position[key] for key in rows], dtype=torch.long)
        result[view] = Embedded(vectors[index], splits[view.split].columns, rendered.get(view))
    return result


def _tables(
    model: DualEncoder,
    splits: Mapping[str, Split],
    first: Mapping[str, tuple[str, int]],
    texts: Sequence[str],
    cache: EmbeddingCache | None,
    tell: Tell,
    data: DataCache,
    fingerprint: Mapping[Tower, str],
) -> dict[Side, tuple[dict[str, int], Tensor]]:
    """Per side, the embeddings of what is distinct, and the row of each: of images by content key, of captions by text.

    Args:
        first: content key of every distinct image -> split and row where it comes first.
    """
    cache_keys = _cache_keys(model, fingerprint, list(first), texts)
    tables: dict[Side, tuple[dict[str, int], Tensor]] = {}
    images = _from_cache(cache, cache_keys["image"]) if first else None
    captions = _from_cache(cache, cache_keys["text"]) if texts else None
    with ThreadPoolExecutor(1, "tokenize") as background:
        # Tokenizing is slow Python and waits for no GPU: it goes on while images are embedded.
        tokens = background.submit(data.tokens, texts, model.processor) if texts and captions is None else None
        if first:
            if images is None:
                images = _encode_images(model, splits, first, data, tell)
                _keep(cache, cache_keys["image"], images)
            tables["image"] = (_positions(first), images)
        if texts:
            if tokens is not None:
                captions = _encode_texts(model, tokens.result(), tell)
                _keep(cache, cache_keys["text"], captions)
            assert captions is not None
            tables["text"] = (_positions(texts), captions)
    for side, (_, vectors) in tables.items():
        if not torch.isfinite(vectors).all():
            raise Diverged(f"Embeddings of the {side} encoder are not finite.")
    return tables


def _cache_keys(
    model: DualEncoder, fingerprint: Mapping[Tower, str], images: Sequence[str], texts: Sequence[str]
) -> dict[Side, str]:
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    common = (str(model.autocast or torch.float32), device, str(torch.__version__), str(CHUNK))
    processor = model.processor
    return {
        "image": digest_of(
            "embedding", "image", fingerprint["image"], processor.image_fingerprint, decoder_version(), *common, *images
        ),
        "text": digest_of(
            "embedding", "text", fingerprint["text"], processor.text_fingerprint, tokenizer_version(), *common, *texts
        ),
    }


def _from_cache(cache: EmbeddingCache | None, key: str) -> Tensor | None:
    """What the cache holds, if every process finds it: those that do not share a disk must still go the same way."""
    found = cache.read(key) if cache else None
    if process_count() > 1:
        there = torch.tensor([found is not None], dtype=torch.uint8, device=_exchange_device())
        dist.all_reduce(there, op=dist.ReduceOp.MIN)
        return found if bool(there.item()) else None
    return found


def _keep(cache: EmbeddingCache | None, key: str, vectors: Tensor) -> None:
    if cache and process_index() == 0:
        cache.write(key, vectors)


def _positions(keys: Sequence[str] | Mapping[str, object]) -> dict[str, int]:
    return {key: position for position, key in enumerate(keys)}


def _encode_images(
    model: DualEncoder,
    splits: Mapping[str, Split],
    first: Mapping[str, tuple[str, int]],
    data: DataCache,
    tell: Tell,
) -> Float[Tensor, "n dim"]:
    rows: dict[str, list[int]] = {}
    for name, row in first.values():  # in order of splits, so rows of one split are neighbours
        rows.setdefault(name, []).append(row)
    table = PixelTable([(splits[name], chosen) for name, chosen in rows.items()], model.processor, data)
    missing = table.prepare()
    chunks = _my_chunks(len(table))
    pinned = model.device.type == "cuda"

    def read(number: int) -> Tensor:
        start = chunks[number] * CHUNK
        return table.read(np.arange(start, min(start + CHUNK, len(table))), pinned)

    def encode(pixels: Tensor) -> Tensor:
        return model.encode_image(model.processor.normalise(pixels.to(model.device, non_blocking=True)))

    stage = "decode and embed images" if missing else "embed images"
    return _in_chunks(model, (encode(pixels) for pixels in read_ahead(read, len(chunks))), len(table), stage, tell)


def _encode_texts(model: DualEncoder, tokens: Tensor, tell: Tell) -> Float[Tensor, "n dim"]:
    # Captions of like length share a chunk: the encoder then computes few columns past the end of text.
    order = torch.argsort(tokens.ne(0).sum(dim=-1), stable=True)
    tokens = tokens[order]
    chunks = [tokens[number * CHUNK : (number + 1) * CHUNK] for number in _my_chunks(len(tokens))]
    encoded = (model.encode_text(chunk.long().to(model.device)) for chunk in chunks)
    vectors = _in_chunks(model, encoded, len(tokens), "embed captions", tell)
    return vectors[torch.argsort(order)]


def _my_chunks(rows: int) -> range:
    """With several processes each takes every n-th chunk."""
    return range(process_index(), math.ceil(rows / CHUNK), process_count())


def _in_chunks(
    model: DualEncoder, encoded: Iterable[Float[Tensor, "chunk dim"]], rows: int, stage: str, tell: Tell
) -> Float[Tensor, "n dim"]:
    """All rows, on every process, from this process's chunks."""
    per_process = math.ceil(math.ceil(rows / CHUNK) / process_count())
    mine = torch.zeros(per_process, CHUNK, int(model.config.model_cfg["embed_dim"]))
    waiting: deque[tuple[int, Tensor]] = deque()

    def collect(at_most: int) -> None:
        # A GPU computes while later chunks are queued; copying a result back waits for it, so the queue stays short.
        while len(waiting) > at_most:
            slot, vectors = waiting.popleft()
            mine[slot, : len(vectors)] = vectors.cpu()

    with torch.inference_mode():
        for slot, vectors in enumerate(encoded):
            waiting.append((slot, vectors))
            collect(2)
            tell(stage, min((slot + 1) * CHUNK * process_count(), rows), rows)
        collect(0)
    if process_count() > 1:
        place = _exchange_device()
        parts = [torch.empty(mine.shape, device=place) for _ in range(process_count())]
        dist.all_gather(parts, mine.to(place))
        # Chunk c is in slot c // n of process c % n.
        mine = torch.stack([part.cpu() for part in parts], dim=1)
    return mine.reshape(-1, mine.shape[-1])[:rows].clone()


def _exchange_device() -> torch.device:
    """Where tensors must be for the process group to exchange them."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
