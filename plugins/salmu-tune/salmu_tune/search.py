"""Search a method's declared space on the validation benchmark: the same trials, budgets and instances for every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from salmu_core.comparison.verdict import judge
from salmu_core.errors import BadOptions
from salmu_core.files.writing import check_writable, write_json
from salmu_core.method import UnlearningMethod
from salmu_core.models.dual_encoder import WEIGHTS_FILE
from salmu_core.plugins.loading import Entry, Plugins, load_plugins
from salmu_core.records.schema import RunRecord, RunSpec
from salmu_core.runner.provenance import package_versions
from salmu_core.runner.run import ROWS_FILE, Settings
from salmu_core.runner.workers import run_alone
from salmu_core.seeding import derive_seed
from salmu_core.spec.presets import preset_file
from salmu_core.spec.resolve import make_benchmark, resolve, standard_benchmark
from salmu_tune.rule import LARGEST_LOSS, LOST, RULE, Scores, Worth, lost_of, mean_worth, worth_of
from salmu_tune.space import described, first_trial, searched_values, space_of, suggest
from salmu_tune.validation import Validation

#: Trials that run on every instance before one is stopped for being worse than the median of those at the same instance.
BEFORE_STOPPING = 4
Kind = Literal["", "mismatched", "whole"]
#: Shows a finished trial: method, number, trials, the trial.
ShowTrial = Callable[[str, int, int, "Trial"], None]


@dataclass(frozen=True)
class Trial:
    """One try of a method.

    Attributes:
        value: what the search maximises, see `rule`; over the instances that it ran on.
        verdicts, statuses, scores, seconds: of each instance that it ran on.
        stopped: it ran on fewer instances than there are, being hopeless.
        lost_in_run: what runs with nothing set aside lost, the most over instances up to the first that lost too much; None where
            no better trial was refused, so none was made, or where the benchmark has no stand-in to measure it by.
    """

    options: Mapping[str, Any]
    value: float
    forgotten: float | None
    kept: float | None
    lost: float | None
    stopped: bool
    verdicts: Sequence[str]
    statuses: Sequence[str]
    seconds: Sequence[float]
    scores: Sequence[Mapping[str, float]] = field(default_factory=tuple)
    lost_in_run: float | None = None

    @property
    def eligible(self) -> bool:
        """May it be chosen, by what the trial lost?"""
        return not self.stopped and self.value >= 0

    @property
    def harms_in_a_run(self) -> bool:
        """Was it harmless with a part set aside, and not without?"""
        return self.lost_in_run is not None and self.lost_in_run > LARGEST_LOSS

    @property
    def verdict(self) -> str:
        """In a word or two, for a table."""
        return ", ".join(dict.fromkeys(self.verdicts)) + (" (stopped)" if self.stopped else "")


@dataclass(frozen=True)
class Tuned:
    """What the search found for a method at a budget, and where it is kept."""

    method: str
    budget: float
    best: Trial
    trials: Sequence[Trial]
    preset: Path


class Ground:
    """The validation part of one instance, and its two references, which are run when they are first asked for."""

    def __init__(
        self,
        carved: Mapping[str, Any],
        precision: Literal["no", "bf16", "fp16"],
        folder: Path,
        settings: Settings,
        plugins: Plugins,
    ) -> None:
        self._carved = dict(carved)
        self._precision = precision
        self._folder, self._settings, self._plugins = folder, settings, plugins
        self._shared: dict[str, Validation] = {}
        self._references: tuple[Scores, Scores] | None = None

    @property
    def never_learned(self) -> Scores:
        """Of the Compromised model on mismatched pairs."""
        return self._measured()[0]

    @property
    def compromised(self) -> Scores:
        """Of the Compromised model."""
        return self._measured()[1]

    @property
    def largest_rate(self) -> float | None:
        """The rate of pretraining."""
        return self._benchmark("").pretraining_rate()

    def _benchmark(self, how: Kind) -> Validation:
        """Carved, with mismatched pairs, or whole; made once."""
        if how not in self._shared:
            made = make_benchmark("validation", self._options(how), self._plugins, self._settings.cache_folder)
            assert isinstance(made, Validation)
            self._shared[how] = made
        return self._shared[how]

    def _options(self, how: Kind) -> dict[str, Any]:
        return {**self._carved, "mismatched": how == "mismatched", **({"whole": True} if how == "whole" else {})}

    def _measured(self) -> tuple[Scores, Scores]:
        if self._references is None:
            self._references = self.run("none", {}, 1.0, "mismatched").scores, self.run("none", {}, 1.0).scores
        return self._references

    def lost_in_run(self, method: str, options: Mapping[str, Any], budget: float) -> float | None:
        """What a run of these options loses with nothing set aside: closed forms harm the more, the more there is to forget.

        Returns:
            A share of the general level above chance; all of it where the run failed. None where there is no stand-in.
        """
        if not self._benchmark("").tells_of_runs:
            return None
        scores = self.run(method, options, budget, "whole").scores
        # The stand-in and the model are the same as where a part is set aside, and so is what Compromised has there.
        return lost_of(scores, self.never_learned, self.compromised) if scores else 1.0

    def run(self, method: str, options: Mapping[str, Any], budget: float, how: Kind = "") -> RunRecord:
        """One run; read back when it was made before. Of a trial only the record is kept: models of all trials would be gigabytes."""
        spec = RunSpec(
            method=method,
            benchmark="validation",
            benchmark_options=self._options(how),
            method_options=dict(options),
            budget=budget,
            precision=self._precision,
        )
        resolved = resolve(spec, self._plugins, self._settings.cache_folder, self._benchmark(how))
        folder = resolved.folder_in(self._folder / "trials")
        record = run_alone(resolved, folder, self._settings, self._plugins)
        if method != "none":
            for name in (WEIGHTS_FILE, ROWS_FILE):
                (folder / name).unlink(missing_ok=True)
        return record


def tune(
    methods: Sequence[str],
    *,
    benchmark: str | None = None,
    benchmark_options: Mapping[str, Any] | None = None,
    bench_seeds: Sequence[int] = (),
    trials: int = 12,
    budgets: Sequence[float] = (1.0,),
    seed: int = 0,
    precision: Literal["no", "bf16", "fp16"] = "no",
    out: str | Path,
    settings: Settings | None = None,
    plugins: Plugins | None = None,
    command: str | None = None,
    show: ShowTrial = lambda method, number, trials, trial: None,
) -> list[Tuned]:
    """Search each method's space at each budget and write a preset for each, with the record of the search, to `out/presets`.

    A search that was cut is continued: trials are drawn from `seed`, those that are done are read back.

    Args:
        bench_seeds: instances of a benchmark that has a seed; a trial runs on each in turn, and is stopped where it is hopeless. None:
            the one of `benchmark_options`.
        trials: of every method at every budget; the first has the method's defaults.
        out: holds `trials/`, a run directory each, and `presets/`.

    Raises:
        BadOptions: a method declares no search space.
        SalmuError: names, options or output are not usable, found before the first trial.
    """
    import optuna  # here: it takes a second, which no other use of this module waits for

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plugins = plugins or load_plugins()
    settings = settings or Settings()
    entries = {name: plugins.get("method", name) for name in methods}
    for name, entry in entries.items():
        if not entry.cls.search:
            raise BadOptions(f"{name} declares no search space, so there is nothing to tune.", "Leave it out.")
    benchmark = benchmark or standard_benchmark(plugins)
    folder = Path(out)
    check_writable(folder, needed_bytes=64_000_000)
    grounds = make_grounds(benchmark, benchmark_options or {}, bench_seeds, seed, precision, folder, settings, plugins)
    found = []
    for budget in budgets:
        for entry in entries.values():
            tried, best = choose_and_run(entry.name, search(entry, grounds, trials, budget, seed, show), grounds, budget)
            path = folder / "presets" / preset_file(entry.name, budget)
            content = _content(entry, grounds, tried, best)
            place = {
                "benchmark": benchmark,
                "benchmark options": dict(benchmark_options or {}),
                "instances": list(bench_seeds),
            }
            write_json(path, {**content, **place, "command": command, "budget": budget, "seed": seed})
            found.append(Tuned(entry.name, budget, best, tried, path))
    return found


def make_grounds(
    benchmark: str,
    benchmark_options: Mapping[str, Any],
    bench_seeds: Sequence[int],
    seed: int,
    precision: Literal["no", "bf16", "fp16"],
    folder: Path,
    settings: Settings,
    plugins: Plugins,
) -> list[Ground]:
    """The instances that trials run on, in order.

    Raises:
        BadOptions: the benchmark's seed is given twice.
    """
    if bench_seeds and "seed" in benchmark_options:
        raise BadOptions("The benchmark's seed is given twice: one, and a list of instances.", "Leave out one of them.")
    grounds = []
    for own in [{"seed": number} for number in bench_seeds] or [{}]:
        base = make_benchmark(benchmark, {**benchmark_options, **own}, plugins, settings.cache_folder)
        carved = {"base": benchmark, "base_options": base.options.model_dump(mode="json"), "seed": seed}
        grounds.append(Ground(carved, precision, folder, settings, plugins))
    return grounds


def search(
    entry: Entry[type[UnlearningMethod]], grounds: Sequence[Ground], trials: int, budget: float, seed: int, show: ShowTrial
) -> list[Trial]:
    """All trials of a method at a budget, in order. The same arguments give the same trials, also where some were run before.

    Values come from Optuna's TPE sampler. After each instance but the last a trial is stopped where it lost too much to be chosen, or
    where Optuna's median pruner says so: it is worse than half of the trials that ran to the end were at this point.
    """
    import optuna

    space = space_of(entry.cls, grounds[0].largest_rate)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(
            seed=derive_seed(seed, "tune", entry.name) % 2**32, n_startup_trials=max(3, trials // 3), multivariate=True
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=BEFORE_STOPPING),
    )
    tried = []
    for number in range(trials):
        asked = None
        if number:
            asked = study.ask()
            options = suggest(asked, entry.cls, space)
        else:  # the method as it comes
            options = first_trial(entry.cls, space)
            if known := searched_values(entry.cls, space, options):
                study.enqueue_trial(known)
                asked = study.ask()
                suggest(asked, entry.cls, space)
        trial = _try(entry.name, options, grounds, budget, asked)
        if asked:
            if trial.stopped:
                study.tell(asked, state=optuna.trial.TrialState.PRUNED)
            else:
                study.tell(asked, trial.value)
        tried.append(trial)
        show(entry.name if budget == 1 else f"{entry.name} {budget:g}x", number + 1, trials, trial)
    return tried


def _try(method: str, options: Mapping[str, Any], grounds: Sequence[Ground], budget: float, asked: Any) -> Trial:
    """Run one trial on one instance after the other, until it is hopeless."""
    records: list[RunRecord] = []
    worths: list[Worth | None] = []
    stopped = False
    value = LOST
    for step, ground in enumerate(grounds):
        record = ground.run(method, options, budget)
        records.append(record)
        worths.append(worth_of(record.scores, ground.never_learned, ground.compromised) if record.scores else None)
        value = _value(worths)
        if step < len(grounds) - 1:
            if asked:
                asked.report(value, step)
            # What was lost here stays the largest loss or is exceeded, so the trial can never be chosen.
            if value < 0 or (asked and asked.should_prune()):
                stopped = True
                break
    measured = [worth for worth in worths if worth is not None]
    mean = mean_worth(measured) if measured and len(measured) == len(worths) else None
    return Trial(
        options=dict(options),
        value=round(value, 4),
        forgotten=None if mean is None else round(mean.forgotten, 4),
        kept=None if mean is None else round(mean.kept, 4),
        lost=None if mean is None else round(mean.lost, 4),
        stopped=stopped,
        verdicts=[
            judge(record, ground.never_learned, ground.compromised).name
            for record, ground in zip(records, grounds, strict=False)
        ],
        statuses=[record.status for record in records],
        seconds=[round(record.cost.seconds.get("unlearn", 0.0), 1) for record in records],
        scores=[{name: round(score.value, 4) for name, score in record.scores.items()} for record in records],
    )


def _value(worths: Sequence[Worth | None]) -> float:
    measured = [worth for worth in worths if worth is not None]
    return mean_worth(measured).value if len(measured) == len(worths) else LOST


def choose(tried: Sequence[Trial]) -> Trial:
    """The best of those that may be chosen, the first of equals; where none may, the one that did least harm."""
    eligible = [trial for trial in tried if trial.eligible]
    harmless = [trial for trial in eligible if not trial.harms_in_a_run]
    if eligible and not harmless:
        return min(eligible, key=lambda trial: trial.lost_in_run or 0.0)
    return max(harmless or tried, key=lambda trial: trial.value)


def choose_and_run(
    method: str, tried: Sequence[Trial], grounds: Sequence[Ground], budget: float
) -> tuple[list[Trial], Trial]:
    """Run the best trial's options with nothing set aside, and the next best where that harms, until one does not.

    Returns:
        The trials, with what their runs lost, and the one that is chosen.
    """
    trials = list(tried)
    while True:
        best = choose(trials)
        if not best.eligible or best.lost_in_run is not None:
            return trials, best
        worst = 0.0
        for ground in grounds:
            lost = ground.lost_in_run(method, best.options, budget)
            if lost is None:
                return trials, best
            worst = round(max(worst, lost), 4)
            if worst > LARGEST_LOSS:
                break
        ran = replace(best, lost_in_run=worst)
        trials[next(number for number, trial in enumerate(trials) if trial is best)] = ran


def _content(
    entry: Entry[type[UnlearningMethod]], grounds: Sequence[Ground], tried: Sequence[Trial], best: Trial
) -> dict[str, Any]:
    """What a preset keeps of a search."""

    def short(scores: Scores) -> dict[str, float]:
        return {metric: round(score.value, 4) for metric, score in scores.items()}

    return {
        "method": entry.name,
        "options": dict(best.options),
        "rule": RULE,
        "chosen": {
            "value": best.value,
            "verdict": best.verdict,
            "eligible": best.eligible and not best.harms_in_a_run,
            "lost_in_run": best.lost_in_run,
        },
        "space": described(space_of(entry.cls, grounds[0].largest_rate)),
        "references": [
            {"compromised": short(ground.compromised), "never learned": short(ground.never_learned)} for ground in grounds
        ],
        "trials": [trial.__dict__ for trial in tried],
        "packages": {**package_versions(), entry.package.name: entry.package.version},
    }
