"""ViT-B/16 through the real code path on any machine: a method's own loss over a few steps in micro-batches.

    uv run python benchmarks/perf/vit_b16_smoke.py --batch 16 --micro-batch 4 --steps 2
    uv run python benchmarks/perf/vit_b16_smoke.py --batch 2048 --micro-batch 64 --steps 5 --precision bf16

A benchmark with the toy's splits, repeated, and a ViT-B-16 with random weights; the method is run as `salmu run` would, with
its record, checkpoints and saved model. Printed: status, seconds per step, pairs per second, peak memory beside the estimate
of `--dry-run`, and the size and time of a checkpoint.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from salmu_core.benchmark import Budget
from salmu_core.builtin.toy import Toy
from salmu_core.data.splits import Split
from salmu_core.hookspecs import hookimpl
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.plugins.loading import add_plugin, load_plugins
from salmu_core.records.schema import Package, RunSpec, Target
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.planning import plan_run
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.spec.resolve import resolve


class Large(Toy):
    """The toy's pairs, repeated, before a ViT-B-16 with random weights."""

    name = "perf-vit-b16"
    version = "1"
    summary = "ViT-B/16 with random weights on coloured squares; its numbers mean nothing."
    rows = 64
    steps = 2
    batch = 16

    def load_split(self, name: str) -> Split:
        split = super().load_split(name)
        if name in ("forget", "retain"):
            return split.take([row % len(split) for row in range(self.rows)])
        return split.take([0]) if name != "genknow_prompts" else split

    def load_model(self, which: Target) -> DualEncoder:
        return DualEncoder.create(ModelConfig.named("ViT-B-16"), seed=0 if which == "clean" else 1)

    def budget(self) -> Budget:
        samples = self.steps * self.batch
        return Budget(samples, samples)


class Watch:
    """Takes the time of steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @hookimpl
    def register_benchmarks(self) -> list[type[Large]]:
        """The benchmark of this file."""
        return [Large]

    @hookimpl
    def run_progress(self, event: Any) -> None:
        """A stage moves."""
        if event.stage == "unlearn":
            self.times.append(time.perf_counter())
            print(f"step {event.done} of {event.total}: {dict(event.values)}", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="gradient-ascent")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--precision", default="no", choices=["no", "bf16", "fp16"])
    arguments = parser.parse_args()
    Large.batch, Large.steps, Large.rows = arguments.batch, arguments.steps, max(64, arguments.batch)
    plugins, watch = load_plugins(), Watch()
    add_plugin(plugins, watch, Package(name="perf", version="1"), "perf")
    plugins.metrics.clear()  # training is what this is about
    written: list[tuple[float, int]] = []
    write = Checkpoints.write

    def timed_write(self: Checkpoints, fit: int, tensors: Any, facts: Any) -> None:
        started = time.perf_counter()
        write(self, fit, tensors, facts)
        size = max(path.stat().st_size for path in self.folder.glob("*.safetensors"))
        written.append((time.perf_counter() - started, size))

    Checkpoints.write = timed_write  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            cache=Path(folder) / "cache",
            checkpoint_seconds=0.001,
            micro_batch=arguments.micro_batch,
            checkpoint_activations=arguments.checkpoint_activations,
            compile=arguments.compile,
        )
        spec = RunSpec(
            method=arguments.method, benchmark=Large.name, precision=arguments.precision,
            method_options={"batch_size": arguments.batch},
        )  # fmt: skip
        resolved = resolve(spec, plugins, settings.cache_folder)
        plan = plan_run(resolved, Path(folder) / "run", settings, plugins)
        record = run_resolved(resolved, Path(folder) / "run", settings, plugins)
        saved = (Path(folder) / "run" / "model.safetensors").stat().st_size
    gaps = [after - before for before, after in zip(watch.times, watch.times[1:], strict=False)]
    print(f"{record.status} on {record.provenance.device}; {record.error or ''}")
    print(f"execution {record.provenance.execution}, {record.cost.steps} steps, samples {record.cost.samples}")
    if gaps:
        per_step = sorted(gaps)[len(gaps) // 2]
        pairs = sum(record.cost.samples.values()) / record.cost.steps
        print(f"median {per_step:.2f} s per step, checkpoints included; {pairs / per_step:.1f} pairs/s")
    print(
        f"peak memory {record.cost.peak_memory_bytes / 1e9:.2f} GB; --dry-run estimates {(plan.memory_bytes or 0) / 1e9:.2f} GB"
    )
    print(f"checkpoints: {', '.join(f'{size / 1e9:.2f} GB in {seconds:.1f} s' for seconds, size in written)}")
    print(f"saved model: {saved / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
