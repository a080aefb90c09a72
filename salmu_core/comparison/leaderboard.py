"""A leaderboard as values: columns, cells, rows and the comparison that holds them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from salmu_core.comparison.differences import MetricDifference, Outcome, PairedDifference
from salmu_core.records.schema import Aspect, Status, Target

COMPARISON_VERSION = 4
#: The family of methods that propose nothing and probe the benchmark.
CONTROL = "control"
#: Every verdict, worst first. The worst one of several runs speaks for the row: a method that destroys one model in three is not
#: selective.
VERDICTS = (
    "failed", "diverged", "catastrophic", "no effect", "unknown", "ineffective", "over-generalised", "superficial", "selective"
)  # fmt: skip


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class MetricColumn(_Frozen):
    """What a reader needs to know of a metric."""

    name: str
    summary: str
    target: Target
    aspect: Aspect
    primary: bool
    bounds: tuple[float, float]
    weight: float = Field(description="1: it counts in the overall score; 0: it is shown and counts nothing")
    part: str = Field("", description="forgotten, kept or general: the factor of the overall score that it counts in")
    not_informative: str = Field("", description="why it says nothing here, in a sentence")
    clean: float | None
    compromised: float | None

    @property
    def judged(self) -> bool:
        """Does the verdict look at it?"""
        return self.weight > 0 and not self.not_informative and self.aspect != "retained"


class Cell(_Frozen):
    """One metric of one row: mean over seeds and instances; the interval is bootstrapped over identities and given for single
    runs."""

    value: float
    sd: float | None = Field(None, description="standard deviation over runs (seeds, instances), from two on")
    n: int = 1
    low: float | None = None
    high: float | None = None
    gap: float | None = None
    extras: dict[str, float] = Field(default_factory=dict)
    wins: int = Field(0, description="other rows than which this one is significantly nearer to the target")
    ties: int = 0
    losses: int = 0


class Row(_Frozen):
    """One row of the leaderboard: a method with its options and budget, over its seeds."""

    title: str
    kind: Literal["reference", "run", "evaluation", "published"]
    reference: Target | None = Field(None, description="Clean or Compromised: of this comparison, or of a published source")
    source: str = Field("", description="on published rows: who measured, and where it stands")
    rank: int | None = Field(None, description="shared by rows that cannot be told from the best of their tie group")
    tie_group: int | None = Field(None, description="number of the row's tie group, from 1")
    tied: int = Field(1, description="rows that share the rank")
    wins: int = Field(0, description="other rows than which this one is significantly better overall")
    ties: int = 0
    losses: int = 0
    family: str = ""
    summary: str = ""
    package: str = ""
    paper: str | None = None
    oracle: bool = False
    sees: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    bench_seeds: tuple[int, ...] = Field((), description="instances of the benchmark, where there are several in the table")
    runs: int = Field(0, description="runs behind the row")
    status: Status = Field("ok", description="the worst of its runs")
    budget: float = 1.0
    options: dict[str, Any] = Field(default_factory=dict)
    cells: dict[str, Cell] = Field(default_factory=dict)
    verdict: str = ""
    reason: str = ""
    verdicts: dict[str, int] = Field(default_factory=dict, description="verdict -> runs")
    overall: float | None = None
    overall_sd: float | None = None
    parts: dict[str, float] = Field(
        default_factory=dict, description="forgotten, kept, general: the factors of the overall score, means over runs"
    )
    deterministic: bool = Field(False, description="every training seed gave the same weights, bit for bit")
    same_as: tuple[str, ...] = Field(
        (), description="titles of rows that ended at the same weights, and that this one stands for"
    )
    control: bool = Field(False, description="no proposal but a probe of the benchmark: it should not score well")
    seconds: float = 0.0
    samples: dict[str, int] = Field(default_factory=dict)
    captions: dict[str, int] = Field(
        default_factory=dict, description="rows whose captions were read on their own, per role"
    )
    columns: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="metadata columns that were read, per role"
    )
    encoded: dict[str, int] = Field(
        default_factory=dict, description="rows that went through an encoder while it unlearned: image, text"
    )
    trainable_parameters: int = 0
    peak_memory_bytes: int = 0
    weight_change: float | None = None
    recovered: float | None = Field(
        None,
        description="most that an attack on the model alone gets back, of what Compromised gives it; none: not attacked",
    )
    recovered_by: str = Field("", description="that attack")
    attacks: dict[str, float] = Field(default_factory=dict, description="share recovered, by attack")
    attacked_runs: int = 0
    error: str | None = None
    commands: tuple[str, ...] = Field((), description="one for each run")
    command: str = Field("", description="makes all runs of the row again")
    device: str = ""
    records: tuple[str, ...] = Field((), description="ids of the records behind the row, in order of its seeds")

    @property
    def place(self) -> str:
        """The rank as tables show it: "2", "=1" where it is shared, "" for rows without a rank."""
        return "" if self.rank is None else f"={self.rank}" if self.tied > 1 else str(self.rank)


class Comparison(_Frozen):
    """A leaderboard: everything that tables and reports show, and nothing that needs a model."""

    version: int = COMPARISON_VERSION
    benchmark: str
    benchmark_version: str
    benchmark_options: dict[str, Any]
    metrics: tuple[MetricColumn, ...]
    rows: tuple[Row, ...]
    differences: tuple[PairedDifference, ...] = Field((), description="every two of one's own rows, the better one first")
    testing: str = Field("", description="what the tests cover, in words")
    bench_seeds: tuple[int, ...] = Field((), description="instances in the table, where there are several")
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = Field(
        (), description="where published rows come from; rows are marked by their number, from 1"
    )
    thresholds: dict[str, float] = Field(default_factory=dict)
    packages: dict[str, str] = Field(default_factory=dict)

    def label(self, row: Row) -> str:
        """The row's title, with the number of its source where others measured it."""
        return f"{row.title} [{self.sources.index(row.source) + 1}]" if row.kind == "published" else row.title

    def standing_for(self, title: str) -> str:
        """The row that a title is shown as: itself, or the one that ended at the same weights."""
        return next((row.title for row in self.rows if title in row.same_as), title)

    def between(self, row: str, other: str) -> PairedDifference | None:
        """The difference of two rows by their titles, seen from the first; None where they were not compared."""
        row, other = self.standing_for(row), self.standing_for(other)
        for found in self.differences:
            if (found.row, found.other) == (row, other):
                return found
            if (found.row, found.other) == (other, row):
                return turned_round(found)
        return None

    def against(self, other: str) -> dict[str, PairedDifference]:
        """Title -> difference to the row `other`, for all rows that were compared with it."""
        other = self.standing_for(other)
        found = {d.row: d for d in self.differences if d.other == other}
        return {**found, **{d.other: turned_round(d) for d in self.differences if d.row == other}}


TURNED: dict[Outcome, Outcome] = {"better": "worse", "tie": "tie", "worse": "better"}


def turned_round(found: PairedDifference) -> PairedDifference:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    metrics = {
        name: MetricDifference(-m.difference, -m.high, -m.low, m.p, TURNED[m.outcome]) for name, m in found.metrics.items()
    }
    changes = {
        "row": found.other, "other": found.row, "difference": -found.difference, "low": -found.high, "high": -found.low,
        "identity_low": minus(found.identity_high), "identity_high": minus(found.identity_low),
        "outcome": TURNED[found.outcome], "wins": found.losses, "losses": found.wins, "metrics": metrics,
    }  # fmt: skip
    return found.model_copy(update=changes)
