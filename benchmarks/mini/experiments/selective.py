"""Does `selective` forget the associations and keep their neighbours? On instances that nothing was chosen on, beside the best
published methods; what each ingredient does; whether what is forgotten comes back; other requests; and what the limit is.

    uv run python benchmarks/mini/experiments/selective.py --cpu

Each finished piece is kept in `benchmarks/mini/results/selective.json` at once; the same command goes on with what is missing.
Page and picture are made from that file by `selective_report.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import click
import torch
from asked import Asked, AskedPlugin
from salmu_selective import Selective
from salmu_selective.wordings import Draw

from salmu_core import Benchmark, hookimpl
from salmu_core.files import write_json
from salmu_core.plugins import Package, Plugins, add_plugin, load_plugins
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.runner.audit import audit
from salmu_core.runner.presets import with_preset
from salmu_core.runner.resolve import Resolved, make_benchmark, resolve
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.runner.workers import run_in_workers
from salmu_core.testing import toy_context
from salmu_metrics.association_consistency import held_out_verdicts

RESULTS = Path(__file__).parents[1] / "results" / "selective.json"
COMMAND = "uv run python benchmarks/mini/experiments/selective.py --cpu"
#: The two best of the published methods on mini, by the head-to-head.
BASELINES = ("key-value-edit", "selective-synaptic-dampening")
BUDGET = 5.0
#: One ingredient taken away at a time.
ABLATIONS: dict[str, dict[str, Any]] = {
    "no doubles: other people have the forgotten names": {"doubles": False},
    "no strangers": {"strangers": 0},
    "no words that the model knows from elsewhere": {"familiar": 0.0},
    "only own token embeddings are trained": {"embeddings": "own"},
    "nobody else shares a token": {"mixed": 0.0},
    "no preference for people of whom something stays": {"partly": 0.0},
    "no faces": {"face": 0.0, "keep_face": 0.0},
    "captions only as they were shown": {"reworded": 0.0},
    "the same twin each time": {"twins": "same"},
}
#: What else may be asked for, and of which models.
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "one association": ("mini-asked", {"request": "association"}),
    "one identity": ("mini-asked", {"request": "identity"}),
    "longer captions": ("mini-asked", {"request": "longer"}),
    "nine tenths of all": ("mini-asked", {"request": "ninety"}),
    "a shared value": ("mini-shared", {}),
    "ResNet image encoders": ("mini", {"size": "resnet"}),
}


class Kept:
    """The results file, written after every piece."""

    def __init__(self, path: Path = RESULTS) -> None:
        self._path = path
        empty: dict[str, Any] = {"command": COMMAND, "budget": BUDGET, "references": {}, "runs": [], "audits": []}
        self.content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else empty

    def has(self, identity: str) -> bool:
        """Is the run there?"""
        return any(run["id"] == identity for run in self.content["runs"])

    def add(self, part: str, label: str, where: str, record: RunRecord) -> None:
        """Take a run in, in the place of an earlier one; a reference counts once for its benchmark."""
        if record.spec.method == "none":
            scores = {name: score.model_dump(mode="json") for name, score in record.scores.items()}
            self.content["references"].setdefault(where, {})[record.spec.start] = scores
            self.content["packages"] = record.provenance.packages
        else:
            place = (part, label, where)
            runs = [run for run in self.content["runs"] if (run["part"], run["label"], run["where"]) != place]
            runs.append(
                {
                    "part": part,
                    "label": label,
                    "where": where,
                    "id": record.id,
                    "method": record.spec.method,
                    "options": record.spec.method_options,
                    "budget": record.spec.budget,
                    "status": record.status,
                    "scores": {name: round(score.value, 6) for name, score in record.scores.items()},
                    "seconds": round(record.cost.seconds.get("unlearn", 0.0), 1),
                }
            )
            self.content["runs"] = sorted(runs, key=lambda run: (run["part"], run["where"], run["label"]))
        self.write()

    def audited(self, identity: str) -> set[str]:
        """Audits that are done on the model of a run."""
        return {row["audit"] for row in self.content["audits"] if row["id"] == identity}

    def add_audit(self, row: Mapping[str, Any]) -> None:
        """Take the outcome of an attack in, in the place of the same one on an earlier run."""
        place = (row["where"], row["label"], row["audit"])
        rows = [old for old in self.content["audits"] if (old["where"], old["label"], old["audit"]) != place]
        self.content["audits"] = [*rows, dict(row)]
        self.content["audits"].sort(key=lambda item: (item["where"], item["label"], item["audit"]))
        self.write()

    def write(self) -> None:
        """Atomically."""
        write_json(self._path, self.content)


class Runs:
    """Carries out what is missing."""

    def __init__(self, out: Path, workers: int, settings: Settings) -> None:
        self.plugins: Plugins = load_plugins()
        self.settings, self._out, self._workers = settings, out, workers
        self.kept = Kept()
        self._waiting: list[tuple[str, str, str, Resolved]] = []

    def resolved(
        self, method: str, instance: int, options: Mapping[str, Any] | None = None, budget: float = BUDGET
    ) -> Resolved:
        """A run on an instance of mini, with mini's preset."""
        benchmark = make_benchmark("mini", {"seed": instance}, self.plugins, self.settings.cache_folder)
        given = with_preset(method, dict(options or {}), benchmark, "benchmark")
        spec = RunSpec(
            method=method, benchmark="mini", benchmark_options={"seed": instance}, method_options=given, budget=budget
        )
        return resolve(spec, self.plugins, self.settings.cache_folder, benchmark)

    def plan(self, part: str, label: str, instance: int, resolved: Resolved) -> None:
        """Do a run with the next ones, unless it is kept."""
        if not self.kept.has(resolved.id):
            self._waiting.append((part, label, f"mini {instance}", resolved))

    def references(self, benchmark: str, options: Mapping[str, Any], where: str) -> None:
        """Clean and Compromised, if they are not there."""
        for start in ("clean", "compromised"):
            if start not in self.kept.content["references"].get(where, {}):
                spec = RunSpec(method="none", benchmark=benchmark, benchmark_options=dict(options), start=start)  # type: ignore[arg-type]
                resolved = resolve(spec, self.plugins, self.settings.cache_folder)
                self.kept.add("", "", where, run_resolved(resolved, self.folder(resolved), self.settings, self.plugins))

    def folder(self, resolved: Resolved) -> Path:
        """A run's directory."""
        options = resolved.spec.benchmark_options
        size = options.get("size", "mini").replace("mini", "")
        place = f"{resolved.spec.benchmark}-{options['seed']}-{options.get('request', size)}"
        return self._out / place / resolved.folder_name

    def carry_out(self) -> None:
        """Everything that waits."""
        places = {item[3].id: item for item in self._waiting}
        kept, total = self.kept, len(self._waiting)

        class Keeper:
            """Keeps each run as soon as it is done."""

            @hookimpl
            def run_finished(self, record: RunRecord) -> None:
                """A run is done."""
                if record.id in places:
                    part, label, where, _ = places.pop(record.id)
                    kept.add(part, label, where, record)
                    print(f"{total - len(places)}/{total} {part}: {label}, {where}: {record.status}", flush=True)

        keeper = Keeper()
        self.plugins.watch(keeper)
        runs = [(item[3], self.folder(item[3])) for item in self._waiting]
        run_in_workers(runs, self.settings, self.plugins, self._workers, threads=1)
        self.plugins.manager.unregister(keeper)
        self._waiting.clear()


