"""A benchmark carved out of another one's forget and retain splits: what options may be chosen on.

Nothing here reads an evaluation split or the Clean model of the other benchmark: for its zero-shot task stands what it offers as a
stand-in, or else its retain split. Some identities and some associations of its
forget split are set aside and play the holdouts, and a part of its retain split plays the rest; a method then forgets what is
left. The Compromised model has memorised all of them alike, as it has the real holdouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from salmu_core.benchmark import Benchmark, Budget, Counted, Report, SplitInfo
from salmu_core.data.pairs import Embedded, View
from salmu_core.data.splits import Split, set_aside
from salmu_core.errors import BadData, SalmuError
from salmu_core.evaluation.mismatch import mismatch
from salmu_core.evaluation.retrieval import better_captions
from salmu_core.metric import Metric, Score
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.options import AnyOptions, Field, Options
from salmu_core.records.schema import Aspect, Target
from salmu_core.seeding import numpy_generator

HELD_OUT = 0.25  # share of identities that play holdout_identity
PARTLY = 0.5  # share of the others that keep half of their associations


@dataclass(frozen=True)
class Carving:
    """Row numbers of the two splits by the part they play."""

    forget: Sequence[int]
    forget_identity: Sequence[int]
    holdout_identity: Sequence[int]
    holdout_association: Sequence[int]
    retain: Sequence[int]
    retain_validation: Sequence[int]
    retain_joint: Sequence[int]
    retain_disjoint: Sequence[int]


def carve(identities: Sequence[Any], fields: Sequence[Any], retain_identities: Sequence[Any], seed: int) -> Carving:
    """Share out rows, whole associations together, whole identities where they are held out.

    Args:
        identities, fields: identity_id and data_field of every forget row.
        retain_identities: identity_id of every retain row; None where nobody known is shown.
        seed: what is drawn from.

    Raises:
        BadData: there are fewer than three identities to share out.
    """
    people = sorted({str(identity) for identity in identities})
    if len(people) < 3:
        raise BadData(
            f"The forget split shows {len(people)} identities; to set some aside for validation it takes three.",
            "Choose the options by hand.",
        )
    order = [people[i] for i in numpy_generator(seed, "validation", "identities").permutation(len(people))]
    held = set(order[: max(1, round(HELD_OUT * len(people)))])
    rest = [person for person in order if person not in held]
    known = dict.fromkeys((str(i), str(f)) for i, f in zip(identities, fields, strict=True))
    kept: set[tuple[str, str]] = set()
    partly = rest[: round(PARTLY * len(rest))]
    for person in partly:
        own = sorted(field for identity, field in known if identity == person)
        shuffled = numpy_generator(seed, "validation", "fields", person).permutation(len(own))
        kept |= {(person, own[i]) for i in shuffled[: len(own) // 2]}
    parts: dict[str, list[int]] = {
        name: [] for name in ("forget", "forget_identity", "holdout_identity", "holdout_association")
    }
    whole = set(rest) - {person for person, _ in kept}
    for row, key in enumerate((str(i), str(f)) for i, f in zip(identities, fields, strict=True)):
        if key[0] in held:
            parts["holdout_identity"].append(row)
        elif key in kept:
            parts["holdout_association"].append(row)
        else:
            parts["forget"].append(row)
            if key[0] in whole:
                parts["forget_identity"].append(row)
    # Ordinary portraits of identities that are held out would tell a method about them.
    usable = [row for row, identity in enumerate(retain_identities) if identity is None or str(identity) not in held]
    joint = [row for row in usable if retain_identities[row] is not None]
    others = [row for row in usable if retain_identities[row] is None]
    aside = [set_aside(rows, seed, "validation", "retain", name) for name, rows in (("joint", joint), ("others", others))]
    hidden = {row for rows in aside for row in rows}
    return Carving(
        **parts,
        retain=[row for row in usable if row not in hidden],
        retain_validation=sorted(hidden),
        retain_joint=aside[0],
        retain_disjoint=aside[1],
    )


class RetainAccuracy(Metric):
    """What a model knows of ordinary data, where a benchmark has nothing that stands for its zero-shot task, which is evaluation data.

    Zero-shot classification finds a picture's class among so many. Here the picture's own caption is to be found among as many: the
    expectation over all ways to draw the others, so nothing is drawn. It falls as zero-shot accuracy does, where a rank among all
    captions falls several times as fast (docs/tune.md has numbers).
    """

    name = "RetainAcc"
    summary = "Chance that a retain picture the method did not see is nearest to its own caption among 100 captions of such pictures."
    target: ClassVar[Target] = "compromised"
    aspect: ClassVar[Aspect] = "general"
    primary = True
    bounds = (0.0, 1.0)
    tolerance: ClassVar[float | None] = 0.05
    split: ClassVar[str] = "retain_validation"
    candidates: ClassVar[int] = 100

    def needs(self) -> Mapping[str, View]:
        return {"image": View(self.split, "image"), "text": View(self.split, "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        """Equal captions are one candidate."""
        better, count = better_captions(image, text, self.split)
        shown = min(self.candidates, count)
        rows = chance_to_be_first(better, count, shown)
        return Score(float(rows.mean()), rows, chance=1.0 / shown)


def chance_to_be_first(better: np.ndarray, count: int, shown: int) -> np.ndarray:
    """The chance that none of those that are better is among the `shown - 1` that are drawn beside the own one.

    Args:
        better: int [n], how many of the other `count - 1` are better.
        count: all that there are, the own one included.
        shown: drawn without replacement, the own one included.

    Returns:
        float [n], (count - 1 - better choose shown - 1) / (count - 1 choose shown - 1).

    Example:
        >>> import numpy as np
        >>> chance_to_be_first(np.array([0, 1, 3]), count=4, shown=2).round(4).tolist()
        [1.0, 0.6667, 0.0]
    """
    left = (count - 1 - np.arange(count))[:, None] - np.arange(shown - 1)
    chances = np.prod(np.maximum(left, 0) / (count - 1 - np.arange(shown - 1)), axis=1)
    found: np.ndarray = chances[better]
    return found


class ValidationOptions(Options):
    """Options of the benchmark `validation`."""

    base: str = Field("mini", description="the benchmark whose forget and retain splits are carved up")
    base_options: dict[str, Any] = Field(default_factory=dict, description="its options")
    seed: int = Field(0, ge=0, description="what is set aside is drawn from it")
    mismatched: bool = Field(
        False, description="sensitive pairs get the image of another identity: the values of associations never learned"
    )
    whole: bool = Field(
        False,
        description="nothing is set aside: how a setting does in a run, measured by what stands for the zero-shot task alone",
    )


class Validation(Benchmark):
    """Forget and retain of another benchmark, with parts of them set aside as holdouts."""

    name = "validation"
    version = "4"
    summary = "Carved out of another benchmark's forget and retain splits; options are chosen on it (salmu tune)."
    Options = ValidationOptions

    def __init__(self, options: AnyOptions | None = None, cache: Path | None = None) -> None:
        super().__init__(options, cache)
        from salmu_core.plugins.loading import load_plugins
        from salmu_core.spec.resolve import make_benchmark

        if self.options.base == self.name:
            raise SalmuError("The benchmark validation cannot be carved out of itself.")
        if self.options.whole and self.options.mismatched:
            raise SalmuError("A validation benchmark is whole or mismatched, not both.", "Leave one of them out.")
        self.base = make_benchmark(self.options.base, self.options.base_options, load_plugins(), cache)
        self._stand_ins: Mapping[str, Split] = self.base.stand_ins()
        if self.base.scoring is not None:
            # The base's own metrics count, as far as they can be measured here. Nothing that is installed beside them does.
            own = {metric.name: Counted(metric.target, metric.aspect) for metric in self.metrics()}
            self.scoring = {**self.base.scoring, **own}

    def ready(self) -> bool:
        return self.base.ready()

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        self.base.build(report, rebuild=rebuild)

    def identity(self) -> Mapping[str, Any]:
        own: dict[str, Any] = self.options.model_dump(mode="json")
        if not self.options.whole:
            del own["whole"]  # trials that were made before it existed are the same trials
        return {**own, "base_options": dict(self.base.identity()), "base_version": self.base.version}

    def splits(self) -> Mapping[str, SplitInfo]:
        text = {
            "forget": ("forget", "associations to forget"),
            "retain": ("retain", "ordinary pairs"),
            "forget_identity": ("evaluation", "forget rows of identities that are forgotten whole"),
            "holdout_identity": ("evaluation", "identities set aside"),
            "holdout_association": ("evaluation", "associations set aside of identities in forget"),
            "retain_joint": ("evaluation", "ordinary pairs of known identities, set aside"),
            "retain_disjoint": ("evaluation", "other ordinary pairs, set aside"),
            "retain_validation": ("evaluation", "all ordinary pairs that are set aside"),
        }
        if self.options.whole:
            text = {"forget": text["forget"], "retain": text["retain"]}
        carved = {name: SplitInfo(role, summary) for name, (role, summary) in text.items()}  # type: ignore[arg-type]
        described = self.base.splits()
        return {**carved, **{name: replace(described[name], summary="its stand-in") for name in self._stand_ins}}

    @cached_property
    def _carving(self) -> Carving:
        forget, retain = self.base.split_for("forget").columns, self.base.split_for("retain").columns
        return carve(forget["identity_id"], forget["data_field"], retain["identity_id"], self.options.seed)

    def load_split(self, name: str) -> Split:
        if name in self._stand_ins:
            return self._stand_ins[name]
        if self.options.whole:
            return self.base.split_for("forget" if name == "forget" else "retain")
        forget, retain = self.base.split_for("forget"), self.base.split_for("retain")
        parts = self._carving
        source = retain if name.startswith("retain") else forget
        split = source.take(getattr(parts, name), name)
        if self.options.mismatched and source is forget:
            rows, images = mismatch(
                split.columns["identity_id"],
                split.columns["data_field"],
                pictures=split.image_keys,
                captions=split.texts or (),
            )
            if not rows:
                raise BadData(
                    f"No two identities in {name} have the same field and share neither picture nor caption, so none can be"
                    " mismatched."
                )
            shown = split.take(rows)
            split = Split(name, split.take(images).images, shown.texts, shown.columns)
        return split

    def load_model(self, which: Target) -> DualEncoder:
        if which == "clean":
            raise SalmuError(
                "The benchmark validation has no Clean model: options are chosen without it.",
                "Its place is taken by the Compromised model on mismatched pairs (--bench-set mismatched=true).",
            )
        return self.base.load_model(which)

    def budget(self) -> Budget:
        """As many samples as the other benchmark allows, so that a method takes as many steps as it will there.

        What is lost grows with the steps: an equal number of passes over fewer rows would be fewer of them, and call options
        harmless that are not (docs/tune.md).
        """
        return self.base.budget()

    def pretraining_rate(self) -> float | None:
        return self.base.pretraining_rate()

    def fingerprint(self) -> str:
        own = f"validation-{self.version}-{self.options.seed}-{self.options.mismatched}"
        return f"{self.base.fingerprint()}-{own}" + ("-whole" if self.options.whole else "")

    def metrics(self) -> Sequence[Metric]:
        return () if self._stand_ins or self.options.whole else (RetainAccuracy(),)

    @property
    def tells_of_runs(self) -> bool:
        """Can what a run does to general knowledge be measured where nothing is set aside?"""
        return bool(self._stand_ins)
