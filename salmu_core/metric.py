"""The contract of a metric: which views it needs, and a function from those views to a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from salmu_core.data.pairs import View
from salmu_core.options import AnyOptions, Options
from salmu_core.records.schema import Aspect, Target


@dataclass(frozen=True)
class Score:
    """A metric's result on one model.

    Args:
        value: the number that is reported. When `rows` is given it must be the mean of `rows`: intervals are bootstrapped
            from it.
        rows: float array [n], one entry per row that counts, in the split's row order.
        clusters: n labels; rows with one label (an identity, a class) are resampled together. None: rows are independent.
        extras: companion numbers, e.g. {"R@1": 0.1}.
        details: further per-row arrays for the sidecar, e.g. {"rank": int array [n]}.
        chance: value of a model that knows nothing, where it depends on the data (1 / number of classes).
    """

    value: float
    rows: np.ndarray | None = None
    clusters: Sequence[Any] | None = None
    extras: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, np.ndarray] = field(default_factory=dict)
    chance: float | None = None


class NotMeasurable(Exception):
    """Raised by `compute` when the data at hand cannot support the metric; the reason is recorded, nothing fails."""


class Metric(ABC):
    """A number about a model, computed from embeddings alone.

    A metric never sees a model or an image: it names views, and the evaluation embeds every image and caption that any
    metric needs exactly once. Views whose split or side a benchmark lacks make the metric "not measured" there.
    """

    name: ClassVar[str]  # its column in tables
    summary: ClassVar[str]  # one sentence for the leaderboard's legend
    paper: ClassVar[str | None] = None  # address of the paper
    target: ClassVar[Target]  # whose value is the goal
    aspect: ClassVar[Aspect]  # what it looks at: its part of the overall score, and its section in reports
    primary: ClassVar[bool] = False  # the verdict rests on the primary metric of each aspect
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)  # least and largest value; one outside is an error
    chance: ClassVar[float] = 0.0  # value of a model that knows nothing
    tolerance: ClassVar[float | None] = (
        None  # of a general metric: the fall that is catastrophic, where it is not 3 % of the level
    )
    scored: ClassVar[bool] = True  # may count in the overall score; others are shown beside it
    #: Convention -> options that it sets: "official" for a benchmark's official evaluator, "official-fp16" for what it does besides
    #: where its encoders compute in half precision. Options that the user sets win.
    conventions: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    Options: ClassVar[type[Options]] = Options  # a subclass of Options, with a default for every option
    origin: str = ""  # package and version, set by whoever makes it from the registry

    def __init__(self, options: AnyOptions | None = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    @abstractmethod
    def needs(self) -> Mapping[str, View]:
        """Argument name of `compute` -> the view to pass there."""

    @abstractmethod
    def compute(self, *args: Any, **views: Any) -> Score:
        """The score of one model. Subclasses name the views of `needs` as parameters, each an `Embedded`.

        Deterministic: anything drawn comes from a generator made here from an option.
        """
