"""Attack a model, Clean and Compromised alike, and say how much of what was learned the attack gets back."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, Field

from salmu_core.audit import Audit
from salmu_core.benchmark import Benchmark
from salmu_core.data_cache import digest_of
from salmu_core.errors import PluginFailure, SalmuError
from salmu_core.files import check_writable, write_json
from salmu_core.metric import NotMeasurable
from salmu_core.model import DualEncoder, load_model
from salmu_core.options import parse_options
from salmu_core.plugins import Plugins, load_plugins
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.audit_context import AuditContext
from salmu_core.runner.evaluate import given_model
from salmu_core.runner.progress import Progress
from salmu_core.runner.resolve import make_benchmark
from salmu_core.runner.run import Settings, ensure_built

AUDITS_FILE = "audits.json"


class AuditResult(BaseModel):
    """One attack on one model, beside what the same attack gets from Clean and Compromised."""

    model_config = ConfigDict(frozen=True)

    audit: str
    summary: str
    package: str
    options: dict[str, Any]
    value: float | None = Field(description="what it got from the model; none where it could not be measured")
    clean: float | None
    compromised: float | None
    extras: dict[str, float] = Field(default_factory=dict)
    seconds: float = 0.0
    reason: str | None = Field(None, description="why it could not be measured")

    @property
    def recovered(self) -> float | None:
        """`(value - Clean) / (Compromised - Clean)`: 0 when the attack gets no more than from a model that never learned, 1
        when it gets all that was ever there. None where Clean and Compromised do not differ."""
        if self.value is None or self.clean is None or self.compromised is None:
            return None
        scale = self.compromised - self.clean
        return (self.value - self.clean) / scale if abs(scale) > 1e-6 else None

    @property
    def times_clean(self) -> float | None:
        """`value / Clean`: how many times as much as from a model that never learned."""
        return None if self.value is None or not self.clean else self.value / self.clean


def audit(
    model: str | Path | DualEncoder,
    *,
    audits: Sequence[str] | None = None,
    benchmark: str = "mini",
    benchmark_options: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
) -> list[AuditResult]:
    """Run audits on a model and on both references. What was measured before, on equal weights, is read from the cache.

    Args:
        model: `clean`, `compromised`, a run directory, a checkpoint, or a `DualEncoder`.
        audits: names; default: all that are installed.
        options: audit name -> options.
        out: folder for `audits.json`; None: nothing is written, unless `model` is a run directory, which then gets it.

    Raises:
        UnknownName, BadOptions, BadCheckpoint: before anything is attacked.
        PluginFailure: an audit raised.
    """
    plugins, settings = plugins or load_plugins(), settings or Settings()
    if not plugins.audits:
        raise SalmuError("No audit is installed.", "pip install salmu-audits")
    chosen = list(audits) if audits else list(plugins.audits)
    given = dict(options or {})
    entries = {name: plugins.get("audit", name) for name in [*chosen, *given]}
    made = {name: entries[name].cls(parse_options(entries[name].cls.Options, given.get(name, {}), name)) for name in chosen}
    base = make_benchmark(benchmark, dict(benchmark_options or {}), plugins, settings.cache_folder)
    title = "model" if isinstance(model, DualEncoder) else str(model)
    folder = Path(out) if out is not None else Path(title) if (Path(title) / "record.json").is_file() else None
    if folder is not None:
        check_writable(folder)
    with open_accelerator(cpu=settings.cpu) as accelerator:
        words = title in ("clean", "compromised")
        loaded = None if words else given_model(model)
        ensure_built(
            base,
            accelerator,
            lambda step: plugins.tell("run_progress", event=Progress(title, step.stage, step.done, step.total)),
        )
        encoders: dict[str, DualEncoder] = {which: base.load_model(which) for which in ("clean", "compromised")}
        if words:
            encoders["model"] = encoders[title]
        else:  # a bare checkpoint must fit the benchmark's own architecture
            encoders["model"] = loaded or load_model(title, like=encoders["compromised"].config)
        data_fingerprint = base.fingerprint()
        fingerprints = {which: encoder.fingerprint() for which, encoder in encoders.items()}
        results = []
        for name, attack in made.items():
            leaks: dict[str, dict[str, Any]] = {}
            for which in ("clean", "compromised", "model"):
                encoder = encoders[which]
                key = digest_of(
                    "audit", name, json.dumps(attack.options.model_dump(mode="json"), sort_keys=True), str(seed),
                    entries[name].package.version, data_fingerprint, *fingerprints[which].values(),
                )  # fmt: skip
                place = settings.cache_folder / "audits" / f"{key}.json"
                leaks[which] = _read(place) or _measure(
                    attack,
                    encoder,
                    base,
                    accelerator,
                    seed,
                    settings,
                    plugins,
                    f"{name} on {which if which != 'model' else title}",
                    place,
                )
            found, reason = leaks["model"], next((leak["reason"] for leak in leaks.values() if leak.get("reason")), None)
            results.append(
                AuditResult(
                    audit=name,
                    summary=attack.summary,
                    package=entries[name].origin,
                    options=attack.options.model_dump(mode="json"),
                    value=found["value"],
                    clean=leaks["clean"]["value"],
                    compromised=leaks["compromised"]["value"],
                    extras=found["extras"],
                    seconds=found["seconds"],
                    reason=reason,
                )
            )
    if folder is not None and accelerator.is_main_process:
        write_json(
            folder / AUDITS_FILE,
            {
                "model_fingerprint": fingerprints["model"],
                "benchmark": benchmark,
                "benchmark_options": base.options.model_dump(mode="json"),
                "seed": seed,
                "audits": [{**item.model_dump(mode="json"), "recovered": item.recovered} for item in results],
            },
        )
    return results


def _read(place: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if {"value", "extras", "seconds"} <= content.keys() else None


def _measure(
    attack: Audit,
    encoder: DualEncoder,
    benchmark: Benchmark,
    accelerator: Accelerator,
    seed: int,
    settings: Settings,
    plugins: Plugins,
    title: str,
    place: Path,
) -> dict[str, Any]:
    def tell(stage: str, done: int, total: int) -> None:
        plugins.tell("run_progress", event=Progress(title, stage, done, total))

    started = time.perf_counter()
    victim = copy.deepcopy(encoder).to(accelerator.device)
    ctx = AuditContext(victim, benchmark, accelerator, seed, attack.name, settings.data_cache(plugins, title), tell)
    try:
        leak = attack.attack(ctx)
        content: dict[str, Any] = {"value": float(leak.value), "extras": dict(leak.extras)}
    except NotMeasurable as reason:
        content = {"value": None, "extras": {}, "reason": str(reason)}
    except SalmuError as error:
        raise type(error)(f"The audit {attack.name}: {error.message}", error.hint) from error
    except Exception as error:
        raise PluginFailure(f"The audit {attack.name} failed: {type(error).__name__}: {error}") from error
    content["seconds"] = round(time.perf_counter() - started, 2)
    write_json(place, content)
    return content
