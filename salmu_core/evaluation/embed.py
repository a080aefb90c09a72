"""The one embedding pass: every image and every caption that any metric needs is encoded exactly once per model.

Rows are gathered over all views and told apart by content, so a split that is part of another costs nothing. Results are kept
in a cache whose key holds the tower's weights, its preprocessing or tokenizer, the number type and the content of every row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from salmu_core.benchmark import Benchmark
from salmu_core.data import Embedded, Side, Split, View
from salmu_core.errors import Diverged
from salmu_core.files import write_tensors
from salmu_core.model import DualEncoder
from salmu_core.pixels import decode_rows
from salmu_core.processes import process_count, process_index

CHUNK = 256  # rows per forward; fixed, because another size may round differently
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EmbeddingCache:
    """Where embeddings and pixels are kept."""

    folder: Path

    def read(self, key: str, name: str = "vectors") -> Tensor | None:
        """The tensor of that key; a damaged file counts as missing."""
        path = self._path(key)
        try:
            return load_file(path)[name] if path.is_file() else None
        except (SafetensorError, KeyError, OSError):
            return None

    def write(self, key: str, tensor: Tensor, name: str = "vectors") -> None:
        """Keep a tensor."""
        write_tensors(self._path(key), {name: tensor})

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def embed_views(
    model: DualEncoder,
    benchmark: Benchmark,
    views: Sequence[View],
    cache: EmbeddingCache | None = None,
    tell: Tell = lambda stage, done, total: None,
) -> dict[View, Embedded]:
    """Embed every view of one model.

    Args:
        model: on the device it is to run on.
        cache: where to look first and to keep the result; None: neither.

    Returns:
        One `Embedded` per view, rows in the split's order, fp32 on the CPU.

    Raises:
        BadData: an image that cannot be decoded; split, file and row are named.
        Diverged: an embedding that is not finite.
    """
    fingerprint = model.fingerprint()
    number_type = str(model.autocast or torch.float32)
    splits = {view.split: benchmark.split(view.split) for view in views}

    image_rows: dict[str, tuple[Split, int]] = {}
    for name in dict.fromkeys(view.split for view in views if view.side == "image"):
        for row, key in enumerate(splits[name].image_keys):
            image_rows.setdefault(key, (splits[name], row))
    texts = {view: splits[view.split].render(view.template) for view in views if view.side == "text"}
    unique_texts = sorted({text for rendered in texts.values() for text in rendered})

    tables: dict[Side, tuple[dict[str, int], Tensor]] = {}
    for side, keys in (("image", list(image_rows)), ("text", unique_texts)):
        if not keys:
            continue
        settings = model.processor.image_fingerprint if side == "image" else model.processor.text_fingerprint
        key = _digest("embedding", side, fingerprint[side], settings, number_type, *keys)  # type: ignore[index]
        vectors = cache.read(key) if cache else None
        if vectors is None:
            images = side == "image"
            vectors = _encode_images(model, image_rows, cache, tell) if images else _encode_texts(model, unique_texts, tell)
            if cache and process_index() == 0:
                cache.write(key, vectors)
        if not torch.isfinite(vectors).all():
            raise Diverged(f"Embeddings of the {side} encoder are not finite.")
        tables[side] = ({key: position for position, key in enumerate(keys)}, vectors)  # type: ignore[index]

    result = {}
    for view in views:
        split = splits[view.split]
        position, vectors = tables[view.side]
        rows = split.image_keys if view.side == "image" else texts[view]
        index = torch.tensor([position[key] for key in rows], dtype=torch.long)
        result[view] = Embedded(vectors[index], split.columns, texts.get(view))
    return result


def _encode_images(
    model: DualEncoder, rows: dict[str, tuple[Split, int]], cache: EmbeddingCache | None, tell: Tell
) -> Float[Tensor, "n dim"]:
    sources = list(rows.values())
    key = _digest("pixels", model.processor.image_fingerprint, *rows)
    pixels = cache.read(key, "pixels") if cache else None
    if pixels is None:
        parts = []
        for start in range(0, len(sources), CHUNK):
            for split, group in _runs(sources[start : start + CHUNK]):
                parts.append(decode_rows(split, group, model.processor))
            tell("read images", min(start + CHUNK, len(sources)), len(sources))
        pixels = torch.cat(parts)
        if cache and process_index() == 0:
            cache.write(key, pixels, "pixels")
    whole = pixels

    def encode(start: int) -> Tensor:
        return model.encode_image(model.processor.normalise(whole[start : start + CHUNK].to(model.device)))

    return _in_chunks(encode, len(sources), "embed images", tell)


def _encode_texts(model: DualEncoder, texts: Sequence[str], tell: Tell) -> Float[Tensor, "n dim"]:
    tokens = model.processor.tokenize(texts)
    # Captions of like length share a chunk: the encoder then computes few columns past the end of text.
    order = torch.argsort(tokens.ne(0).sum(dim=-1), stable=True)
    tokens = tokens[order]

    def encode(start: int) -> Tensor:
        return model.encode_text(tokens[start : start + CHUNK].to(model.device))

    vectors = _in_chunks(encode, len(texts), "embed captions", tell)
    return vectors[torch.argsort(order)]


def _in_chunks(encode: Callable[[int], Tensor], rows: int, stage: str, tell: Tell) -> Float[Tensor, "n dim"]:
    """Encode all rows; with several processes each takes every n-th chunk, and all end with all rows."""
    starts = list(range(0, rows, CHUNK))
    mine = []
    with torch.inference_mode():
        for number, start in enumerate(starts):
            if number % process_count() == process_index():
                mine.append((number, encode(start).cpu()))
            tell(stage, min(start + CHUNK, rows), rows)
    parts = gather_object(mine) if process_count() > 1 else mine
    return torch.cat([vectors for _, vectors in sorted(parts, key=lambda part: part[0])]).clone()


def _runs(sources: Sequence[tuple[Split, int]]) -> list[tuple[Split, list[int]]]:
    """Neighbouring rows of one split together."""
    groups: list[tuple[Split, list[int]]] = []
    for split, row in sources:
        if groups and groups[-1][0] is split:
            groups[-1][1].append(row)
        else:
            groups.append((split, [row]))
    return groups


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
