"""What it costs to score a model: stages, caches, precision. Every ratio is of two things measured in this one run.

    uv run python benchmarks/perf/evaluation.py                                     # all parts, on mini
    uv run python benchmarks/perf/evaluation.py --data DIR --model tiny             # a snapshot, a tiny model, random weights
    uv run python benchmarks/perf/evaluation.py --data DIR --model ViT-B-16 --precision bf16 passes caches

Parts:

- caches: cold (nothing kept), a second model (pixels and tokens kept), the same model again (embeddings kept), and a second
  time without keeping pixels. Scores of the same model must be equal bit for bit in all of them.
- passes: one pass for all metrics against the straightforward way, for each metric reading, decoding and encoding what
  it needs. Both without caches.
- precision: bf16 autocast against fp32: time and largest differences.
- perturb: one weight moved by one unit in the last place, many times, each checked to miss the cache.

DIR is a folder in SALMUBench's layout, e.g. of `make_snapshot.py`. Parts that decode the same images again and again can be
measured on a fraction of all rows (--sample); they then say so, and their seconds are of that fraction.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import processor

from salmu_core.benchmark import Benchmark, Report, SplitInfo
from salmu_core.data.cache import DataCache, decode_pool
from salmu_core.data.pairs import Embedded, View
from salmu_core.data.pixels import PixelTable, read_ahead
from salmu_core.data.splits import Split
from salmu_core.evaluation.embed import CHUNK, EmbeddingCache, embed_views
from salmu_core.evaluation.evaluate import Evaluation, evaluate_model
from salmu_core.evaluation.plan import plan_evaluation
from salmu_core.metric import NotMeasurable
from salmu_core.models.dual_encoder import DualEncoder, ModelConfig
from salmu_core.plugins.loading import load_plugins
from salmu_core.runner.accelerate_setup import AUTOCAST
from salmu_core.runner.provenance import MemoryPeak, device_name, git_commit, package_versions
from salmu_core.spec.resolve import make_benchmark, make_metrics
from salmubench import Snapshot
from salmubench.benchmark import SnapshotBenchmark

TINY = ModelConfig(
    {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
)


class FolderBenchmark(SnapshotBenchmark):
    """A snapshot that lies in a folder, with models of random weights."""

    name, version, summary = "folder", "1", "A snapshot that lies in a folder."

    def __init__(self, folder: Path, config: ModelConfig, cache: Path) -> None:
        super().__init__(None, cache)
        self.folder, self.config = folder, config

    def snapshot(self) -> Snapshot:
        return Snapshot(self.folder)

    def splits(self) -> Mapping[str, SplitInfo]:
        there = self.snapshot().has("genknow")
        return {name: info for name, info in super().splits().items() if there or not name.startswith("genknow")}

    def load_model(self, which: str) -> DualEncoder:
        return DualEncoder.create(self.config, seed=1 if which == "compromised" else 0)

    def ready(self) -> bool:
        return True

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None: ...


class Sampled(Benchmark):
    """Every n-th row of another benchmark's splits."""

    name, version, summary = "sampled", "1", "A part of another benchmark."

    def __init__(self, base: Benchmark, step: int) -> None:
        super().__init__(None, base.cache)
        self.base, self.step = base, step
        self.ready, self.build, self.splits = base.ready, base.build, base.splits  # type: ignore[method-assign]
        self.load_model, self.budget, self.fingerprint = base.load_model, base.budget, base.fingerprint  # type: ignore[method-assign]

    def load_split(self, name: str) -> Split:
        split = self.base.split(name)
        return split if self.step == 1 else split.take(range(0, len(split), self.step))


for _method in Sampled.__abstractmethods__ - {"load_split"}:
    setattr(Sampled, _method, None)  # set on each object
Sampled.__abstractmethods__ = frozenset()


@dataclass
class Stages:
    """Seconds by stage, and the peak memory of the process (or of the GPU) meanwhile."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    total: float = 0.0
    resident: int = 0
    on_device: int = 0
    _last: float = 0.0

    def tell(self, stage: str, done: int, total: int) -> None:
        """Time since the last call belongs to the stage that is told of."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self.rows[stage] = total
        self._last = now


