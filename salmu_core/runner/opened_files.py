"""Which files of a benchmark a method opens by itself, past its context.

Python tells of every file that is opened and every folder that is listed. What the context reads for the method is its right; a path
that leads from the method's own code to a file of the benchmark leads past the budget, and perhaps to evaluation data or the Clean
model. This finds accidents: a library that is not written in Python may open a file whose name it is told without a trace.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from salmu_core.benchmark import Benchmark
from salmu_core.files.writing import default_cache

_EVENTS = frozenset({"open", "os.listdir", "os.scandir", "glob.glob", "os.rename"})
_WRITING = os.O_WRONLY | os.O_RDWR
#: Folders of the cache whose files are made again where they are missing.
_DERIVED = frozenset({"digests", "embeddings", "keys", "pixels", "tokens"})
#: Through these a method is handed what it may see.
_DOORS = frozenset(
    {
        "salmu_core.data.pairs",
        "salmu_core.data.cache",
        "salmu_core.data.pixel_file",
        "salmu_core.data.pixels",
        "salmu_core.runner.checkpoints",
        "salmu_core.runner.unlearning",
    }
)
_CODE = (".py", ".pyc", ".so", ".pyd")


@dataclass
class OpenedFiles:
    """What was opened while this was watching.

    Args:
        folders: where the benchmark's files are.
        methods: top-level modules of methods.
    """

    folders: Collection[str]
    methods: Collection[str]
    names: dict[str, None] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)

    def note(self, place: Any, writes: bool) -> None:
        """A file or folder is opened, or a file is moved to this place."""
        if not isinstance(place, str | bytes | os.PathLike):
            return  # a descriptor of what is open already
        path = os.path.abspath(os.fsdecode(place))
        if path.endswith(_CODE):
            return
        for folder in self.folders:
            if (path == folder or path.startswith(folder + os.sep)) and self._by_method(sys._getframe(2)):
                name = os.path.relpath(path, folder)
                self.names[name] = None
                if writes:
                    self.written[name] = path
                return

    def drop_written(self) -> None:
        """Delete what a method put into the cache: later runs would take it for what was computed."""
        for name, path in self.written.items():
            if name.partition(os.sep)[0] in _DERIVED:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _by_method(self, frame: FrameType | None) -> bool:
        """Does the call come from a method's code, and not through its context?"""
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if module in _DOORS:
                return False
            if module.partition(".")[0] in self.methods:
                return True
            frame = frame.f_back
        return False

    def warnings(self, who: str) -> list[str]:
        """A sentence, where there is something to say."""
        if not self.names:
            return []
        shown = list(self.names)
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        return [
            f"{who} opened files of the benchmark by itself: {', '.join(shown[:3])}{more}. What it saw there is not counted, and may"
            " be evaluation data or the Clean model."
            + (
                f" It wrote {', '.join(list(self.written)[:3])}; files of the cache among them are deleted."
                if self.written
                else ""
            )
        ]


_watching: list[OpenedFiles] = []
_installed: list[bool] = []  # a hook cannot be taken back


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _EVENTS:
        with contextlib.suppress(Exception):  # what is raised here would end whatever opens the file
            if event == "os.rename":
                _watching[-1].note(arguments[1], True)
            else:
                _watching[-1].note(arguments[0], event == "open" and bool((arguments[2] or 0) & _WRITING))


@contextlib.contextmanager
def opened_files(benchmark: Benchmark, cache: Path, methods: Collection[str]) -> Iterator[OpenedFiles]:
    """Watch while a method runs.

    Args:
        cache: the folder of benchmarks and of what is derived from them.
        methods: top-level modules of methods.
    """
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    home = type(benchmark).__module__.partition(".")[0]
    watch = OpenedFiles(_folders(benchmark, cache), {*methods} - {"salmu_core", home})
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)
        watch.drop_written()


def _folders(benchmark: Benchmark, cache: Path) -> list[str]:
    found = [cache, default_cache()]
    for value in benchmark.options.model_dump().values():
        if isinstance(value, str | Path) and os.sep in str(value) and Path(value).exists():
            place = Path(value)
            found.append(place if place.is_dir() else place.parent)
    package = Path(inspect.getfile(type(benchmark))).parent
    if not type(benchmark).__module__.startswith("salmu_core.") and (package / "__init__.py").is_file():
        found.append(package)  # an instance may be shipped with it
    return list(dict.fromkeys(path for place in found for path in (os.path.abspath(place), os.path.realpath(place))))
