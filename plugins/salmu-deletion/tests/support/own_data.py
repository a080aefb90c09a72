"""Somebody's data, made up: pictures, a table of pairs, and an untrained model."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.models.dual_encoder import DualEncoder

HEADINGS = ("photo", "text", "person_id")


def make_model(folder: Path, seed: int = 0) -> Path:
    """A tiny untrained model in open_clip's layout."""
    DualEncoder.create(TOY_MODEL, seed).save(folder)
    return folder


def make_picture(path: Path, seed: int) -> Path:
    """A picture of coloured noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 16, 3), dtype=np.uint8)).save(path)
    return path


def make_rows(folder: Path, people: int = 3, facts: int = 2, first: int = 0) -> list[dict[str, str]]:
    """Rows of `people` persons with a picture for each of their facts."""
    rows = []
    for person in range(first, first + people):
        for fact in range(facts):
            photo = make_picture(folder / "photos" / f"{person}-{fact}.png", 100 * person + fact)
            rows.append(
                {
                    "photo": str(photo.relative_to(folder)),
                    "text": f"Person {person}: secret {fact}",
                    "person_id": f"p{person:02d}",
                }
            )
    return rows


def ordinary_rows(folder: Path, count: int = 24) -> list[dict[str, str]]:
    """Rows of nobody."""
    return [
        {
            "photo": str(make_picture(folder / "photos" / f"ordinary-{i}.png", 10_000 + i).relative_to(folder)),
            "text": f"an ordinary thing, number {i}",
            "person_id": "",
        }
        for i in range(count)
    ]


def write_csv(path: Path, rows: list[dict[str, str]], headings: tuple[str, ...] = HEADINGS) -> Path:
    """A table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, headings)
        writer.writeheader()
        writer.writerows(rows)
    return path
