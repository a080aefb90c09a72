"""Attack a model, Clean and Compromised alike, and say how much of what was learned the attack gets back."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from accelerate import Accelerator

from salmu_audits.forget_embeddings import ForgetEmbeddings, SharingContext
from salmu_core.audit import Audit
from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import digest_of
from salmu_core.errors import DamagedFile, PluginFailure, SalmuError
from salmu_core.files.seals import read_json
from salmu_core.files.writing import check_writable, write_sealed_json
from salmu_core.metric import NotMeasurable
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.loading import load_model
from salmu_core.options import parse_options
from salmu_core.plugins.calls import plugin_code
from salmu_core.plugins.loading import PluginProblem, Plugins, load_plugins
from salmu_core.plugins.opened_files import opened_files
from salmu_core.records.attacks import AUDITS_FILE as AUDITS_FILE
from salmu_core.records.attacks import AuditResult as AuditResult
from salmu_core.records.attacks import attacks_of, merged, read_attacks, write_attacks
from salmu_core.records.schema import Target
from salmu_core.records.store import read_record
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.evaluate import given_model
from salmu_core.runner.progress import Progress
from salmu_core.runner.run import Settings, ensure_built
from salmu_core.spec.benchmark_choice import benchmark_for
from salmu_core.spec.resolve import make_benchmark

_REFERENCES: tuple[Target, Target] = ("clean", "compromised")


def audit(
    model: str | Path | DualEncoder,
    *,
    audits: Sequence[str] | None = None,
    benchmark: str | None = None,
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
        benchmark: a registered name; default: that of the run which made the model, with its options and on its data, else the
            standard one that is installed.
        options: audit name -> options.
        out: folder for `audits.json`; None: nothing is written, unless `model` is a run directory, which then gets it. What
            stands there of the same model stays.

    Raises:
        UnknownName, BadOptions, BadCheckpoint: before anything is attacked.
        BadRecord, BadData: likewise, where the run's record is damaged, or its weights or data are not what it states.
        SalmuError: likewise, where the `audits.json` of `out` is damaged, or about another model or other data.
        PluginFailure: an audit raised.
    """
    plugins, settings = plugins or load_plugins(), settings or Settings()
    if not plugins.audits:
        raise SalmuError("No audit is installed.", "Install a package that registers audits.")
    given = dict(options or {})
    made = make_audits(plugins, list(audits) if audits else list(plugins.audits), given)
    choice = benchmark_for(model, benchmark, benchmark_options or {}, plugins)
    base = make_benchmark(choice.benchmark, choice.options, plugins, settings.cache_folder)
    model = choice.model(model)
    title = "model" if isinstance(model, DualEncoder) else str(model)
    folder = choice.folder if out is None else Path(out)
    if folder is not None:
        check_writable(folder)
    with open_accelerator(cpu=settings.cpu) as accelerator:
        words = title in _REFERENCES
        loaded = None if words else given_model(model)
        ensure_built(
            base,
            accelerator,
            lambda step: plugins.tell("run_progress", event=Progress(title, step.stage, step.done, step.total)),
        )
        choice.check_data(base)
        if out is None:
            choice.check_place(base)
        instance = AttackedInstance(base, accelerator, plugins, settings, seed)
        if words:
            encoder = instance.reference("clean" if title == "clean" else "compromised")
        else:  # a bare checkpoint must fit the benchmark's own architecture
            encoder = loaded or load_model(title, like=instance.reference("compromised").config)
        choice.check_weights(encoder)
        fingerprint = {str(tower): digest for tower, digest in encoder.fingerprint().items()}
        before = () if folder is None else _kept(folder, fingerprint, instance.data_fingerprint)
        results = [instance.attack(attack, encoder, title) for attack in made]
    if folder is not None and accelerator.is_main_process:
        kept = [item for item in before if not any(item.gives_way_to(new) for new in results)]
        write_attacks(folder, fingerprint, [*kept, *results], instance.about)
    return results


