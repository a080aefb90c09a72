"""What attacks got back from a run's model: the file beside its record, the most that any of them got, and a verdict on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from salmu_core.errors import DamagedFile
from salmu_core.files.seals import read_json
from salmu_core.files.writing import write_sealed_json
from salmu_core.records.schema import RunRecord

AUDITS_FILE = "audits.json"
#: An attack that gets hardly more from Compromised than from Clean, measured by the width of its bounds, cannot tell them apart: a
#: share of so small a difference would be noise.
LEAST_DIFFERENCE = 0.03
#: Nor can one that asks too few things, where what is to be told apart is hardly more than chance: in standard errors of its value.
LEAST_ERRORS = 3.0
STANDARD_ERROR = "standard error"  # the name under which an audit's extras say it


class AuditResult(BaseModel):
    """One attack on one model, beside what the same attack gets from Clean and Compromised."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

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
    version: str = Field("1", description="of the audit: results of another one are not comparable")
    seed: int = Field(0, description="seed of what the attack drew")
    bounds: tuple[float, float] = (0.0, 1.0)
    references: tuple[str, ...] = Field((), description="reference models that the attacker has to hold")
    samples: int = Field(0, description="pairs that the attack trained on, counted as often as they were seen")
    warnings: tuple[str, ...] = Field((), description="what the attack left changed, or opened by itself")
    failed: bool = Field(False, description="the attack itself failed: it is tried again")

    @property
    def recovered(self) -> float | None:
        """`(value - Clean) / (Compromised - Clean)`: 0 when the attack gets no more than from a model that never learned, 1
        when it gets all that was ever there. None where it gets no more from Compromised than from Clean."""
        if self.value is None or self.clean is None or self.compromised is None:
            return None
        scale = self.compromised - self.clean
        return (self.value - self.clean) / scale if scale > 1e-6 else None

    @property
    def times_clean(self) -> float | None:
        """`value / Clean`: how many times as much as from a model that never learned."""
        return None if self.value is None or not self.clean else self.value / self.clean

    @property
    def counts(self) -> bool:
        """Does it count for the most that is recovered? It was measured, needs the model alone, and tells Compromised from Clean by
        more than chance."""
        if self.references or self.recovered is None or self.clean is None or self.compromised is None:
            return False
        low, high = self.bounds
        least = max(LEAST_DIFFERENCE * (high - low), LEAST_ERRORS * self.extras.get(STANDARD_ERROR, 0.0))
        return self.compromised - self.clean >= least

    def same_attack(self, other: AuditResult) -> bool:
        """Was it made by the same attack, with the same options?"""
        return (self.audit, self.options, self.seed) == (other.audit, other.options, other.seed)

    def gives_way_to(self, other: AuditResult) -> bool:
        """Is it of the same attack with the same options, or of another version of it, whatever its options? What an earlier
        version got would stand beside the later one's, and the larger of the two would count."""
        return self.same_attack(other) or (self.audit == other.audit and self.version != other.version)

    def as_json(self) -> dict[str, Any]:
        """For files and other programs: with the share that was recovered, and whether it counts."""
        return {**self.model_dump(mode="json"), "recovered": self.recovered, "counts": self.counts}


@dataclass(frozen=True)
class Attacked:
    """Everything that was tried on one model.

    Attributes:
        problem: why a file of results was left out, in a sentence.
        elsewhere: it was, as it is about another model or other data.
    """

    results: tuple[AuditResult, ...] = ()
    problem: str = ""
    elsewhere: bool = False

    @property
    def most(self) -> AuditResult | None:
        """The attack on the model alone that got most back; None where none of them counts: not attacked."""
        return max((item for item in self.results if item.counts), key=lambda item: item.recovered or 0.0, default=None)


def read_attacks(record: RunRecord, folder: Path | None) -> Attacked:
    """The attacks beside a record. Attacks on another model or on other data do not count."""
    provenance = record.provenance
    return Attacked() if folder is None else attacks_of(provenance.model_fingerprint, folder, provenance.data_fingerprint)


def attacks_of(fingerprint: Mapping[str, str], folder: Path, data: str = "") -> Attacked:
    """The attacks in a folder on the model with this fingerprint. Others do not count.

    Args:
        data: fingerprint of the benchmark's data; empty: any, as where the file names none.
    """
    path = folder / AUDITS_FILE
    if not path.is_file():
        return Attacked()
    try:
        content = read_json(path, sealed_with={"data_fingerprint"})
        results = tuple(AuditResult(**item) for item in content["audits"])
    except DamagedFile as error:
        return Attacked(problem=f"Attacks cannot be read and are left out: {error.message}")
    except (OSError, KeyError, TypeError, ValidationError) as error:
        return Attacked(problem=f"'{path}' cannot be read ({type(error).__name__}): its attacks are left out.")
    if content.get("model_fingerprint") != fingerprint:
        return Attacked(problem=f"'{path}' is about another model: its attacks are left out.", elsewhere=True)
    if data and content.get("data_fingerprint", data) != data:
        return Attacked(problem=f"'{path}' is about other data: its attacks are left out.", elsewhere=True)
    return Attacked(results)


def write_attacks(
    folder: Path, fingerprint: Mapping[str, str], results: Iterable[AuditResult], about: Mapping[str, Any]
) -> Path:
    """Write `audits.json` atomically.

    Args:
        fingerprint: of the model that was attacked.
        about: the benchmark and its options.
    """
    path = folder / AUDITS_FILE
    write_sealed_json(
        path, {"model_fingerprint": dict(fingerprint), **about, "audits": [item.as_json() for item in results]}
    )  # fmt: skip
    return path


def merged(old: Sequence[AuditResult], new: AuditResult) -> list[AuditResult]:
    """`old` with `new` in the place of the same attack, or at the end; without results of other versions of it."""
    found = [new if item.same_attack(new) else item for item in old if item.same_attack(new) or not item.gives_way_to(new)]
    return found if any(item is new for item in found) else [*found, new]


@dataclass(frozen=True)
class Recovery:
    """What attacks got back over the runs of a row.

    Attributes:
        shares: attack -> share recovered, mean over instances of means over seeds, of attacks that count and that every attacked run
            had; of several with the same name and other options the largest.
        runs: how many were attacked.
    """

    shares: Mapping[str, float]
    runs: int

    @property
    def most(self) -> tuple[str, float] | None:
        """The attack that got most, and its share; None where nothing was attacked."""
        return max(self.shares.items(), key=lambda item: item[1], default=None)


def recovery(runs: Sequence[tuple[str, Attacked]]) -> Recovery:
    """Over the runs of a row.

    Args:
        runs: instance and attacks of each.
    """
    attacked = [(name, found) for name, found in runs if found.most is not None]
    by_attack: dict[str, dict[str, list[float]]] = {}
    for instance, found in attacked:
        best: dict[str, float] = {}
        for item in found.results:
            if item.counts and item.recovered is not None:
                best[item.audit] = max(item.recovered, best.get(item.audit, item.recovered))
        for audit, share in best.items():
            by_attack.setdefault(audit, {}).setdefault(instance, []).append(share)
    shares = {
        audit: fmean(fmean(values) for values in found.values())
        for audit, found in by_attack.items()
        if sum(len(values) for values in found.values()) == len(attacked)
    }
    return Recovery(shares, len(attacked))
