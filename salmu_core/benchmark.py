"""The contract of a benchmark: splits, a Compromised and a Clean model, and how much data a method may see."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from salmu_core.data.downloads import Download as Download
from salmu_core.data.downloads import Terms as Terms
from salmu_core.data.pairs import Role, Side
from salmu_core.data.splits import Split
from salmu_core.errors import BadData, BadOptions, EvaluationLocked, UnknownName
from salmu_core.options import AnyOptions, Options, check_word
from salmu_core.records.schema import Aspect, Target

if TYPE_CHECKING:
    import numpy as np

    from salmu_core.metric import Metric
    from salmu_core.models.dual_encoder import DualEncoder
    from salmu_core.records.schema import RunRecord

_evaluation_locked: ContextVar[bool] = ContextVar("salmu_evaluation_locked", default=False)


MOST_SAMPLES = 1e12  # of a role: a thousand GPUs take years for as many


@dataclass(frozen=True)
class Budget:
    """Samples of each role that a method may be handed at 1x. A row seen twice counts twice.

    Args:
        forget: samples of the forget split.
        retain: samples of the retain split.
    """

    forget: int
    retain: int

    def times(self, factor: float) -> dict[str, int]:
        """Allowed samples per role at `factor` x.

        Raises:
            BadOptions: more than any run could see.
        """
        if (most := max(self.forget, self.retain) * factor) > MOST_SAMPLES:
            raise BadOptions(
                f"A budget of {factor:g}x is {most:.0e} samples, which no run comes to the end of.", "Choose a smaller one."
            )
        return {"forget": int(self.forget * factor), "retain": int(self.retain * factor)}


@dataclass(frozen=True)
class SplitInfo:
    """What is known of a split before it is read: enough to plan an evaluation.

    Args:
        role: who may see it: methods see the one split with role "forget" and the one with role "retain".
        summary: what its rows are, in a few words.
        sides: what its rows have: pictures, captions or both.
    """

    role: Literal["forget", "retain", "evaluation"]
    summary: str
    sides: tuple[Side, ...] = ("image", "text")
    #: Columns that text templates may name; None: not known before the split is read. A metric whose template names another
    #: one is not measured.
    columns: frozenset[str] | None = None

    def __post_init__(self) -> None:
        check_word("A split", "role", self.role, ("forget", "retain", "evaluation"))
        for side in self.sides:
            check_word("A split", "side", side, get_args(Side))


@dataclass(frozen=True)
class BuildStep:
    """Progress of a build.

    Args:
        stage: what is done, in words.
        done: steps that are done.
        total: steps in all.
        note: values to show beside them.
    """

    stage: str
    done: int
    total: int
    note: str = ""


Report = Callable[[BuildStep], None]


@dataclass(frozen=True)
class PublishedRow:
    """Numbers that others measured, shown beside a benchmark's own rows and never ranked.

    Args:
        title: what was measured, e.g. "CLIPErase 5x".
        scores: metric name -> value.
        extras: metric name -> companions, e.g. {"RetFail": {"R@1": 0.1016}}.
        source: where the numbers stand: who measured, and how. Rows of one source are measured against its own references.
        note: what a reader must know to use them.
        reference: this row is the source's Clean or Compromised.
    """

    title: str
    scores: Mapping[str, float]
    extras: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    source: str = ""
    note: str = ""
    reference: Target | None = None


@dataclass(frozen=True)
class Counted:
    """How a metric counts on a benchmark. What the metric says of itself must be the same: a package that is installed later cannot
    change what a benchmark's score means.

    Args:
        target: whose value is the goal.
        aspect: what it looks at, which decides its part of the overall score.
    """

    target: Target
    aspect: Aspect

    def __post_init__(self) -> None:
        check_word("A metric that a benchmark counts", "target", self.target, get_args(Target))
        check_word("A metric that a benchmark counts", "aspect", self.aspect, get_args(Aspect))


@dataclass(frozen=True)
class Agreement:
    """One thing that was made again, beside the one that was given out.

    Args:
        what: e.g. "data" or "GenKnow of Clean".
        given: as it was given out, in words or a number.
        made: as it came out here.
        agrees: within what is allowed.
        allowed: how far they may be apart, in words.
    """

    what: str
    given: str
    made: str
    agrees: bool
    allowed: str = "equal"


@contextlib.contextmanager
def evaluation_locked() -> Iterator[None]:
    """While a method runs, evaluation splits cannot be loaded through any benchmark object."""
    token = _evaluation_locked.set(True)
    try:
        yield
    finally:
        _evaluation_locked.reset(token)


class Benchmark(ABC):
    """A benchmark instance: made from its options and a folder for what it caches."""

    name: ClassVar[str]  # what people type after --benchmark
    version: ClassVar[str]  # results of different versions never share a table
    summary: ClassVar[str]  # one sentence for listings
    paper: ClassVar[str | None] = None  # address of the paper
    #: Rows belong to a user: commands that only look at them keep nothing derived from them in the user's cache.
    private: ClassVar[bool] = False
    #: Commands mean it where no benchmark is named. One installed benchmark declares that.
    standard: ClassVar[bool] = False
    Options: ClassVar[type[Options]] = Options  # a subclass of Options; a seed, where there is one, is called `seed`
    #: The metrics that count in the overall score and the verdict, by name; another choice is another `version`. Metrics that are
    #: not named are shown and count nothing unless a comparison asks for them. None: every metric that is installed counts.
    scoring: ClassVar[Mapping[str, Counted] | None] = None
    #: May reports show pictures, captions and names of this data? Only where nobody in it is a real person: results are passed on.
    shows_rows: ClassVar[bool] = False

    def __init__(self, options: AnyOptions | None = None, cache: Path | None = None) -> None:
        from salmu_core.files.writing import default_cache

        self.options: Any = options if options is not None else self.Options()
        self.cache = cache if cache is not None else default_cache()

    @abstractmethod
    def ready(self) -> bool:
        """Is everything that `load_split` and `load_model` need on this machine?"""

    @abstractmethod
    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        """Generate, train or fetch whatever is missing. Idempotent; a killed build continues or starts over cleanly."""

    def pull(self, report: Report | None = None) -> None:
        """Bring everything here without making what others have made already, where they have. Default: as `build`."""
        self.build(report)

    def choose_source(self, source: str) -> None:
        """Fetch from another place than the benchmark's own. Called before `downloads`, `terms` and `pull`.

        Args:
            source: as the user gave it, e.g. OWNER/NAME@COMMIT of the hub.

        Raises:
            BadOptions: the benchmark is fetched from one place alone, or from none; or `source` is no place.
        """
        raise BadOptions(f"{self.name} cannot be fetched from '{source}': it knows no other source.", "Leave out --from.")

    def from_scratch(self, report: Report | None = None) -> Sequence[Agreement]:
        """Make again, in a temporary place, what comes with the package ready-made, and compare the two. What is there stays as it is.

        Raises:
            BadOptions: these options have nothing ready-made.
        """
        raise BadOptions(
            f"Nothing of {self.name} with these options comes ready-made, so there is nothing to compare with.",
            "Leave out --from-scratch.",
        )

    @abstractmethod
    def splits(self) -> Mapping[str, SplitInfo]:
        """Every split by name. Needs no built data."""

    @abstractmethod
    def load_split(self, name: str) -> Split:
        """Read one split. Called through `split`, which caches and guards it."""

    @abstractmethod
    def load_model(self, which: Target) -> DualEncoder:
        """The Compromised or the Clean model, freshly loaded on the CPU in fp32."""

    @abstractmethod
    def budget(self) -> Budget:
        """Samples a method may see at 1x."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the data's content; equal hashes mean equal rows."""

    def identity(self) -> Mapping[str, Any]:
        """What tells this instance's results from those of another; part of every run's identity, as JSON.

        All options, unless some of them only say where things lie: those are left out, and what lies there is put in by its
        content. Then a moved folder gives the same runs, and changed data at the same place gives others. Called before
        the benchmark is built, so it must not need the data, and must not change when the benchmark is built.
        """
        identity: Mapping[str, Any] = self.options.model_dump(mode="json")
        return identity

    def downloads(self) -> Sequence[Download]:
        """What `build` would fetch, so that sizes can be announced first. Most benchmarks fetch nothing."""
        return ()

    def reference(self, which: Target) -> tuple[Benchmark, Target]:
        """On whose rows, and with which of its models, the reference row `which` is measured: on this benchmark's own.

        One that has no Clean model may name, for "clean", a twin of itself whose pairs nobody ever learned, and the model that
        methods start from. The row then shows what an association looks like that was never there.
        """
        return self, which

    def hub_model(self, which: Target) -> str | None:
        """Where on the hub a model comes from, OWNER/NAME or OWNER/NAME@REVISION, for cards; None: nowhere. Needs no built data."""
        return None

    def terms(self) -> Sequence[Terms]:
        """Conditions of others that come with this data and these models. Needs no built data. `data pull` tells them before anything
        is fetched; cards and certificates of models that were made from these repeat them."""
        return ()

    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Method name -> options that suit this benchmark; used unless a run asks for others. Needs no built data."""
        return {}

    def presets_for(self, budget: float) -> Mapping[str, Mapping[str, Any]]:
        """`presets` for runs at `budget` times the benchmark's budget. The same for every budget, unless a benchmark overrides it."""
        return self.presets()

    def pretraining_rate(self) -> float | None:
        """The largest learning rate that the models were trained at, where it is known. `salmu tune` tries no larger `lr`."""
        return None

    def stand_ins(self) -> Mapping[str, Split]:
        """Evaluation split -> fresh data of its kind, and none of its own, on which options may be chosen (`salmu tune`)."""
        return {}

    def metrics(self) -> Sequence[Metric]:
        """Metrics of the benchmark's own, measured beside the installed ones."""
        return ()

    def published(self) -> Sequence[PublishedRow]:
        """Results that others published on this very benchmark. Needs no built data."""
        return ()

    def result_files(self, record: RunRecord, rows: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        """Further JSON files that an evaluation leaves beside its record, for readers of another format.

        Args:
            record: the finished record.
            rows: per-row arrays by "metric/what", as in the sidecar.

        Returns:
            File name -> JSON content.
        """
        return {}

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            UnknownName: the benchmark has no such split.
            EvaluationLocked: a method is running and the split is not one that it may see.
        """
        info = self.splits().get(name)
        if info is None:
            raise UnknownName(f"split of {self.name}", name, self.splits())
        if _evaluation_locked.get() and info.role == "evaluation":
            raise EvaluationLocked(
                f"The split '{name}' is evaluation data and cannot be read while a method runs.",
                "Methods see the forget and retain splits through their context.",
            )
        cache: dict[str, Split] = self.__dict__.setdefault("_loaded_splits", {})
        if name not in cache:
            cache[name] = self.load_split(name).frozen()
        return cache[name]

    def split_for(self, role: Role) -> Split:
        """The split that methods see in the given role.

        Raises:
            BadData: there is none, e.g. no retain pairs were given.
        """
        name = next((name for name, info in self.splits().items() if info.role == role), None)
        if name is None:
            raise BadData(f"{self.name} has no {role} pairs here.", f"Give some, or choose a method that sees no {role}.")
        return self.split(name)
