"""Which files of a benchmark, and of the cache, a plugin opens, writes or removes by itself, past what it is handed.

Python tells of every file that is opened and every folder that is listed. What a context reads for a method is its right; a path
that leads from the method's own code to a file of the benchmark leads past the budget, and perhaps to evaluation data or the Clean
model; one that leads from a metric's code there leads past the embeddings that it is to measure. This finds accidents: a library
that is not written in Python may open a file whose name it is told without a trace.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from salmu_core.benchmark import Benchmark
from salmu_core.files.names import some
from salmu_core.files.writing import default_cache

_What = Literal["opened", "written", "removed", "moved"]
#: Event -> which of its arguments is a place, and what becomes of it. An "open" tells by its flags.
_EVENTS: Mapping[str, Sequence[tuple[int, _What]]] = {
    "open": [(0, "opened")],
    "os.listdir": [(0, "opened")],
    "os.scandir": [(0, "opened")],
    "glob.glob": [(0, "opened")],
    "os.link": [(1, "written")],
    "os.symlink": [(1, "written")],
    "os.truncate": [(0, "written")],
    "os.remove": [(0, "removed")],
    "os.rmdir": [(0, "removed")],
    "os.rename": [(0, "moved"), (1, "written")],
    "shutil.rmtree": [(0, "removed")],
}
_WRITING = os.O_WRONLY | os.O_RDWR
#: Folders of the cache whose files are made again where they are missing.
_DERIVED = frozenset({"audits", "digests", "embeddings", "keys", "pixels", "references", "tokens"})
#: Through these a plugin is handed what it may see.
_DOORS = frozenset(
    {
        "salmu_core.evaluation.measure",
        "salmu_core.runner.audit_context",
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
        plugins: top-level modules of those that are watched.
        doors: modules through which they are handed what they may see.
    """

    folders: Collection[str]
    plugins: Collection[str]
    doors: Collection[str] = _DOORS
    found: dict[_What, dict[str, str]] = field(default_factory=lambda: {"opened": {}, "written": {}, "removed": {}})

    def note(self, place: Any, what: _What) -> None:
        """Something happens to a file or folder."""
        if not isinstance(place, str | bytes | os.PathLike):
            return  # a descriptor of what is open already
        path = os.path.abspath(os.fsdecode(place))
        if path.endswith(_CODE):
            return
        for folder in self.folders:
            if (path == folder or path.startswith(folder + os.sep)) and self._by_plugin(sys._getframe(2)):
                name = os.path.relpath(path, folder)
                if what == "moved":
                    if self.found["written"].pop(name, None) is not None:
                        return  # it had written that file before, under another name
                    what = "removed"
                self.found[what][name] = path
                return

    def drop_written(self) -> None:
        """Delete what a plugin put into the cache: later runs would take it for what was computed."""
        for name, path in self.found["written"].items():
            if name.partition(os.sep)[0] in _DERIVED:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _by_plugin(self, frame: FrameType | None) -> bool:
        """Does the call come from a plugin's code, and not through what it was handed?"""
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if module in self.doors:
                return False
            if module.partition(".")[0] in self.plugins:
                return True
            frame = frame.f_back
        return False

    def warnings(self, who: str, why: str) -> list[str]:
        """A sentence for each kind of thing that happened.

        Args:
            why: what it means that files were opened, as a sentence.
        """
        opened, written, removed = ({**self.found[what]} for what in ("opened", "written", "removed"))
        sentences = []
        if opened:
            sentences.append(f"{who} opened files of the benchmark by itself: {some(opened)}. {why}")
        if written:
            sentences.append(f"{who} wrote {some(written)} by itself; files of the cache among them are deleted.")
        if removed:
            sentences.append(f"{who} removed {some(removed)} by itself; files of the cache among them are made again.")
        return sentences


_watching: list[OpenedFiles] = []
_installed: list[bool] = []  # a hook cannot be taken back


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in _EVENTS:
        with contextlib.suppress(Exception):  # what is raised here would end whatever opens the file
            for position, what in _EVENTS[event]:
                writes = event == "open" and bool((arguments[2] or 0) & _WRITING)
                _watching[-1].note(arguments[position], "written" if writes else what)


@contextlib.contextmanager
def opened_files(
    benchmark: Benchmark, plugins: Collection[str], cache: Path | None = None, doors: Collection[str] = ()
) -> Iterator[OpenedFiles]:
    """Watch while a plugin's code runs.

    Args:
        plugins: top-level modules of those that are watched; salmu's own and the benchmark's are not.
        cache: the folder of benchmarks and of what is derived from them; default: the benchmark's.
        doors: modules, beside those of every plugin, through which these are handed what they may see.
    """
    if not _installed:
        sys.addaudithook(_hook)
        _installed.append(True)
    home = type(benchmark).__module__.partition(".")[0]
    folders = _folders(benchmark, benchmark.cache if cache is None else cache)
    watch = OpenedFiles(folders, {*plugins} - {"salmu_core", home}, _DOORS | {*doors})
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)
        watch.drop_written()


def _folders(benchmark: Benchmark, cache: Path) -> list[str]:
    found = [cache, benchmark.cache, default_cache()]
    for value in benchmark.options.model_dump().values():
        if isinstance(value, str | Path) and os.sep in str(value) and Path(value).exists():
            place = Path(value)
            found.append(place if place.is_dir() else place.parent)
    package = Path(inspect.getfile(type(benchmark))).parent
    if not type(benchmark).__module__.startswith("salmu_core.") and (package / "__init__.py").is_file():
        found.append(package)  # an instance may be shipped with it
    return list(dict.fromkeys(path for place in found for path in (os.path.abspath(place), os.path.realpath(place))))
