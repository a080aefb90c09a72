"""How long each command takes: wall and CPU seconds on one thread, in a cache that begins empty, commands one after another.

    uv run python benchmarks/perf/command_times.py [--write] [--only compare]

`--write` puts the table into `docs/command-tour.md`. CPU seconds hardly depend on what else a machine does, wall seconds do. Commands
that need a model or data of one's own (`forget`, `find`, `push`, `data pull`) are not here: their time is that of the data.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import processor

from salmu_core.files.writing import write_text

PAGE = Path(__file__).parents[2] / "docs" / "command-tour.md"
START, END = "<!-- times: benchmarks/perf/command_times.py -->\n", "<!-- end of times -->"
RUN = "results/mini/runs/delete"
#: What is run, in this order: later ones read what earlier ones made.
COMMANDS = (
    "list-methods",
    "list-methods",
    "describe delete",
    "doctor",
    "run delete --dry-run",
    f"run delete --out {RUN}",
    f"evaluate {RUN}",
    f"audit {RUN} --only value-probe-face",
    f"inspect {RUN} --list",
    f"certificate {RUN}",
    f"replay {RUN}",
    "report results",
    f"submit {RUN}",
    "board submissions --site public",
    "compare delete slug caption-null-space --workers 1",
    "compare delete slug caption-null-space --workers 1",
    "data export mini exported",
    "data check exported",
    "new-plugin zero-cosine",
    "completion bash",
)


def timed(command: str, folder: Path, environment: dict[str, str]) -> tuple[int, float, float]:
    """Exit code, wall seconds and CPU seconds."""
    salmu = shutil.which("salmu", path=os.fspath(Path(sys.executable).parent)) or "salmu"
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [salmu, *command.split()]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        print(done.stdout[-500:], done.stderr[-500:])
    return done.returncode, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run, print, and write where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/command-tour.md")
    parser.add_argument("--only", help="the commands that begin so")
    given = parser.parse_args()
    lines, seen = ["| command | CPU seconds | seconds |", "|---|---|---|"], set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {**os.environ, "SALMU_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        for command in COMMANDS:
            if given.only and not command.startswith(given.only):
                continue
            code, wall, worked = timed(command, folder, environment)
            again = ", again" if command in seen else ""
            seen.add(command)
            failed = "" if code == 0 else f" (exit code {code})"
            lines.append(f"| `salmu {command}`{again}{failed} | {worked:.1f} | {wall:.1f} |")
            print(lines[-1], flush=True)
    if given.write:
        before, rest = PAGE.read_text(encoding="utf-8").split(START)
        made = "`uv run python benchmarks/perf/command_times.py --write`"
        about = f"One thread of {processor()}, Python {platform.python_version()}, a cache that begins empty; {made}:"
        write_text(PAGE, before + START + "\n".join([about, "", *lines, ""]) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