def main_runs(runs: Runs, instances: list[int]) -> None:
    """`selective` and the best published methods, at the same budget, on all instances."""
    for instance in instances:
        make_benchmark("mini", {"seed": instance}, runs.plugins, runs.settings.cache_folder).build()
        runs.references("mini", {"seed": instance}, f"mini {instance}")
        for method in ("selective", *BASELINES):
            runs.plan("main", method, instance, runs.resolved(method, instance))
    runs.carry_out()


def ablations(runs: Runs, instances: list[int]) -> None:
    """One ingredient less, and less budget, on the first instance."""
    for label, options in ABLATIONS.items():
        runs.plan("ablation", label, instances[0], runs.resolved("selective", instances[0], options))
    less = runs.resolved("selective", instances[0], budget=BUDGET / 5)
    runs.plan("ablation", "a fifth of the budget", instances[0], less)
    runs.carry_out()


def audits(runs: Runs, instances: list[int]) -> None:
    """Similarity as a scar on all instances, every attack on the first."""
    for instance in instances:
        where = f"mini {instance}"
        for label in ("selective", *BASELINES) if instance == instances[0] else ("selective",):
            wanted = list(runs.plugins.audits) if instance == instances[0] else ["membership-similarity"]
            resolved = runs.resolved(label, instance)
            missing = [name for name in wanted if name not in runs.kept.audited(resolved.id)]
            if not missing:
                continue
            folder = runs.folder(resolved)
            run_resolved(
                resolved, folder, runs.settings, runs.plugins
            )  # done already, unless the folder is another machine's
            for name in missing:
                [found] = audit(
                    folder,
                    audits=[name],
                    benchmark="mini",
                    benchmark_options={"seed": instance},
                    settings=runs.settings,
                    plugins=runs.plugins,
                )
                row = {"where": where, "label": label, "id": resolved.id, "audit": name}
                row |= {"value": found.value, "clean": found.clean}
                runs.kept.add_audit({**row, "compromised": found.compromised, "recovered": found.recovered})
                print(f"audit {name} of {label}, {where}: {found.value}", flush=True)


