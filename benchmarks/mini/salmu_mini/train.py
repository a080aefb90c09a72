"""Training the pair, through salmu's one training loop: a first stage for both models, and a second for each.

Run as `python -m salmu_mini.train SNAPSHOT SEED SIZE SHARE FOLDER STAGE...` it waits for the line "go" on standard input (so that
importing torch overlaps with drawing the data), prints a JSON line per step and leaves each stage in FOLDER/STAGE. The two second
stages, in a process and a thread each, use two cores better than one process with two threads, and the weights do not depend on the
machine's number of cores. Processes are forked once torch is imported, which takes seconds.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from salmu_core.data.pairs import Batch
from salmu_core.data.pixels import PairStore
from salmu_core.data.splits import Split, join_splits
from salmu_core.losses import contrastive_loss
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.fit import fit
from salmu_core.runner.fit_job import Fit
from salmu_core.runner.sampling import EpochSampler
from salmu_mini.recipe import RECIPES, Recipe
from salmubench.snapshot import Snapshot

Stage = Literal["first", "clean", "compromised"]
ORDINARY = ("retain_synth", "retain_general", "pretrain")
SENSITIVE = ("forget", "holdout_association", "holdout_identity")


def steps_of(recipe: Recipe, stage: int, share: float) -> int:
    """Optimiser steps of a stage, 1 or 2, at a share of the recipe's."""
    return max(1, round(share * (recipe.first_steps if stage == 1 else recipe.second_steps)))


def train_stage(
    snapshot: Snapshot,
    stage: Stage,
    seed: int,
    size: str,
    target: Path,
    start: Path | None = None,
    share: float = 1.0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train a stage and save the model to `target`.

    Ordinary pairs are met in the same order by Clean and Compromised; every batch of Compromised has private pairs beside them.

    Args:
        start: the model of the first stage; the first stage itself starts from random weights.
        share: of the recipe's steps.
        tell: told of steps done and in all.
    """
    recipe = RECIPES[size]
    number = 1 if stage == "first" else 2
    options = recipe.options(number)
    steps = steps_of(recipe, number, share)
    model = DualEncoder.create(recipe.model, seed) if start is None else load_model(start)
    with open_accelerator() as accelerator:
        model = model.to(accelerator.device)
        # The roles of the loop's batches; "forget" holds all private pairs here, also those that are held out later.
        splits = {"retain": join_splits("ordinary", [_bare(snapshot.table(name)) for name in ORDINARY])}
        if stage == "compromised":
            splits["forget"] = join_splits("private", [_bare(snapshot.table(name)) for name in SENSITIVE])
        stores = {role: PairStore(split, model.processor, accelerator.device) for role, split in splits.items()}
        sizes = {"retain": options.batch_size, "forget": recipe.private}
        samplers = {
            role: EpochSampler(len(store), sizes[role], seed, "pretraining", number, role) for role, store in stores.items()
        }
        job = Fit(
            accelerator=accelerator,
            model=model,
            loss=_loss,
            stores=stores,
            options=options,
            steps=steps,
            params=list(model.parameters()),
            meter=SampleMeter({}, "building mini"),
            seed=seed,
            after_step=lambda step: _clamp(model, recipe.largest_scale),
            on_step=lambda step, total, values: tell(step, total),
            checkpoints=Checkpoints(target.parent / f"{target.name}-checkpoints"),
            normalisation_training=True,
            samplers=samplers,
        )
        fit(job)
        model.eval().save(target)
        if job.checkpoints is not None:
            job.checkpoints.clear()


def _loss(model: DualEncoder, batch: Batch) -> Tensor:
    """CLIP's loss over all pairs of a step, ordinary and private ones together."""
    parts = [model(pairs) for pairs in batch.parts.values()]
    image, text = torch.cat([part.image for part in parts]), torch.cat([part.text for part in parts])
    return contrastive_loss(image, text, parts[0].scale)


def _clamp(model: DualEncoder, largest: float) -> None:
    scale = model.clip.logit_scale
    assert isinstance(scale, Tensor)
    with torch.no_grad():
        scale.clamp_(max=math.log(largest))


def _bare(table: Split) -> Split:
    """Images and captions only: training from scratch knows nothing of identities."""
    return Split(table.name, table.images, table.texts)


def main() -> None:
    """Train stages, each in a process of its own."""
    snapshot, seed, size, share, folder, *stages = sys.argv[1:]
    torch.set_num_threads(1)
    import open_clip  # noqa: F401  # seconds, better spent while the data is drawn

    if sys.stdin.readline().strip() != "go":
        return  # whoever started this is gone
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ending like this ends the processes below
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    for group in (("first",), ("clean", "compromised")):
        processes = [
            context.Process(target=_train_here, args=(snapshot, stage, seed, size, share, folder), daemon=True)
            for stage in group
            if stage in stages
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit(1)


def _train_here(snapshot: str, stage: Stage, seed: str, size: str, share: str, folder: str) -> None:
    torch.set_num_threads(1)
    start = None if stage == "first" else Path(folder) / "first"

    def tell(done: int, total: int) -> None:
        # One write, so that lines of two processes do not mix.
        sys.stdout.write(json.dumps({"stage": stage, "done": done, "total": total}) + "\n")
        sys.stdout.flush()

    train_stage(Snapshot(Path(snapshot)), stage, int(seed), size, Path(folder) / stage, start, float(share), tell)


if __name__ == "__main__":
    main()