@contextmanager
def staged(device: torch.device) -> Any:
    """Measure a block."""
    stages = Stages(device)
    memory = MemoryPeak(torch.device("cpu"))
    on_device = MemoryPeak(device) if device.type == "cuda" else None
    started = stages._last = time.perf_counter()
    yield stages
    stages.total = time.perf_counter() - started
    stages.resident = memory.bytes()
    stages.on_device = on_device.bytes() if on_device else 0


class Work:
    """The benchmark, metrics and models that all parts share."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        plugins = load_plugins()
        self.folder = folder
        self.device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = arguments.precision
        self.step = max(1, round(1 / arguments.sample))
        self.perturbations = arguments.perturbations
        if arguments.data == "mini":
            self.benchmark: Benchmark = make_benchmark("mini", {}, plugins)
            self.benchmark.build()
        else:
            config = TINY if arguments.model == "tiny" else ModelConfig.named(arguments.model)
            self.benchmark = FolderBenchmark(Path(arguments.data), config, folder)
        self.metrics = make_metrics(plugins)
        started = time.perf_counter()
        self.plan = plan_evaluation(self.metrics, self.benchmark)
        self.splits = {view.split: self.benchmark.split(view.split) for view in self.plan.all_views()}
        self.table_seconds = time.perf_counter() - started
        import sklearn.linear_model  # noqa: F401  # a second or more, not to be counted as the first model's

        few = Sampled(self.benchmark, max(1, len(self.benchmark.split("forget")) // 64))
        embed_views(self.model("clean"), few, [View("forget", "image"), View("forget", "text")])

    def model(self, which: str, precision: str | None = None) -> DualEncoder:
        """One of the two models, on the device."""
        model = self.benchmark.load_model(which).to(self.device)  # type: ignore[arg-type]
        model.autocast = AUTOCAST[precision or self.precision]
        return model

    def evaluate(
        self, which: str, cache: EmbeddingCache | None, data: DataCache | None, benchmark: Benchmark | None = None
    ) -> tuple[Evaluation, Stages]:
        """All metrics of a model."""
        model = self.model(which)
        with staged(self.device) as stages:
            result = evaluate_model(model, benchmark or self.benchmark, self.metrics, cache, stages.tell, data=data)
        return result, stages


def caches(work: Work) -> None:
    """Cold, warm, off."""
    place = work.folder / "caches"
    keep = EmbeddingCache(place / "embeddings")
    cold, first = work.evaluate("clean", keep, DataCache(place))
    show("first model, cold", first)
    warm, second = work.evaluate("compromised", keep, DataCache(place))
    show("second model, pixels and tokens kept", second)
    same, warmed = work.evaluate("clean", None, DataCache(place))
    show("first model without its embeddings", warmed)
    again, rescored = work.evaluate("clean", keep, DataCache(place))
    show("first model again, embeddings kept", rescored)
    equal(cold, same, "cold and warm")
    equal(cold, again, "cold and kept embeddings")
    if warm.scores == cold.scores:
        raise SystemExit("Two models have equal scores: something is stale.")
    part = Sampled(work.benchmark, work.step)
    kept, _ = work.evaluate("clean", None, DataCache(place), part)
    off, without = work.evaluate("clean", None, DataCache(None), part)
    show(f"first model, nothing kept{fraction(work)}", without)
    equal(kept, off, f"kept and not kept{fraction(work)}")
    ratio("first model against second", first.total, second.total)
    ratio("first model against the same again", first.total, rescored.total)
    size = sum(path.stat().st_blocks * 512 for path in (place / "pixels").rglob("*.pixels"))
    print(f"pixels on disk: {size / 1e9:.2f} GB")


def passes(work: Work) -> None:
    """One pass against one for each metric."""
    part = Sampled(work.benchmark, work.step)
    shared, once = work.evaluate("clean", None, DataCache(None), part)
    show(f"one pass for {len(work.plan.metrics)} metrics{fraction(work)}", once)
    model = work.model("clean")
    plan = plan_evaluation(work.metrics, part)
    loaded = 0
    with staged(work.device) as separate:
        scores = {}
        for metric in plan.metrics:
            views = {name: straightforward(model, part, view) for name, view in plan.views[metric.name].items()}
            loaded += sum(len(part.split(v.split)) for v in plan.views[metric.name].values() if v.side == "image")
            try:
                scores[metric.name] = metric.compute(**views).value
            except NotMeasurable:
                continue
            separate.tell(metric.name, 1, 1)
    show(f"one pass for each metric{fraction(work)}", separate)
    largest = max(abs(scores[name] - record.value) for name, record in shared.scores.items())
    print(
        f"image loads: {loaded:,} against {distinct_images(work, part):,} distinct ones; largest difference of a score {largest:.1e}"
    )
    ratio("a pass for each metric against one for all", separate.total, once.total)


def straightforward(model: DualEncoder, benchmark: Benchmark, view: View) -> Embedded:
    """Every row of a view, read and encoded in row order: no row is told to be another's double, nothing is kept."""
    split = benchmark.split(view.split)
    texts = split.render(view.template) if view.side == "text" else None
    starts = range(0, len(split), CHUNK)
    with torch.inference_mode():
        if texts is not None:
            tokens = model.processor.tokenize(texts)
            parts = [model.encode_text(tokens[start : start + CHUNK].to(model.device)).cpu() for start in starts]
        else:
            table = PixelTable([(split, range(len(split)))], model.processor, DataCache(None))
            parts = []
            for pixels in read_ahead(
                lambda number: table.read(np.arange(starts[number], min(starts[number] + CHUNK, len(split)))), len(starts)
            ):
                parts.append(model.encode_image(model.processor.normalise(pixels.to(model.device))).cpu())
    return Embedded(torch.cat(parts).clone(), split.columns, texts)