def make_audits(plugins: Plugins, names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> list[Audit]:
    """Audits by name, with their options.

    Raises:
        UnknownName, BadOptions: of an audit, or options for one that is not installed.
    """
    entries = {name: plugins.get("audit", name) for name in [*names, *options]}
    made = []
    for name in names:
        audit = entries[name].cls(parse_options(entries[name].cls.Options, options.get(name, {}), name))
        audit.name = entries[name].name
        made.append(audit)
    return made


def _kept(folder: Path, fingerprint: Mapping[str, str], data: str) -> Sequence[AuditResult]:
    """Earlier attacks on the model with this fingerprint, on the same data.

    Raises:
        SalmuError: what lies there is damaged, of another model or on other data, and would be lost.
    """
    found = attacks_of(fingerprint, folder, data)
    if found.problem:
        why = "is about another model or other data" if found.elsewhere else "is damaged"
        hint = "Move it away, or give another folder with --out."
        raise SalmuError(f"'{folder / AUDITS_FILE}' {why}, and is not overwritten.", hint)
    return found.results


@dataclass
class AttackedInstance:
    """One benchmark with its reference models, loaded once for all attacks. What they get from these is kept in the cache folder, by
    attack and content of weights and data, for every later comparison on the same instance."""

    benchmark: Benchmark
    accelerator: Accelerator
    plugins: Plugins
    settings: Settings
    seed: int = 0
    _models: dict[Target, DualEncoder] = field(default_factory=dict)
    #: By model and not by its address, which Python gives to the next one.
    _fingerprints: WeakKeyDictionary[DualEncoder, dict[str, str]] = field(default_factory=WeakKeyDictionary)
    _embeddings: WeakKeyDictionary[DualEncoder, ForgetEmbeddings] = field(default_factory=WeakKeyDictionary)

    def reference(self, which: Target) -> DualEncoder:
        """Clean or Compromised."""
        if which not in self._models:
            self._models[which] = self.benchmark.load_model(which)
        return self._models[which]

    @cached_property
    def data_fingerprint(self) -> str:
        """Of the benchmark's data."""
        return self.benchmark.fingerprint()

    @property
    def about(self) -> dict[str, Any]:
        """What `audits.json` says of the data."""
        return {
            "benchmark": self.benchmark.name,
            "benchmark_options": self.benchmark.options.model_dump(mode="json"),
            "data_fingerprint": self.data_fingerprint,
            "seed": self.seed,
        }

    def attack(self, audit: Audit, model: DualEncoder, title: str) -> AuditResult:
        """One attack on one model, beside what it gets from both references.

        Raises:
            PluginFailure: the audit raised.
        """
        entry = self.plugins.get("audit", audit.name)
        leaks = {which: self._leak(audit, self.reference(which), which) for which in _REFERENCES}
        found = self._leak(audit, model, title)
        reason = next((leak["reason"] for leak in (found, *leaks.values()) if leak.get("reason")), None)
        return AuditResult(
            audit=audit.name,
            summary=audit.summary,
            package=entry.origin,
            options=audit.options.model_dump(mode="json"),
            value=found["value"],
            clean=leaks["clean"]["value"],
            compromised=leaks["compromised"]["value"],
            extras=found["extras"],
            seconds=found["seconds"],
            samples=found["samples"],
            warnings=tuple(dict.fromkeys(line for leak in (found, *leaks.values()) for line in leak.get("warnings", ()))),
            reason=reason,
            version=audit.version,
            seed=self.seed,
            bounds=audit.bounds,
            references=audit.references,
        )

    def _leak(self, audit: Audit, model: DualEncoder, title: str) -> dict[str, Any]:
        if model not in self._fingerprints:
            self._fingerprints[model] = {str(tower): digest for tower, digest in model.fingerprint().items()}
        entry = self.plugins.get("audit", audit.name)
        key = digest_of(
            "audit", audit.name, json.dumps(audit.options.model_dump(mode="json"), sort_keys=True), str(self.seed), audit.version,
            entry.package.version, self.data_fingerprint, *self._fingerprints[model].values(),
        )  # fmt: skip
        place = self.settings.cache_folder / "audits" / f"{key}.json"
        return _read(place) or self._measure(audit, model, title, place)

    def _check_references(self) -> None:
        """An audit may look at the reference models. One that changed them is not believed, and the next gets fresh ones.

        Raises:
            PluginFailure: they were changed.
        """
        for which, model in list(self._models.items()):
            found = {str(tower): digest for tower, digest in model.fingerprint().items()}
            if self._fingerprints.setdefault(model, found) != found:
                del self._models[which], self._fingerprints[model]
                raise PluginFailure(f"it changed the reference model {which}, which is not its own: work on a copy")

    def _measure(self, audit: Audit, model: DualEncoder, title: str, place: Path) -> dict[str, Any]:
        name = f"{audit.name} on {title}"

        def tell(stage: str, done: int, total: int) -> None:
            self.plugins.tell("run_progress", event=Progress(name, stage, done, total))

        started = time.perf_counter()
        victim = copy.deepcopy(model).to(self.accelerator.device)
        data = self.settings.data_cache(self.plugins, name)
        ctx = SharingContext(victim, self.benchmark, self.accelerator, self.seed, audit.name, data, tell, self.reference)
        ctx.forget_embeddings = self._embeddings.setdefault(model, ForgetEmbeddings())
        entry = self.plugins.get("audit", audit.name)

        warnings: list[str] = []

        def warn(sentence: str) -> None:
            warnings.append(f"{sentence[0].upper()}{sentence[1:]}")
            problem = PluginProblem(entry.package, entry.entry_point, sentence)
            if problem not in self.plugins.problems:
                self.plugins.problems.append(problem)

        try:
            own = type(audit).__module__.partition(".")[0]
            # An audit may read whatever the benchmark gives it, and no file past that.
            doors = {"salmu_core.benchmark", type(self.benchmark).__module__}
            with opened_files(self.benchmark, {own}, self.settings.cache_folder, doors) as opened:
                try:
                    with plugin_code("it", warn, own=own):
                        leak = audit.attack(ctx)
                finally:
                    for sentence in opened.warnings("it", "Its value may rest on more than an attacker has."):
                        warn(sentence)
            self._check_references()
            content: dict[str, Any] = {"value": float(leak.value), "extras": dict(leak.extras)}
            if not all(math.isfinite(float(value)) for value in (leak.value, *leak.extras.values())):
                raise PluginFailure(f"it gave {leak.value} with {dict(leak.extras)}, and numbers must be finite")
        except NotMeasurable as reason:
            content = {"value": None, "extras": {}, "reason": str(reason)}
        except SalmuError as error:
            raise type(error)(f"The audit {audit.name}: {error.message}", error.hint) from error
        except Exception as error:
            raise PluginFailure(f"The audit {audit.name} failed: {type(error).__name__}: {error}") from error
        content |= {"seconds": round(time.perf_counter() - started, 2), "samples": ctx.samples, "warnings": warnings}
        write_sealed_json(place, content)
        return content


def attack_folder(
    instance: AttackedInstance, folder: Path, audits: Sequence[Audit], model: Callable[[], DualEncoder], title: str
) -> Iterator[AuditResult]:
    """Run what a run's `audits.json` lacks, and write the file after each attack, so that a kill costs one attack.

    An attack that fails is written down with its reason and tried again the next time: it ends no comparison.

    Args:
        model: called once, and only where something is lacking.
    """
    record = read_record(folder)
    results = list(read_attacks(record, folder).results)
    lacking = [audit for audit in audits if not any(_is(item, audit, instance) for item in results)]
    loaded = model() if lacking else None
    for audit in lacking:
        assert loaded is not None
        try:
            found = instance.attack(audit, loaded, title)
        except PluginFailure as error:
            options = audit.options.model_dump(mode="json")
            found = AuditResult(
                audit=audit.name, summary=audit.summary, package=instance.plugins.get("audit", audit.name).origin,
                options=options, value=None, clean=None, compromised=None, reason=str(error), version=audit.version,
                seed=instance.seed, references=audit.references, failed=True,
            )  # fmt: skip
        results = merged(results, found)
        write_attacks(folder, record.provenance.model_fingerprint, results, instance.about)
        yield found


def _is(result: AuditResult, audit: Audit, instance: AttackedInstance) -> bool:
    origin = instance.plugins.get("audit", audit.name).origin
    return (
        not result.failed
        and (result.audit, result.version, result.seed) == (audit.name, audit.version, instance.seed)
        and result.package == origin
        and result.options == audit.options.model_dump(mode="json")
    )


def _read(place: Path) -> dict[str, Any] | None:
    try:
        content = read_json(place)
    except (OSError, DamagedFile):
        return None  # it is done again
    wanted = {"value", "extras", "seconds", "samples"}
    return content if isinstance(content, dict) and wanted <= content.keys() else None
