"""A results folder that may still grow, as pages: the report of what is there, or a word on what is awaited."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadRecord, DamagedFile
from salmu_core.files.seals import read_json
from salmu_core.records.store import RECORD_FILE, load_records
from salmu_core.report.report import Live, lying_beside, render_html, render_waiting

SPEC_FILE = "spec.json"  # lies in a run directory from the start; the record follows when the run ends


class LiveFolder:
    """Everything below one folder. Only reads. Used from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self._made: dict[str, tuple[str, str]] = {}

    def version(self) -> str:
        """A hash that changes when a run starts or ends, or a record is replaced or removed."""
        digest = hashlib.sha256()
        for name in (RECORD_FILE, SPEC_FILE):
            for file in self._found(name):
                try:
                    state = file.stat()
                except OSError:  # removed meanwhile
                    continue
                # The inode too: a file that is replaced within one tick of the clock, or by a clock that went back, has another one.
                digest.update(f"{file}\x1f{state.st_mtime_ns}\x1f{state.st_size}\x1f{state.st_ino}\x1e".encode())
        return digest.hexdigest()[:16]

    def page(self) -> str:
        """The report, or a page that says what is awaited. Made again only when something changed."""
        return self._once("page", lambda version: self._page(Live(version, self._going())))

    def leaderboard(self) -> str:
        """The comparison as JSON.

        Raises:
            BadRecord: no run has ended yet, or the records cannot share a table.
        """

        def made(version: str) -> str:
            loaded = load_records(self.folder)
            return compare_records(loaded.records, loaded.folders).model_dump_json(indent=2)

        return self._once("leaderboard", made)

    def _once(self, what: str, make: Callable[[str], str]) -> str:
        # Taken before reading: what changes while the page is made is then noticed by the page itself.
        version = self.version()
        with self._lock:
            known = self._made.get(what)
            if known is None or known[0] != version:
                known = self._made[what] = (version, make(version))
        return known[1]

    def _page(self, live: Live) -> str:
        title = self.folder.resolve().name
        loaded = load_records(self.folder)
        if not loaded.records:
            message = "No run has ended yet." if live.going else f"There is no record below '{self.folder}' yet."
            return render_waiting(title, message, live, loaded.problems)
        try:
            comparison = compare_records(loaded.records, loaded.folders)
        except BadRecord as problem:
            return render_waiting(title, str(problem), live, loaded.problems)
        evidence = lying_beside(comparison, zip(loaded.records, loaded.files, strict=True))
        return render_html(comparison, evidence=evidence, live=live, problems=loaded.problems)

    def _going(self) -> list[str]:
        """Titles of runs that have begun and left no record: they go on, or were cut."""
        titles = []
        for file in self._found(SPEC_FILE):
            if file.with_name(RECORD_FILE).is_file():
                continue
            try:
                titles.append(str(read_json(file)["title"]))
            except (OSError, DamagedFile, KeyError, TypeError):
                continue
        return titles

    def _found(self, name: str) -> list[Path]:
        """Files of that name, in order. A folder that vanishes meanwhile counts as empty, which `rglob` does not do."""
        return sorted(Path(place) / name for place, _, files in os.walk(self.folder) if name in files)