def precision(work: Work) -> None:
    """bf16 against fp32."""
    place = work.folder / "caches"
    found: dict[str, tuple[Evaluation, dict[View, Embedded]]] = {}
    seconds = {}
    for name in ("no", "bf16"):
        model, data = work.model("clean", name), DataCache(place)
        views = work.plan.all_views()
        embed_views(model, work.benchmark, views[:1], None, data=data)  # warm-up, and the pixels where nobody kept them yet
        keep = EmbeddingCache(work.folder / "precision")
        with staged(work.device) as stages:
            vectors = embed_views(model, work.benchmark, views, keep, stages.tell, data=data)
        show(f"embedding in {'fp32' if name == 'no' else name}, pixels kept", stages)
        seconds[name] = stages.total
        found[name] = (evaluate_model(model, work.benchmark, work.metrics, keep, data=data), vectors)
    (full, exact), (half, rough) = found["no"], found["bf16"]
    cosines = min(float((exact[view].vectors * rough[view].vectors).sum(dim=-1).min()) for view in exact)
    print(f"smallest cosine of an embedding with its fp32 self: {cosines:.6f}")
    for name, record in full.scores.items():
        print(f"  {name:<11} fp32 {record.value:+.6f}  bf16 - fp32 {half.scores[name].value - record.value:+.1e}")
    ratio("fp32 against bf16", seconds["no"], seconds["bf16"])


class Watched(EmbeddingCache):
    """Remembers what was found."""

    found: dict[str, bool]

    def read(self, key: str) -> torch.Tensor | None:
        """As the cache does."""
        vectors = super().read(key)
        self.found[key] = vectors is not None
        return vectors


