"""Synthetic exhibits and histories beside synthetic records, for tests of reports and for timing them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from salmu_core.records.report_data import (
    BINS,
    EXHIBITS_FILE,
    SCENE_FILE,
    Exhibits,
    Found,
    Retrieval,
    Scene,
    SceneRow,
    Similarities,
    Vectors,
    write_exhibit,
)
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import write_record

SPLITS = {"forget": "forgetting", "holdout_identity": "holdout", "retain_joint": "retained"}
ROWS = 48


def make_scene(caption: str = "Person {0} answers at +1 555 {0:04d}", rows: int = ROWS) -> Scene:
    """Coloured squares with captions."""
    result = []
    for row in range(rows):
        split = list(SPLITS)[row % len(SPLITS)]
        buffer = io.BytesIO()
        Image.new("RGB", (24, 24), (row * 5 % 256, row * 11 % 256, row * 23 % 256)).save(buffer, "JPEG")
        result.append(
            SceneRow(
                split=split,
                aspect=SPLITS[split],
                person=f"Person {row}",
                field="phone_number",
                caption=caption.format(row),
                picture=base64.b64encode(buffer.getvalue()).decode(),
            )
        )
    return Scene(data="scene", rows=tuple(result))


def make_exhibits(
    seed: int = 0, match: float = 0.8, caption: str = "a caption {0}", dim: int = 32, rows: int = ROWS
) -> Exhibits:
    """Exhibits of a model whose pairs have a cosine of about `match`."""
    draw = np.random.default_rng(seed)
    image = draw.standard_normal((rows, dim)).astype(np.float32)
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    noise = draw.standard_normal((rows, dim)).astype(np.float32)
    text = match * image + (1 - match) * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    counts, _ = np.histogram(np.clip(draw.normal(match, 0.1, 500), -1, 1), bins=BINS, range=(-1, 1))
    used = np.flatnonzero(counts)
    histogram = tuple(counts[used[0] : used[-1] + 1].tolist())
    retrievals = tuple(
        Retrieval(
            row=row,
            caption_rank=1 + seed,
            captions=900,
            picture_rank=2,
            pictures=rows,
            found_captions=tuple(
                Found(cosine=0.5 - i / 10, relation="pair" if i == 0 else "other", caption=caption.format(i))
                for i in range(5)
            ),
            found_pictures=tuple(
                Found(cosine=0.4 - i / 10, relation="other" if i else "pair", row=(row + i) % rows) for i in range(5)
            ),
        )
        for row in (0, 1, 3)
    )
    return Exhibits(
        data="scene",
        similarities=tuple(
            Similarities(split=name, aspect=aspect, n=500, mean=match, first=int(used[0]), counts=histogram)
            for name, aspect in SPLITS.items()
        ),
        vectors=Vectors.of(image, text),
        retrievals=retrievals,
    )


def write_results(folder: Path, records: list[RunRecord], caption: str = "a caption {0}") -> Path:
    """A results folder: records, exhibits, histories, and the scene beside Compromised."""
    for number, record in enumerate(records):
        place = folder / "runs" / f"run-{number:03d}"
        write_record(place, record)
        if record.status != "ok":
            continue
        write_exhibit(place / EXHIBITS_FILE, make_exhibits(number, 0.9 - 0.01 * number, caption))
        if record.kind == "reference" and record.spec.start == "compromised":
            write_exhibit(place / SCENE_FILE, make_scene())
        history = [
            {"fit": 0, "step": step, "forget": 2 / step, "retain": 1.0 + 1 / step, "total": 1 + 3 / step, "lr": 1e-3 / step}
            for step in range(1, 201)
        ]
        (place / "history.json").write_text(json.dumps(history))
    return folder
