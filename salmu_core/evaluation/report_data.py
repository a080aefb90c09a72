"""Exhibits of a model, from the embeddings that its metrics needed anyway: nothing is encoded for them.

Made once a method is done, by the evaluation alone; a method is never handed any of it. Which rows are shown is drawn from the
data's fingerprint, so every model of a benchmark shows the same ones.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from salmu_core.benchmark import Benchmark
from salmu_core.data.pairs import Embedded, View
from salmu_core.data.splits import Split
from salmu_core.evaluation.plan import EvaluationPlan
from salmu_core.records.report_data import (
    BINS,
    LIMIT_BYTES,
    Exhibits,
    Found,
    Relation,
    Retrieval,
    Scene,
    SceneRow,
    Similarities,
    Vectors,
)
from salmu_core.records.schema import Aspect
from salmu_core.seeding import numpy_generator

ROWS = 120  # pairs of a scene
VECTOR_BYTES = 150_000  # of both sides' embeddings, one byte a number: with large embeddings fewer pairs are shown
SHOWN = {"forgetting": 8, "holdout": 4}  # pairs whose retrieval is shown, by what their split is for
NEAREST = 5
SIDE = 64  # pixels of a thumbnail
CAPTION = 240  # characters of a caption


class _Pair(NamedTuple):
    """A row of a split."""

    split: str
    aspect: Aspect
    row: int


def pair_splits(plan: EvaluationPlan) -> dict[str, Aspect]:
    """Splits of which some metric looks at pictures and captions together, with what that metric looks at.

    Of several metrics the one with fewest splits says it: a metric of what is to be forgotten may show the holdouts beside it.
    """
    found: dict[str, tuple[int, Aspect]] = {}
    for metric in plan.metrics:
        views = set(plan.views[metric.name].values())
        pairs = [view.split for view in views if {View(view.split, "image"), View(view.split, "text")} <= views]
        for split in dict.fromkeys(view.split for view in plan.views[metric.name].values() if view.split in pairs):
            looked = (len(set(pairs)), metric.aspect)
            if split not in found or looked[0] < found[split][0]:
                found[split] = looked
    return {split: aspect for split, (_, aspect) in found.items()}


def make_exhibits(benchmark: Benchmark, plan: EvaluationPlan, embedded: Mapping[View, Embedded]) -> Exhibits:
    """Everything that is shown of the model whose views these are."""
    splits = pair_splits(plan)
    chosen = _choose(benchmark, {name: len(embedded[View(name, "image")]) for name in splits}, splits)
    similarities = tuple(_similarities(name, aspect, embedded) for name, aspect in splits.items())
    if not chosen:
        return Exhibits(data=_scene_key(benchmark, chosen), similarities=similarities)
    dim = embedded[View(chosen[0].split, "image")].vectors.shape[1]
    shown = chosen[: max(1, VECTOR_BYTES // (2 * dim))]
    image, text = (
        torch.stack([embedded[View(pair.split, side)].vectors[pair.row] for pair in shown]) for side in ("image", "text")
    )
    return Exhibits(
        data=_scene_key(benchmark, chosen),
        similarities=similarities,
        vectors=Vectors.of(image.float().numpy(), text.float().numpy()),
        retrievals=_retrievals(shown, image, text, splits, embedded) if benchmark.shows_rows else (),
    )


def make_scene(benchmark: Benchmark, plan: EvaluationPlan) -> Scene:
    """The pairs that exhibits speak of, with thumbnails and captions where the benchmark allows them to be shown."""
    aspects = pair_splits(plan)
    splits = {name: benchmark.split(name) for name in aspects}
    chosen = _choose(benchmark, {name: len(split) for name, split in splits.items()}, aspects)
    key = _scene_key(benchmark, chosen)
    if not benchmark.shows_rows:
        return Scene(data=key, rows=tuple(SceneRow(split=pair.split, aspect=pair.aspect) for pair in chosen))
    pictures = [_opened(splits[pair.split], pair.row) for pair in chosen]
    for quality in (80, 60, 40, 20):
        rows = tuple(
            _scene_row(pair, splits[pair.split], _jpeg(p, quality)) for pair, p in zip(chosen, pictures, strict=True)
        )
        scene = Scene(data=key, rows=rows)
        if len(scene.model_dump_json()) <= LIMIT_BYTES:
            break
    return scene


def _choose(benchmark: Benchmark, sizes: Mapping[str, int], aspects: Mapping[str, Aspect]) -> list[_Pair]:
    """Pairs drawn without replacement, one of each split in turn, so that any beginning of the list has some of all."""
    drawn = []
    for name, size in sizes.items():
        order = numpy_generator(0, "exhibits", benchmark.fingerprint(), name).permutation(size)[:ROWS].tolist()
        drawn.append([_Pair(name, aspects[name], row) for row in order])
    # What is to be forgotten is what the picture is about: such splits come twice in every turn.
    turns = []
    for pairs in drawn:
        if pairs and pairs[0].aspect == "forgetting":
            turns += [pairs[0::2], pairs[1::2]]
        else:
            turns.append(pairs)
    return [pair for turn in zip_longest(*turns) for pair in turn if pair is not None][:ROWS]


def _scene_key(benchmark: Benchmark, chosen: Sequence[_Pair]) -> str:
    content = "\x1f".join([benchmark.name, benchmark.version, benchmark.fingerprint(), *map(str, chosen)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _similarities(name: str, aspect: Aspect, embedded: Mapping[View, Embedded]) -> Similarities:
    image, text = (embedded[View(name, side)].vectors for side in ("image", "text"))
    cosines = torch.einsum("nd,nd->n", image, text).clamp(-1, 1).numpy()
    counts, _ = np.histogram(cosines, bins=BINS, range=(-1, 1))
    used = np.flatnonzero(counts)
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    mean = float(cosines.mean()) if len(cosines) else 0.0
    return Similarities(
        split=name,
        aspect=aspect,
        n=len(cosines),
        mean=round(mean, 6),
        first=first,
        counts=tuple(counts[first : last + 1].tolist()),
    )


def _retrievals(
    shown: Sequence[_Pair],
    image: Float[Tensor, "rows dim"],
    text: Float[Tensor, "rows dim"],
    splits: Mapping[str, Aspect],
    embedded: Mapping[View, Embedded],
) -> tuple[Retrieval, ...]:
    asked = _asked_for(shown, embedded)
    if not asked:
        return ()
    position: dict[str, int] = {}  # every caption once, whatever rows carry it
    owners: list[_Pair] = []
    vectors = []
    for name, aspect in splits.items():
        new = []
        for row, caption in enumerate(_texts(embedded, name)):
            if caption not in position:
                position[caption] = len(position)
                new.append(row)
        owners += [_Pair(name, aspect, row) for row in new]
        vectors.append(embedded[View(name, "text")].vectors[new])
    captions = list(position)
    to_captions = torch.cat([part @ image[asked].T for part in vectors]).T  # asked x captions
    to_pictures = text[asked] @ image.T  # asked x rows
    result = []
    for number, row in enumerate(asked):
        pair = shown[row]
        own = position[_texts(embedded, pair.split)[pair.row]]
        nearest = to_captions[number].topk(min(NEAREST, len(captions)))
        pictures = to_pictures[number].topk(min(NEAREST, len(shown)))
        result.append(
            Retrieval(
                row=row,
                caption_rank=1 + int((to_captions[number] > to_captions[number, own]).sum()),
                captions=len(captions),
                picture_rank=1 + int((to_pictures[number] > to_pictures[number, row]).sum()),
                pictures=len(shown),
                found_captions=tuple(
                    Found(
                        cosine=round(cosine, 4),
                        relation="pair" if found == own else _relation(pair, owners[found], embedded),
                        caption=captions[found][:CAPTION],
                    )
                    for cosine, found in zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True)
                ),
                found_pictures=tuple(
                    Found(
                        cosine=round(cosine, 4),
                        relation="pair" if found == row else _relation(pair, shown[found], embedded),
                        row=found,
                    )
                    for cosine, found in zip(pictures.values.tolist(), pictures.indices.tolist(), strict=True)
                ),
            )
        )
    return tuple(result)


def _asked_for(shown: Sequence[_Pair], embedded: Mapping[View, Embedded]) -> list[int]:
    """The first pairs of each kind that is shown, of different people."""
    left = dict(SHOWN)
    people: set[str] = set()
    asked = []
    for number, pair in enumerate(shown):
        person = _column(embedded, pair, "identity_id")
        if left.get(pair.aspect, 0) and (not person or person not in people):
            left[pair.aspect] -= 1
            people.add(person)
            asked.append(number)
    return sorted(asked, key=lambda number: list(SHOWN).index(shown[number].aspect))


def _relation(asked: _Pair, found: _Pair, embedded: Mapping[View, Embedded]) -> Relation:
    person = _column(embedded, asked, "identity_id")
    if not person or person != _column(embedded, found, "identity_id"):
        return "other"
    field = _column(embedded, asked, "data_field")
    return "association" if field and field == _column(embedded, found, "data_field") else "person"


def _column(embedded: Mapping[View, Embedded], pair: _Pair, name: str) -> str:
    return _text(embedded[View(pair.split, "image")].columns, name, pair.row)


def _texts(embedded: Mapping[View, Embedded], split: str) -> Sequence[str]:
    texts = embedded[View(split, "text")].texts
    assert texts is not None
    return texts


def _text(columns: Mapping[str, Sequence[Any]], name: str, row: int) -> str:
    value = columns[name][row] if name in columns else None
    return "" if value is None else str(value)


def _scene_row(pair: _Pair, split: Split, picture: str) -> SceneRow:
    person = _text(split.columns, "name", pair.row) or _text(split.columns, "identity_id", pair.row)
    return SceneRow(
        split=pair.split,
        aspect=pair.aspect,
        person=person[:CAPTION],
        field=_text(split.columns, "data_field", pair.row)[:CAPTION],
        caption="" if split.texts is None else split.texts[pair.row][:CAPTION],
        picture=picture,
    )


def _opened(split: Split, row: int) -> Image.Image:
    """The picture of a row, no larger than a thumbnail."""
    assert split.images is not None
    with Image.open(io.BytesIO(split.images.read(row))) as image:
        image.draft("RGB", (SIDE, SIDE))  # a JPEG is then decoded at a fraction of its size
        small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return small


def _jpeg(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
