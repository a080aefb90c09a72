"""The training loop against a bare PyTorch loop of the same loss, step by step in one process.

    uv run python benchmarks/perf/training_step.py
    uv run python benchmarks/perf/training_step.py --architecture ViT-B-16 --batch 256 --device cuda --precision bf16
    uv run python benchmarks/perf/training_step.py --micro-batch 64 --batch 2048 --device cuda --precision bf16

Both loops have their own copy of one model with random weights, the same AdamW, gradient clipping, schedule and batches, and
read pixels from the same uint8 store. They take turns, a block of steps each, so that other load on the machine meets both.
Printed are the median seconds per step of each and their ratios: of the medians, the median over rounds with its quartiles,
and on a CPU that of processor time, which other programs on the machine do not lengthen.
Both models end with the same weights, with --micro-batch up to rounding: the bare loop encodes whole batches then too.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from salmu_core import Features, FitOptions
from salmu_core.data.images import EncodedImages
from salmu_core.data.pairs import Batch
from salmu_core.data.pixels import PairStore
from salmu_core.data.splits import Split
from salmu_core.losses import contrastive_loss
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.runner.accelerate_setup import AUTOCAST, open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.execution import Execution, carried_out
from salmu_core.runner.fit import fit, learning_rate
from salmu_core.runner.fit_job import Fit
from salmu_core.runner.sampling import EpochSampler

#: A ViT between that of `mini` and ViT-B/16.
MIDDLE = ModelConfig(
    {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 112, "layers": 6, "width": 384, "patch_size": 16, "head_width": 64},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 256, "heads": 4, "layers": 6},
    }
)


class SyntheticStore(PairStore):
    """Random pixels and captions, in memory from the start: reading images is not what is measured."""

    def __init__(self, model: DualEncoder, rows: int) -> None:
        captions = [f"This is person {row}. " * (1 + row % 3) for row in range(rows)]
        super().__init__(
            Split("synthetic", EncodedImages([b""] * rows, [""] * rows), captions), model.processor, model.device
        )
        generator = np.random.default_rng(0)
        drawn = generator.integers(0, 256, (rows, *model.processor.image_shape), dtype=np.uint8)
        self._drawn = torch.from_numpy(drawn)

    def pixels(self, index: Tensor) -> Tensor:
        return self.processor.normalise(self._drawn[index].to(self.device, non_blocking=True))


def loss(model: DualEncoder, batch: Batch) -> Tensor:
    """Ascend on one batch, descend on the other."""
    return contrastive_loss(*model(batch.retain)) - 0.5 * contrastive_loss(*model(batch.forget))


class BareLoop:
    """What one would write by hand. The model is open_clip's, called as open_clip calls it."""

    def __init__(self, model: DualEncoder, stores: dict[str, PairStore], options: FitOptions, steps: int) -> None:
        self.model, self.stores, self.options, self.steps = model, stores, options, steps
        trained = model.tower_parameters()
        model.clip.logit_scale.requires_grad_(False)
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(groups, lr=options.lr, fused=True)
        self.samplers = {role: EpochSampler(len(store), options.batch_size, 0, 0, role) for role, store in stores.items()}
        self.step = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.options, self.step, self.steps)
            self.optimizer.zero_grad()
            features = {}
            for role in ("retain", "forget"):
                index = self.samplers[role].batch(self.step)
                images = self.stores[role].pixels(index)
                tokens = self.stores[role].tokens(index)[:, : self.stores[role].text_length(index)]
                features[role] = self.embed(images, tokens)
            value = contrastive_loss(*features["retain"]) - 0.5 * contrastive_loss(*features["forget"])
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, self.options.clip_norm)
            self.optimizer.step()
            self.step += 1

    def embed(self, images: Tensor, tokens: Tensor) -> Features:
        clip = self.model.clip
        with torch.autocast(images.device.type, dtype=self.model.autocast, enabled=self.model.autocast is not None):
            image = clip.encode_image(images)
            length = tokens.shape[1]
            x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
            x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
            text = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ clip.text_projection
        normalise = torch.nn.functional.normalize
        return Features(normalise(image.float(), dim=-1), normalise(text.float(), dim=-1), clip.logit_scale.exp())


class Clock:
    """Wall seconds and processor seconds of this process since it was last read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.read()

    def read(self) -> tuple[float, float]:
        """Both, once the device has nothing left to do; the clock starts over."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        before, self._last = getattr(self, "_last", now), now
        return now[0] - before[0], now[1] - before[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--architecture", default="mini", help="mini, middle, or a name that open_clip knows")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--compile", action="store_true", help="in both loops")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--block", type=int, default=4, help="steps of each loop per round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    start = DualEncoder.create(_config(arguments.architecture), seed=0).to(device).eval()
    start.autocast = AUTOCAST[arguments.precision]
    models = [start, copy.deepcopy(start)]
    options = FitOptions(batch_size=arguments.batch, lr=1e-5)
    rounds, block = arguments.rounds, arguments.block
    steps = (rounds + 1) * block  # the first round warms up
    store = SyntheticStore(start, 2 * arguments.batch)
    stores: dict[str, PairStore] = {"forget": store, "retain": store}
    bare = BareLoop(models[1], stores, options, steps)
    seconds: dict[str, list[tuple[float, float]]] = {"salmu": [], "bare": []}
    execution = Execution(arguments.micro_batch, compile=arguments.compile)
    clock = Clock(device)

    def after_step(step: int) -> None:
        """Every `block` steps, the other loop has its turn."""
        if step % block == 0:
            seconds["salmu"].append(clock.read())
            bare.run(block)
            seconds["bare"].append(clock.read())

    if arguments.compile:
        models[1].compile_encoders()
    with open_accelerator(arguments.precision, cpu=device.type == "cpu") as accelerator, carried_out(start, execution):
        job = Fit(
            accelerator, start, loss, stores, options, steps, start.tower_parameters(), SampleMeter({}, "perf"), seed=0,
            after_step=after_step,
        )  # fmt: skip
        clock.read()
        fit(job)
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(seconds["salmu"][1:], seconds["bare"][1:], strict=True)]
    medians = {name: statistics.median(wall for wall, _ in values[1:]) / block for name, values in seconds.items()}
    busy = {name: sum(processor for _, processor in values[1:]) for name, values in seconds.items()}
    low, middle, high = statistics.quantiles(ratios, n=4)
    others = dict(models[1].clip.named_parameters())
    apart = max((p - others[name]).abs().max().item() for name, p in start.clip.named_parameters())
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {arguments.threads} threads"
    print(f"{arguments.architecture}, batch 2 x {arguments.batch}, {arguments.precision}, {vars(execution)}, {machine}")
    print(f"salmu's loop: {medians['salmu'] * 1e3:.1f} ms per step   bare loop: {medians['bare'] * 1e3:.1f} ms per step")
    print(f"ratio of medians {medians['salmu'] / medians['bare']:.3f}; per round {middle:.3f} ({low:.3f} - {high:.3f})")
    if device.type == "cpu":
        print(f"ratio of processor time {busy['salmu'] / busy['bare']:.3f}")
    print(f"largest difference of weights after {steps} steps: {apart:.1e}")


def _config(name: str) -> ModelConfig:
    if name == "middle":
        return MIDDLE
    if name == "mini":
        from salmu_mini.recipe import RECIPES

        return RECIPES["mini"].model
    return ModelConfig.named(name)


if __name__ == "__main__":
    main()
