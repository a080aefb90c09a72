"""The synthetic snapshot of the performance measurements has the published counts, and pictures of either size."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from salmubench import layout

_SCRIPT = Path(__file__).resolve().parents[2] / "perf" / "make_snapshot.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_snapshot", _SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_snapshot"] = module
    spec.loader.exec_module(module)
    return module


def test_counts_are_those_of_the_published_tables_and_splits(script: ModuleType) -> None:
    plans, _ = script.plan_rows(script.Counts())
    assert {split: len(rows) for split, rows in plans.items()} == layout.PUBLISHED_ROWS
    people = {split: [plan.identity_id for plan in rows] for split, rows in plans.items()}
    partly, forgotten = set(people["holdout_association"]), set(people["forget"])
    derived = {
        "forget_identity": sum(who not in partly for who in people["forget"]),
        "forget_association": sum(who in partly for who in people["forget"]),
        "retain_joint": sum(who in forgotten for who in people["retain_synth"]),
    }
    assert derived == layout.PUBLISHED_DERIVED
    assert {split: len(set(people[split])) for split in layout.PUBLISHED_IDENTITIES} == layout.PUBLISHED_IDENTITIES
    outside = {who for who in people["retain_synth"] if who is not None} - forgotten
    assert outside
    assert outside <= set(people["holdout_identity"])


@pytest.mark.parametrize(
    ("side", "name", "size"),
    [
        ("short", "00000001_000_ar-1.33.jpg", (681, 512)),
        ("short", "00000001_000_ar-0.61.jpg", (512, 839)),
        ("long", "00000001_000_ar-1.33.jpg", (512, 385)),
        ("long", "00000001_000_ar-0.61.jpg", (312, 512)),
        ("long", "00000001_000_ar-1.00.jpg", (512, 512)),
    ],
)
def test_pictures_have_512_pixels_on_the_side_that_is_asked_for(
    script: ModuleType, side: str, name: str, size: tuple[int, int]
) -> None:
    assert Image.open(io.BytesIO(script.draw(name, 512, side))).size == size


@pytest.mark.parametrize("side", ["short", "long"])
def test_both_sizes_become_what_the_encoder_takes(script: ModuleType, side: str, tmp_path: Path) -> None:
    """Shortest side to 224, then the middle: a picture of 512 px on the long side is also made smaller, never larger."""
    from salmu_core.models.dual_encoder import ModelConfig
    from salmu_core.models.processor import Processor

    processor = Processor(ModelConfig.named("ViT-B-16"))
    for name in ("00000001_000_ar-1.33.jpg", "00000001_000_ar-0.61.jpg"):
        picture = Image.open(io.BytesIO(script.draw(name, 512, side))).convert("RGB")
        found = np.asarray(processor.pixels(picture))
        width, height = picture.size
        assert min(width, height) >= 224
        scale = 224 / min(width, height)
        resized = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        wanted = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=float).transpose(2, 0, 1)
        assert found.shape == (3, 224, 224)
        assert np.abs(found - wanted).mean() < 3  # rounding of the long side and of the middle moves it by less than a pixel