def requests(runs: Runs, instances: list[int]) -> None:
    """Other requests than mini's own, on the first instance."""
    add_plugin(runs.plugins, AskedPlugin(), Package(name="experiments", version=Asked.version), "asked")
    for request, (benchmark, more) in REQUESTS.items():
        options, where = {"seed": instances[0], **more}, f"mini {instances[0]}, {request}"
        make_benchmark(benchmark, options, runs.plugins, runs.settings.cache_folder).build()
        runs.references(benchmark, options, where)
        spec = RunSpec(method="selective", benchmark=benchmark, benchmark_options=options, budget=BUDGET)
        resolved = resolve(spec, runs.plugins, runs.settings.cache_folder)
        if not runs.kept.has(resolved.id):
            record = run_resolved(resolved, runs.folder(resolved), runs.settings, runs.plugins)
            runs.kept.add("request", request, where, record)
            print(f"request {request}: {record.status} {(record.error or '').splitlines()[:1]}", flush=True)


def limits(runs: Runs, instances: list[int]) -> None:
    """Where captions would end up if forgetting were perfect: at their twins, by the Compromised model."""
    for instance in instances:
        where = f"mini {instance}"
        if where in {row["where"] for row in runs.kept.content.get("limits", [])}:
            continue
        benchmark = make_benchmark("mini", {"seed": instance}, runs.plugins, runs.settings.cache_folder)
        for twins in ("same", "anew"):
            image, text, captions = at_twins(benchmark, twins)
            row = {
                "where": where,
                "twins": twins,
                "ACS": round(float(held_out_verdicts(image, text, captions).correct.mean()), 6),
                "AssocStr": round(float((image * text).sum(dim=1).mean()), 6),
            }
            runs.kept.content.setdefault("limits", []).append(row)
            print(row, flush=True)
        runs.kept.write()


def at_twins(benchmark: Benchmark, twins: Literal["same", "anew"]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Embeddings of the forget images and of a twin of each caption, and the captions."""
    method = Selective(Selective.Options(twins=twins))
    with toy_context(method, benchmark=benchmark) as ctx, torch.no_grad():
        method._read(ctx)
        twin, draw = method._captions.twin, Draw(ctx.generator("limits"))
        said = [fact.wording.say(twin(fact.name, draw), twin(fact.value, draw)) for fact in method._known.facts]
        batches = list(ctx.batches("forget", 256))
        order = torch.cat([pairs.index for pairs in batches]).argsort()
        image = torch.cat([ctx.model.encode_image(pairs.image) for pairs in batches])[order]
        return image, ctx.model.encode_text(method.packed(said)), list(ctx.captions("forget"))


PARTS: dict[str, Callable[[Runs, list[int]], None]] = {
    "main": main_runs,
    "ablations": ablations,
    "audits": audits,
    "requests": requests,
    "limits": limits,
}


@click.command()
@click.option(
    "--instances", default="10,11,12,13,14", show_default=True, help="Benchmark seeds; nothing was chosen on these."
)
@click.option("--parts", default=",".join(PARTS), show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/selective"), help="Run directories.")
@click.option("--cpu", is_flag=True)
def main(instances: str, parts: str, workers: int, out: Path, cpu: bool) -> None:
    """Run what is missing and keep it."""
    runs = Runs(out, workers, Settings(cpu=cpu))
    for part in parts.split(","):
        torch.set_num_threads(1 if part == "requests" else torch.get_num_threads())
        PARTS[part](runs, [int(instance) for instance in instances.split(",")])


if __name__ == "__main__":
    main()
