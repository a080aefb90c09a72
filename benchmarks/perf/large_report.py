"""What `salmu report` takes of a large results folder: synthetic records with rows by identity, reported in a process of its own.

    uv run python benchmarks/perf/large_report.py [--records 500] [--rows 200] [--exhibits] [--keep FOLDER]

Records are as large as those of mini: eleven metrics, as many rows and identities of each. Some rows of the leaderboard have more
seeds than others. Printed: seconds and CPU seconds of the command, its largest resident memory, sizes of what it wrote.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

import numpy as np

from records import record
from salmu_core.files.writing import write_tensors
from salmu_core.records.report_data import EXHIBITS_FILE, write_exhibit
from salmu_core.records.schema import RunRecord, ScoreRecord
from salmu_core.records.store import write_record
from showings import make_exhibits

#: metric -> aspect, Clean, Compromised, rows, identities, place of its first identity: as in mini.
METRICS: dict[str, tuple[Any, float, float, int, int, int]] = {
    "RetFail": ("forgetting", 0.01, 0.5, 1170, 54, 0), "AssocStr": ("forgetting", 0.14, 0.4, 1170, 54, 0),
    "CoreAssoc": ("forgetting", 0.1, 0.5, 1170, 54, 0), "PrivPref": ("forgetting", 0.5, 0.9, 1170, 54, 0),
    "IdZSC": ("forgetting", 0.03, 0.8, 810, 30, 0), "ACS": ("forgetting", 0.5, 0.9, 702, 53, 0),
    "GenKnow": ("general", 0.63, 0.64, 4400, 100, 100), "InterIdSim": ("holdout", 0.1, 0.4, 486, 18, 54),
    "IntraIdSim": ("holdout", 0.1, 0.4, 288, 24, 72), "VisIdInt": ("retained", 0.6, 0.6, 432, 54, 0),
    "FragSim": ("retained", 0.5, 0.5, 200, 200, 200),
}  # fmt: skip


def write_run(folder: Path, title: str, moved: float, draw: np.random.Generator, **more: Any) -> RunRecord:
    """A run that moved a share of the way from Compromised to Clean, with its rows."""
    import torch

    tensors = {}
    scores: dict[str, ScoreRecord] = {}
    for name, (aspect, clean, compromised, rows, people, first) in METRICS.items():
        share = moved if aspect == "forgetting" else moved * draw.uniform(0, 0.5)
        level = compromised + share * (clean - compromised)
        label = first + np.arange(rows) % people
        values = np.clip(level + 0.1 * draw.standard_normal(people)[label - first] + 0.1 * draw.standard_normal(rows), 0, 1)
        value = float(values.mean())
        tensors |= {f"{name}/rows": torch.from_numpy(values), f"{name}/cluster": torch.from_numpy(label)}
        scores[name] = ScoreRecord(
            value=value,
            target="clean" if aspect == "forgetting" else "compromised",
            aspect=aspect,
            primary=name in ("RetFail", "GenKnow"),
            bounds=(0, 1),
            n=rows,
            clusters=people,
            low=max(0.0, value - 0.02),
            high=min(1.0, value + 0.02),
            summary=f"What {name} says.",
            weight=1.0,
        )
    run = record(title, {}, scores=scores, rows_file="rows.safetensors", **more)
    write_tensors(folder / "rows.safetensors", tensors)
    write_record(folder, run)
    return run


def write_results(folder: Path, records: int, rows: int, exhibits: bool) -> None:
    """References, and runs whose rows have as many seeds as they take."""
    draw = np.random.default_rng(0)
    write_run(folder / "clean", "none", 1.0, draw, kind="reference", start="clean", options={}, weight_change=0.0)
    write_run(folder / "compromised", "none", 0.0, draw, kind="reference", options={}, weight_change=0.0)
    moved = draw.uniform(0.2, 1.0, rows)
    for number in range(records - 2):
        row, seed = number % rows, number // rows
        place = folder / "runs" / f"method-{row:04d}-{seed}"
        share = float(np.clip(moved[row] + draw.normal(0, 0.02), 0, 1))
        write_run(place, f"method-{row:04d}", share, draw, seed=seed, options={"lr": 1e-4, "number": row})
        if exhibits:
            write_exhibit(place / EXHIBITS_FILE, make_exhibits(number, 0.5))


def main() -> None:
    """Print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=500, help="references included")
    parser.add_argument("--rows", type=int, default=200, help="of the leaderboard, references left out")
    parser.add_argument("--exhibits", action="store_true", help="write exhibits beside each record too")
    parser.add_argument("--keep", type=Path, help="write the results here and leave them; what lies there is taken as it is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        if not any(folder.glob("*")):
            # In a process of its own too: the memory of this one would count as the command's from its start.
            arguments = (folder, given.records, given.rows, given.exhibits)
            writer = multiprocessing.get_context("spawn").Process(target=write_results, args=arguments)
            writer.start()
            writer.join()
        started = time.perf_counter()
        command = [sys.executable, "-m", "salmu_core", "report", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        facts = {
            "records": given.records,
            "rows": given.rows,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "largest_memory_mb": round(used.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)),
            **{path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
