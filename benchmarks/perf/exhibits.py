"""What exhibits add to an evaluation: seconds of one thread at SALMUBench's row counts and at mini's, from random embeddings.

    uv run python benchmarks/perf/exhibits.py [--dim 512]

`make_exhibits` is what every evaluation does once more, `make_scene` what Compromised's alone does, with pictures of 512 pixels.
CPU seconds of the process, so a busy machine does not change them much; sizes are those of the files.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from salmu_core.builtin.toy import Toy
from salmu_core.data.images import EncodedImages
from salmu_core.data.pairs import View
from salmu_core.data.splits import Split
from salmu_core.evaluation.plan import EvaluationPlan
from salmu_core.evaluation.report_data import make_exhibits, make_scene, pair_splits
from salmu_core.plugins.loading import load_plugins
from salmu_core.spec.resolve import make_metrics

_Made = TypeVar("_Made")
#: split -> rows; the size of SALMUBench's fragile_set is not published: a guess.
SIZES = {
    "salmubench": {
        "forget": 30_468, "holdout_identity": 14_642, "holdout_association": 14_943, "retain_joint": 1_000, "fragile_set": 5_000,
    },
    "mini": {"forget": 1_328, "holdout_identity": 576, "holdout_association": 256, "retain_joint": 264, "fragile_set": 200},
}  # fmt: skip


class Rows(Toy):
    """Splits of given sizes; every caption is another, every picture the same JPEG of 512 pixels."""

    def __init__(self, rows: dict[str, int], picture: bytes) -> None:
        super().__init__()
        self._splits = {
            name: Split(
                name,
                EncodedImages([picture] * count, [""] * count),
                [f"{name}: caption {row} of somebody with a telephone" for row in range(count)],
                {"identity_id": [f"{row % 580:08d}" for row in range(count)], "data_field": ["phone_number"] * count},
            )
            for name, count in rows.items()
        }

    def load_split(self, name: str) -> Split:
        return self._splits[name]


def timed(make: Callable[[], _Made], times: int = 3) -> tuple[_Made, float]:
    """What it gives, and the fewest CPU seconds of a few calls."""
    spans = []
    for _ in range(times):
        started = time.process_time()
        made = make()
        spans.append(time.process_time() - started)
    return made, min(spans)


def main() -> None:
    """Print seconds and sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=512)
    given = parser.parse_args()
    torch.set_num_threads(1)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((512, 512)).save(buffer, "JPEG", quality=90)
    facts = {}
    for name, rows in SIZES.items():
        benchmark = Rows(rows, buffer.getvalue())
        metrics = [
            m for m in make_metrics(load_plugins(), {}, benchmark) if {v.split for v in m.needs().values()} <= set(rows)
        ]
        plan = EvaluationPlan(tuple(metrics), {metric.name: metric.needs() for metric in metrics}, {})
        draw = torch.Generator().manual_seed(0)
        embedded = {}
        for split in pair_splits(plan):
            for side in ("image", "text"):
                vectors = torch.nn.functional.normalize(torch.randn(rows[split], given.dim, generator=draw), dim=-1)
                found = benchmark.split(split)
                embedded[View(split, side)] = _embedded(vectors, found, side)
        exhibits, seconds = timed(lambda plan=plan, b=benchmark, e=embedded: make_exhibits(b, plan, e))
        scene, scene_seconds = timed(lambda plan=plan, b=benchmark: make_scene(b, plan), 1)
        facts[name] = {
            "pairs": sum(rows[split] for split in pair_splits(plan)),
            "make_exhibits_cpu_seconds": round(seconds, 3),
            "exhibits_bytes": len(exhibits.model_dump_json()),
            "make_scene_cpu_seconds": round(scene_seconds, 3),
            "scene_bytes": len(scene.model_dump_json()),
        }
    print(json.dumps({"dim": given.dim, **facts}, indent=2))


def _embedded(vectors: torch.Tensor, split: Split, side: str):
    from salmu_core.data.pairs import Embedded

    return Embedded(vectors, split.columns, list(split.texts or ()) if side == "text" else None)


if __name__ == "__main__":
    main()
