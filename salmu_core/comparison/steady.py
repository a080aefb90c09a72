"""Runs that end at the same weights, bit for bit: methods that draw nothing, and rows that are one model under several titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from salmu_core.records.schema import RunRecord

#: Names and digests of a model's towers.
Weights = tuple[tuple[str, str], ...]


def weights_of(record: RunRecord) -> Weights | None:
    """What a run's weights are known by; None where it did not end well, or is of a time when that was not written down."""
    if record.status != "ok" or record.kind != "run":
        return None
    return tuple(sorted(record.provenance.model_fingerprint.items())) or None


def is_deterministic(runs: Sequence[tuple[str, RunRecord]]) -> bool:
    """Do several training seeds of an instance give the same weights, wherever there are several?

    Args:
        runs: instance and record of each run of a row.
    """
    by_instance: dict[str, list[RunRecord]] = {}
    for instance, record in runs:
        by_instance.setdefault(instance, []).append(record)
    several = [[weights_of(record) for record in group] for group in by_instance.values() if len(group) > 1]
    return bool(several) and all(group[0] is not None and set(group) == {group[0]} for group in several)


def same_rows(rows: Mapping[str, tuple[object, Sequence[tuple[str, RunRecord]]]]) -> dict[str, str]:
    """Title of each row that ends at the same weights as an earlier one on every instance, and the title of that one: a method that
    does not use its budget, or two methods that leave the model alone.

    Args:
        rows: title -> what rows must share beside their weights, and instance and record of each run.
    """
    first: dict[object, str] = {}
    found = {}
    for title, (kind, runs) in rows.items():
        weights = {(instance, weights_of(record)) for instance, record in runs}
        if any(known is None for _, known in weights):
            continue
        earlier = first.setdefault((kind, frozenset(weights), frozenset(r.spec.precision for _, r in runs)), title)
        if earlier != title:
            found[title] = earlier
    return found
