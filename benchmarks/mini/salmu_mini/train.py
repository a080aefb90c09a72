"""Training one model of the pair, through salmu's one training loop.

Run as `python -m salmu_mini.train SNAPSHOT WHICH SEED SIZE EPOCHS TARGET` it trains in a process of its own: it waits for the line
"go" on standard input (so that importing torch overlaps with drawing the data) and prints a JSON line per step. Two such
processes with one thread each use two cores better than one process with two threads, and the weights do not depend on the
machine's number of cores.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from salmu_core.data import Batch, Split, join_splits
from salmu_core.losses import contrastive_loss
from salmu_core.model import DualEncoder
from salmu_core.pixels import PairStore
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.fit import Fit, fit, plan_steps
from salmu_core.runner.sampling import EpochSampler
from salmu_mini.recipe import RECIPES
from salmubench.snapshot import Snapshot

ORDINARY = ("retain_synth", "retain_general", "pretrain")
SENSITIVE = ("forget", "holdout_association", "holdout_identity")


def train_model(
    snapshot: Snapshot,
    which: Literal["clean", "compromised"],
    seed: int,
    size: str,
    target: Path,
    epochs: float | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train one model from scratch and save it to `target`. Ordinary pairs come first and in the same order for both models;
    the sensitive ones are added for Compromised only.

    Args:
        epochs: instead of the recipe's.
        tell: told of steps done and in all.
    """
    recipe = RECIPES[size]
    options = recipe.options if epochs is None else recipe.options.model_copy(update={"epochs": epochs})
    ordinary = [snapshot.table(name) for name in ORDINARY]
    sensitive = [snapshot.table(name) for name in SENSITIVE]
    pairs = join_splits("train", [_bare(table) for table in (ordinary if which == "clean" else [*ordinary, *sensitive])])
    everything = sum(len(table) for table in (*ordinary, *sensitive))
    model = DualEncoder.create(recipe.model, seed)
    with open_accelerator() as accelerator:
        model = model.to(accelerator.device)
        store = PairStore(pairs, model.processor, accelerator.device)
        meter = SampleMeter({}, "building mini")
        steps = plan_steps(options, {"retain": len(store)}, meter)
        sampler = EpochSampler(len(store), options.batch_size, seed, "pretraining", drawn_from=everything)
        job = Fit(
            accelerator=accelerator,
            model=model,
            loss=_loss,
            stores={"retain": store},
            options=options,
            steps=steps,
            params=list(model.parameters()),
            meter=meter,
            seed=seed,
            after_step=lambda step: _clamp(model, recipe.largest_scale),
            on_step=lambda step, total, values: tell(step, total),
            checkpoints=Checkpoints(target.parent / f"{target.name}-checkpoints"),
            normalisation_training=True,
            samplers={"retain": sampler},
        )
        fit(job)
        model.eval().save(target)
        if job.checkpoints is not None:
            job.checkpoints.clear()


def _loss(model: DualEncoder, batch: Batch) -> Tensor:
    return contrastive_loss(*model(batch.retain))


def _clamp(model: DualEncoder, largest: float) -> None:
    scale = model.clip.logit_scale
    assert isinstance(scale, Tensor)
    with torch.no_grad():
        scale.clamp_(max=math.log(largest))


def _bare(table: Split) -> Split:
    """Images and captions only: training from scratch knows nothing of identities."""
    return Split(table.name, table.images, table.texts)


def main() -> None:
    """The process of one model."""
    snapshot, which, seed, size, epochs, target = sys.argv[1:]
    torch.set_num_threads(1)
    assert which in ("clean", "compromised")
    import open_clip  # noqa: F401  # seconds, better spent while the data is drawn

    if sys.stdin.readline().strip() != "go":
        return  # whoever started this is gone

    def tell(done: int, total: int) -> None:
        print(json.dumps({"done": done, "total": total}), flush=True)

    train_model(
        Snapshot(Path(snapshot)),
        "clean" if which == "clean" else "compromised",
        int(seed),
        size,
        Path(target),
        None if epochs == "none" else float(epochs),
        tell,
    )


if __name__ == "__main__":
    main()
