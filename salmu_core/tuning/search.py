"""Search a method's declared space on the validation benchmark: every method gets the same trials on the same budget."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from salmu_core.errors import BadOptions, SalmuError
from salmu_core.files import check_writable, write_json
from salmu_core.method import UnlearningMethod
from salmu_core.options import Between, OneOf
from salmu_core.plugins import Plugins, load_plugins
from salmu_core.records.gaps import gaps_of
from salmu_core.records.overall import overall_score
from salmu_core.records.schema import RunRecord, RunSpec, ScoreRecord
from salmu_core.records.verdict import Thresholds, judge, primary
from salmu_core.runner.provenance import package_versions
from salmu_core.runner.resolve import make_benchmark, resolve
from salmu_core.runner.run import Settings, run_resolved
from salmu_core.seeding import derive_seed

NOT_RANKED = 1.0  # taken off the value of a trial whose verdict can hold no rank
#: A deletion request comes first: taken off for the forgetting that is missing, per share of the way to Compromised. Without it the
#: best rate of a method that harms is always the one at which it does next to nothing.
NOT_FORGOTTEN = 5.0
LOST = -10.0  # value of a trial without scores; no trial with scores is counted as worse
RULE = (
    "highest overall score on the validation benchmark, less 5 times the share by which the primary forgetting metric misses a gap"
    " of 0.2, less 1 where the verdict there can hold no rank (no effect, catastrophic at a loss of 0.1 RetainMRR, diverged, failed)"
)
Scores = Mapping[str, ScoreRecord]
#: Shows a finished trial: method, number, trials, the trial.
ShowTrial = Callable[[str, int, int, "Trial"], None]


@dataclass(frozen=True)
class Trial:
    """One try of a method."""

    options: Mapping[str, Any]
    value: float
    verdict: str
    status: str
    seconds: float
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuned:
    """What the search found for a method, and where it is kept."""

    method: str
    best: Trial
    trials: Sequence[Trial]
    preset: Path


def rate(record: RunRecord, never_learned: Scores, compromised: Scores) -> tuple[float, str]:
    """What a trial is worth, and its verdict: the rule above.

    Args:
        never_learned: scores of the Compromised model on mismatched pairs, where the Clean model's would stand.
        compromised: its scores on the pairs themselves.
    """
    verdict = judge(record, never_learned, compromised)
    if not record.scores:
        return LOST, verdict.name
    gaps = gaps_of(record.scores, never_learned, compromised)
    value = overall_score(record.scores, never_learned, compromised) or 0.0
    forgetting = primary(record.scores, "forgetting")
    left = gaps.get(forgetting[0], 0.0) if forgetting else 0.0
    value -= NOT_FORGOTTEN * max(0.0, left - Thresholds().forgetting_gap)
    return max(LOST, value - (0 if verdict.ranked else NOT_RANKED)), verdict.name


def tune(
    methods: Sequence[str],
    *,
    benchmark: str = "mini",
    benchmark_options: Mapping[str, Any] | None = None,
    trials: int = 12,
    budget: float = 1.0,
    seed: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
    command: str | None = None,
    show: ShowTrial = lambda method, number, trials, trial: None,
) -> list[Tuned]:
    """Search each method's space and write a preset per method, with the record of the search, to `out/presets`.

    A search that was cut is continued: trials are drawn from `seed`, those that are done are read back.

    Args:
        trials: of every method; the first has the method's defaults.
        out: holds `trials/`, a run directory each, and `presets/`.

    Raises:
        BadOptions: a method declares no search space.
        SalmuError: optuna is not installed; names, options or output are not usable, found before the first trial.
    """
    try:
        import optuna
    except ImportError:
        raise SalmuError("salmu tune searches with optuna, which is not installed.", "pip install 'salmu[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    entries = {name: plugins.get("method", name) for name in methods}
    for name, entry in entries.items():
        if not entry.cls.search:
            raise BadOptions(f"{name} declares no search space, so there is nothing to tune.", "Leave it out.")
    folder = Path(out)
    check_writable(folder, needed_bytes=64_000_000)
    base = make_benchmark(benchmark, dict(benchmark_options or {}), plugins, settings.cache_folder)
    carved = {"base": benchmark, "base_options": base.options.model_dump(mode="json"), "seed": seed}
    shared = {
        mismatched: make_benchmark("validation", {**carved, "mismatched": mismatched}, plugins, settings.cache_folder)
        for mismatched in (False, True)
    }

    def one(method: str, options: Mapping[str, Any], *, mismatched: bool = False) -> RunRecord:
        spec = RunSpec(
            method=method,
            benchmark="validation",
            benchmark_options={**carved, "mismatched": mismatched},
            method_options=dict(options),
            budget=budget,
            precision=precision,
        )
        resolved = resolve(spec, plugins, settings.cache_folder, shared[mismatched])
        return run_resolved(resolved, folder / "trials" / resolved.folder_name, settings, plugins)

    compromised = one("none", {}).scores
    never_learned = one("none", {}, mismatched=True).scores
    found = []
    for name, entry in entries.items():
        sampler = optuna.samplers.TPESampler(
            seed=derive_seed(seed, "tune", name) % 2**32, n_startup_trials=max(3, trials // 3), multivariate=True
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        tried: list[Trial] = []
        for number in range(trials):
            asked = study.ask() if number else None  # the first trial is the method as it comes
            options = suggest(asked, entry.cls) if asked else {}
            record = one(name, options)
            value, verdict = rate(record, never_learned, compromised)
            if asked:
                study.tell(asked, value)
            elif known := defaults_of(entry.cls):
                study.add_trial(optuna.create_trial(params=known, distributions=distributions(entry.cls), value=value))
            seconds = record.cost.seconds.get("unlearn", 0.0)
            scores = {metric: round(score.value, 4) for metric, score in record.scores.items()}
            tried.append(Trial(options, round(value, 4), verdict, record.status, round(seconds, 1), scores))
            show(name, number + 1, trials, tried[-1])
        best = max(tried, key=lambda trial: trial.value)  # the first of equals
        path = folder / "presets" / f"{name}.json"
        write_json(
            path,
            {
                "method": name,
                "options": dict(best.options),
                "benchmark": benchmark,
                "benchmark options": base.options.model_dump(mode="json"),
                "rule": RULE,
                "command": command,
                "budget": budget,
                "seed": seed,
                "chosen": {"value": best.value, "verdict": best.verdict},
                "space": {option: _described(span) for option, span in entry.cls.search.items()},
                "references": {
                    "compromised": {metric: round(score.value, 4) for metric, score in compromised.items()},
                    "never learned": {metric: round(score.value, 4) for metric, score in never_learned.items()},
                },
                "trials": [trial.__dict__ for trial in tried],
                "packages": {**package_versions(), entry.package.name: entry.package.version},
            },
        )
        found.append(Tuned(name, best, tried, path))
    return found


def defaults_of(cls: type[UnlearningMethod]) -> dict[str, Any]:
    """The searched options as the method has them by default; nothing when one of them lies outside its range."""
    options = cls.Options()
    found = {name: getattr(options, name) for name in cls.search}
    for name, span in cls.search.items():
        value = found[name]
        inside = value in span.values if isinstance(span, OneOf) else value is not None and span.low <= value <= span.high
        if not inside:
            return {}
    return found


def distributions(cls: type[UnlearningMethod]) -> dict[str, Any]:
    """The space in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        name: CategoricalDistribution(list(span.values))
        if isinstance(span, OneOf)
        else (IntDistribution if _whole(cls, name) else FloatDistribution)(span.low, span.high, log=span.log)
        for name, span in cls.search.items()
    }


def _whole(cls: type[UnlearningMethod], option: str) -> bool:
    """Does the option take whole numbers?"""
    annotation = cls.Options.model_fields[option].annotation
    return int in (annotation, *typing.get_args(annotation))


def suggest(trial: Any, cls: type[UnlearningMethod]) -> dict[str, Any]:
    """The next values to try; three digits of a number are enough, and make it repeatable by hand."""
    chosen: dict[str, Any] = {}
    for name, span in cls.search.items():
        if isinstance(span, OneOf):
            chosen[name] = trial.suggest_categorical(name, list(span.values))
        elif _whole(cls, name):
            chosen[name] = trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
        else:
            value = trial.suggest_float(name, span.low, span.high, log=span.log)
            chosen[name] = min(max(_three_digits(value), span.low), span.high)
    return chosen


def _three_digits(value: float) -> float:
    return 0.0 if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))


def _described(span: Between | OneOf) -> Any:
    return list(span.values) if isinstance(span, OneOf) else {"low": span.low, "high": span.high, "log": span.log}