def perturb(work: Work) -> None:
    """Single changed weights never find the embeddings of another model."""
    model = work.model("clean")
    cache = Watched(work.folder / "perturb")
    object.__setattr__(cache, "found", {})
    benchmark = Sampled(work.benchmark, max(1, len(work.benchmark.split("forget")) // 4))
    views = [View("forget", "image"), View("forget", "text")]
    data = DataCache(work.folder / "caches")
    embed_views(model, benchmark, views, cache, data=data)
    generator = torch.Generator().manual_seed(0)
    weights = [weight for tower in ("image", "text") for weight in model.tower_parameters(tower)]  # type: ignore[arg-type]
    ends = torch.tensor([weight.numel() for weight in weights]).cumsum(0)
    stale = unnoticed = 0
    started = time.perf_counter()
    for _ in range(work.perturbations):
        place = int(torch.randint(int(ends[-1]), (1,), generator=generator))
        number = int(torch.searchsorted(ends, place, right=True))
        flat = weights[number].data.view(-1)
        element = place - (int(ends[number - 1]) if number else 0)
        before = flat[element].clone()
        flat[element] = torch.nextafter(before, torch.full_like(before, float("inf")))
        cache.found.clear()
        embed_views(model, benchmark, views, cache, data=data)
        stale += all(cache.found.values())  # the changed tower has to miss; the other one is unchanged and hits
        flat[element] = before
        cache.found.clear()
        embed_views(model, benchmark, views, cache, data=data)
        unnoticed += not all(cache.found.values())
    took = (time.perf_counter() - started) / max(1, work.perturbations)
    print(
        f"{work.perturbations:,} single weights of {int(ends[-1]):,} moved by one unit in the last place: {stale} stale hits;"
        f" put back: {unnoticed} misses; {took:.3f} s each"
    )
    if stale or unnoticed:
        raise SystemExit("The cache is wrong.")


def distinct_images(work: Work, benchmark: Benchmark) -> int:
    """Images that have to be encoded."""
    names = dict.fromkeys(view.split for view in work.plan.all_views() if view.side == "image")
    return len(
        {key for keys in DataCache(work.folder / "caches").image_keys([benchmark.split(n) for n in names]) for key in keys}
    )


def equal(one: Evaluation, other: Evaluation, what: str) -> None:
    """Stop unless scores and rows are the same bits."""
    same = one.scores == other.scores and all(np.array_equal(one.rows[name], other.rows[name]) for name in one.rows)
    print(f"{what}: {'bit-identical' if same else 'DIFFERENT'}")
    if not same:
        raise SystemExit("Scores differ.")


def fraction(work: Work) -> str:
    """How much of the rows a part takes."""
    return "" if work.step == 1 else f" (every {work.step}th row)"


def show(what: str, stages: Stages) -> None:
    """A line per stage."""
    device = f", {stages.on_device / 1e9:.2f} GB on the device" if stages.on_device else ""
    print(f"{what}: {stages.total:.2f} s, peak resident {stages.resident / 1e9:.2f} GB{device}", flush=True)
    for stage, seconds in stages.seconds.items():
        rate = f", {stages.rows[stage] / seconds:,.0f} rows/s" if "embed" in stage and seconds else ""
        print(f"  {stage:<26} {seconds:9.2f} s{rate}", flush=True)


def ratio(what: str, slow: float, fast: float) -> None:
    """A ratio of two measurements."""
    print(f"** {what}: {slow / fast:.2f} ({slow:.2f} s / {fast:.2f} s)", flush=True)


def describe(work: Work, arguments: argparse.Namespace) -> None:
    """The machine and the job."""
    packages = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    print(
        f"machine: {processor()}, {os.cpu_count()} cores, {decode_pool.threads} of them decode; {device_name(work.device)}"
    )
    print(f"load of the last minute: {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown")
    print(f"commit {git_commit(Path(__file__).parent)}; {packages}")
    model = work.model("clean")
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    side = model.processor.image_shape[1]
    print(f"model {arguments.model} of {parameters:.1f} M parameters at {side} px, precision {work.precision}")
    texts = {t for v in work.plan.all_views() if v.side == "text" for t in work.splits[v.split].render(v.template)}
    rows = ", ".join(f"{name} {len(split):,}" for name, split in work.splits.items())
    print(f"data {arguments.data}: {rows}; tables read in {work.table_seconds:.1f} s")
    started = time.perf_counter()
    work.images = distinct_images(work, work.benchmark)
    hashed = time.perf_counter() - started
    print(
        f"{work.images:,} distinct images, {len(texts):,} distinct captions; content of all images hashed in {hashed:.1f} s"
    )


PARTS: Mapping[str, Callable[[Work], None]] = {
    "caches": caches,
    "passes": passes,
    "precision": precision,
    "perturb": perturb,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--data", default="mini", help="mini, or a folder in SALMUBench's layout (default mini)")
    parser.add_argument("--model", default="tiny", help="tiny or an open_clip name; mini has its own (default tiny)")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--precision", choices=list(AUTOCAST), default="no")
    parser.add_argument("--sample", type=float, default=1.0, help="fraction of rows where images are decoded repeatedly")
    parser.add_argument("--perturbations", type=int, default=1000)
    parser.add_argument(
        "--scratch", type=Path, help="where caches are made and removed again (default: the temporary folder)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        work = Work(arguments, Path(folder))
        describe(work, arguments)
        for part in arguments.parts or PARTS:
            print(f"\n== {part}")
            PARTS[part](work)


if __name__ == "__main__":
    main()
