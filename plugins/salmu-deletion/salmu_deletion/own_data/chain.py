"""Requests one after another: what an earlier one deleted must stay deleted, and what stays may drift only so far in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from salmu_core.comparison.verdict import Thresholds
from salmu_core.data.splits import Split, join_splits
from salmu_core.errors import BadRecord, DamagedFile, SalmuError
from salmu_core.files.seals import read_json
from salmu_core.records.schema import Aspect, RunRecord, Target
from salmu_core.records.store import read_record
from salmu_deletion.own_data.metrics import ForgetRetrieval

if TYPE_CHECKING:
    from salmu_deletion.own_data.benchmark import OwnData

REQUEST_FILE = "request.json"  # in a run directory of `forget`: the request, and what it means for indices and earlier ones
EARLIER = "earlier_forget"
DRIFT_BUDGET = 0.1  # fall of RetainMRR over all requests of a chain; what one run alone is allowed
_LITTLE = 0.02  # the first model tells pairs from never-learned ones by less: there was little to forget
_RETURN = 0.1  # share of the way back that earlier pairs may come while another request is carried out


class EarlierRetrieval(ForgetRetrieval):
    """Whether pairs of earlier requests are found again."""

    name = "EarlierMRR"
    summary = "Mean reciprocal rank of the captions of all earlier requests' pairs, among each other. Shown, not scored."
    target: ClassVar[Target] = "clean"
    aspect: ClassVar[Aspect] = "forgetting"
    primary = False
    scored = False
    split: ClassVar[str] = EARLIER


@dataclass(frozen=True)
class Earlier:
    """One earlier request.

    Attributes:
        folder: its run directory.
        data: its pairs; None where they are gone or not as they were.
        why: why they are missing.
    """

    folder: Path
    record: RunRecord
    data: OwnData | None
    why: str = ""


def earlier_requests(after: Path) -> list[Earlier]:
    """The request that a run carried out, and those before it, newest first.

    Raises:
        BadRecord: no run of `salmu forget` that ended well, or a chain that leads back to itself.
    """
    found: list[Earlier] = []
    seen: set[Path] = set()
    place: Path | None = after
    while place is not None:
        folder = place.absolute()
        if folder in seen:
            raise BadRecord(f"The chain of requests before '{after}' leads back to '{folder}'.", "A folder was replaced.")
        seen.add(folder)
        record = read_record(folder)
        if record.kind != "run" or record.status != "ok" or record.model_file is None or record.spec.benchmark != "own-data":
            raise BadRecord(
                f"'{folder}' holds no run of `salmu forget` that ended well, so nothing can be deleted on top of it.",
                "Give the folder that `salmu forget --out` wrote.",
            )
        data, why = _pairs(folder, record)
        found.append(Earlier(folder, record, data, why))
        given = record.spec.benchmark_options.get("after")
        place = None if given is None else Path(given)
    return found


def _pairs(folder: Path, record: RunRecord) -> tuple[OwnData | None, str]:
    from salmu_deletion.own_data.benchmark import OwnData

    try:
        data = OwnData(OwnData.Options(**{**record.spec.benchmark_options, "after": None}))
        stated = read_request(folder).get("forget_fingerprint")
        same = data.forget_fingerprint() == stated if stated else data.fingerprint() == record.provenance.data_fingerprint
    except (SalmuError, OSError) as error:
        return None, error.message if isinstance(error, SalmuError) else str(error)
    return (data, "") if same else (None, f"The table of '{folder}' is not what it was.")


def read_request(folder: Path) -> dict[str, Any]:
    """What `forget` left beside a run; empty for runs of before it did."""
    try:
        content = read_json(folder / REQUEST_FILE)
    except FileNotFoundError:
        return {}
    except DamagedFile as error:
        raise BadRecord(
            error.message, "Delete the file and give the request again: it is then made from the run."
        ) from error
    return content if isinstance(content, dict) else {}


def earlier_split(requests: Sequence[Earlier]) -> Split | None:
    """All pairs of earlier requests that are still here; None where no earlier request is known."""
    splits = []
    for request in requests:
        if request.data is not None:
            whole = request.data.split("forget")
            columns = {name: whole.columns[name] for name in ("identity_id", "file_name", "data_field")}
            splits.append(Split(EARLIER, whole.images, whole.texts, columns))
    return join_splits(EARLIER, splits) if splits else None


@dataclass(frozen=True)
class ChainReport:
    """What a chain of requests has come to.

    Attributes:
        requests: in the chain, this one included.
        earlier_rows: pairs of earlier requests that were measured.
        unmeasured: sentences on earlier requests whose pairs are gone or changed.
        earlier: EarlierMRR of the first model, before this request, now, and of pairs never learned in the first model; None: not
            measured.
        earlier_verdict: "stays forgotten", "came back", "was not forgotten", "little to forget" or "not measured".
        drift: RetainMRR of the first model, before this request, and now; None: not measured.
        drift_budget: fall that all requests together may cost.
        drift_verdict: "within the budget", "over the budget" or "not measured".
    """

    requests: int
    earlier_rows: int
    unmeasured: tuple[str, ...]
    earlier: Mapping[str, float | None]
    earlier_verdict: str
    drift: Mapping[str, float | None]
    drift_budget: float
    drift_verdict: str

    @property
    def good(self) -> bool:
        """May the next request go on from here?"""
        return self.earlier_verdict != "came back" and self.drift_verdict != "over the budget"

    def sentences(self) -> list[tuple[str, str]]:
        """Question and answer."""
        values = self.earlier
        measured = f"EarlierMRR over {self.earlier_rows:,} pairs was {_number(values['first'])} in the first model"
        measured += f" and {_number(values['before'])} before this request, and is {_number(values['now'])}"
        measured += f"; for pairs never learned it was {_number(values['never'])} in the first model."
        earlier = {
            "stays forgotten": f"Yes: {measured}",
            "came back": f"No, they came back: {measured} Do not use this model: ask for both requests at once, or change the"
            " method.",
            "was not forgotten": f"They were not forgotten before, and are not now: {measured}",
            "little to forget": f"There was little to forget: {measured}",
            "not measured": "Not measured: the pairs of earlier requests, or a reference to judge them by, are not here.",
        }[self.earlier_verdict]
        drift = "Not measured: it takes retain pairs and the first model of the chain."
        if self.drift_verdict != "not measured":
            first, now = self.drift["first"], self.drift["now"]
            assert first is not None
            assert now is not None
            spent = max(0.0, first - now)
            drift = (
                f"{'Yes' if self.drift_verdict == 'within the budget' else 'No'}: RetainMRR was {first:.3f} in the first model,"
                f" {_number(self.drift['before'])} before this request, and is {now:.3f}. Of the budget of {self.drift_budget:g},"
                f" {spent:.3f} is spent after {self.requests} requests."
            )
            if self.drift_verdict != "within the budget":
                drift += " Start again from the first model with all requests at once."
        lost = [("Which earlier requests could not be measured?", " ".join(self.unmeasured))] if self.unmeasured else []
        return [
            ("Do earlier requests stay forgotten?", earlier),
            ("Is the drift of all requests together within the budget?", drift),
            *lost,
        ]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            **{name: getattr(self, name) for name in ("requests", "earlier_rows", "earlier_verdict", "drift_budget")},
            "drift_verdict": self.drift_verdict,
            "unmeasured": list(self.unmeasured),
            "earlier": dict(self.earlier),
            "drift": dict(self.drift),
            "good": self.good,
            "answers": [{"question": question, "answer": answer} for question, answer in self.sentences()],
        }


def judge_earlier(first: float | None, before: float | None, now: float | None, never: float | None) -> str:
    """The verdict on earlier requests, on the way from never learned (0) to the first model (1).

    They came back when now they are farther than `Thresholds.forgetting_gap` (0.2) from never learned and came more than 0.1 of the
    way closer to the first model than they were before this request.

    >>> judge_earlier(0.9, 0.12, 0.14, 0.1), judge_earlier(0.9, 0.12, 0.6, 0.1), judge_earlier(0.9, 0.8, 0.8, 0.1)
    ('stays forgotten', 'came back', 'was not forgotten')
    """
    if first is None or before is None or now is None or never is None:
        return "not measured"
    if first - never < _LITTLE:
        return "little to forget"
    at, was = (now - never) / (first - never), (before - never) / (first - never)
    if at <= Thresholds().forgetting_gap:
        return "stays forgotten"
    return "came back" if at - max(was, 0.0) > _RETURN else "was not forgotten"


def judge_drift(first: float | None, now: float | None, budget: float) -> str:
    """The verdict on what all requests together cost.

    >>> judge_drift(0.8, 0.75, 0.1), judge_drift(0.8, 0.65, 0.1), judge_drift(None, 0.65, 0.1)
    ('within the budget', 'over the budget', 'not measured')
    """
    if first is None or now is None:
        return "not measured"
    return "within the budget" if first - now <= budget else "over the budget"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
