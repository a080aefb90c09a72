"""The contract of a data layout: how a benchmark's data and models lie in a folder that other people's tools read too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from salmu_core.benchmark import Benchmark, Report
from salmu_core.options import AnyOptions, Options


@dataclass(frozen=True)
class Finding:
    """Something that a check of a folder found.

    Args:
        severity: "error" makes the folder unusable; "warning" is for a person to decide on; "fact" only tells.
        message: what, with split, row and file where there is one.
        hint: what to do about it.
        rule: a few words for the kind of finding, by which alike ones are counted.
    """

    severity: Literal["error", "warning", "fact"]
    message: str
    hint: str | None = None
    rule: str = ""


class Layout(ABC):
    """A way to lay out a benchmark in a folder."""

    name: ClassVar[str]  # what people type
    summary: ClassVar[str]  # one sentence for listings
    Options: ClassVar[type[Options]] = Options  # a layout takes none; plugins of every kind have the class

    def __init__(self, options: AnyOptions | None = None) -> None:
        self.options = options if options is not None else self.Options()

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Does that folder look like this layout? Cheap: names of files only."""

    @abstractmethod
    def check(self, folder: Path, report: Report | None = None, *, decode: bool = True) -> Sequence[Finding]:
        """Read everything in the folder as a run would, and tell all that is wrong at once. Raises nothing for bad data.

        Args:
            decode: decode every picture too, which takes longest.
        """

    @abstractmethod
    def export(self, benchmark: Benchmark, folder: Path, report: Report | None = None) -> Sequence[Path]:
        """Write a built benchmark's data and both models into an empty folder; returns what was written.

        A folder that is there when this ends or dies is whole.

        Raises:
            OutputError: the folder holds something already, or cannot be written.
            BadData: the benchmark lacks something that the layout needs.
        """
