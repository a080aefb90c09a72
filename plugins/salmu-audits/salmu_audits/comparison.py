"""Attacks as a part of a comparison: which audits are run on every finished run, and running those that are missing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from salmu_audits.runner import AttackedInstance, attack_folder, make_audits
from salmu_core import hookimpl
from salmu_core.audit import Audit
from salmu_core.benchmark import Benchmark
from salmu_core.data.processes import process_count
from salmu_core.errors import SalmuError
from salmu_core.models.loading import load_model
from salmu_core.plugins.loading import Plugins
from salmu_core.records.store import read_record
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.run import Settings
from salmu_core.spec.study import AuditChoice


def chosen_audits(plugins: Plugins, choice: AuditChoice) -> list[Audit]:
    """fast: those that declare themselves cheap, with the options that make them so; all: every one, with its defaults."""
    if choice == "none":
        return []
    if choice == "all":
        return make_audits(plugins, list(plugins.audits), {})
    quick = {name: entry.cls.quick for name, entry in plugins.audits.items() if entry.cls.quick is not None}
    return make_audits(plugins, list(quick), quick)


@hookimpl
def attack_runs(
    runs: Sequence[tuple[Benchmark, Path, str]], audits: AuditChoice, settings: Settings, plugins: Plugins
) -> list[str]:
    """Run on every run's model the audits that its folder lacks.

    Args:
        runs: benchmark, folder and title; those that did not end well are passed over.
        audits: which ones; see `chosen_audits`.

    Returns:
        A sentence for each attack that failed, and for what could not be attacked at all.
    """
    chosen = chosen_audits(plugins, audits)
    if not chosen:
        return [] if audits == "none" else ["No run was attacked: no audit is installed."]
    if process_count() > 1:
        return ["No run was attacked: several processes share this job. The same command in one process adds the attacks."]
    problems: list[str] = []
    instances: dict[int, AttackedInstance] = {}
    with open_accelerator(cpu=settings.cpu) as accelerator:
        for benchmark, folder, title in runs:
            record = read_record(folder)
            if record.status != "ok" or record.kind != "run" or record.model_file is None:
                continue
            if benchmark.reference("clean")[0] is not benchmark:
                problems.append("No run was attacked: there is no Clean model to compare with.")
                break
            instance = instances.setdefault(id(benchmark), AttackedInstance(benchmark, accelerator, plugins, settings))
            load = partial(load_model, folder, fingerprint=record.provenance.model_fingerprint)
            try:
                for found in attack_folder(instance, folder, chosen, load, title):
                    if found.failed:
                        problems.append(f"{title}: {found.reason}")
            except SalmuError as error:  # weights or data that cannot be read, or an attack that diverged
                problems.append(f"{title} was not attacked: {error.message}")
    return list(dict.fromkeys(problems))
