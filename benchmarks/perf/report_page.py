"""How fast a report of many runs opens, and how large it is: synthetic records, written once, opened in headless Chromium.

    uv run python benchmarks/perf/report_page.py [--runs 50] [--times 5] [--keep FOLDER]

`load` is from the start of navigation to the end of the load event, `leaderboard` until the first rows of the table were painted
(first contentful paint), `first chart` until the first chart is drawn, all as the page itself counts them. The page is made by
what `salmu report` calls; `made in` is reading the records and writing it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

import numpy as np

from chromium import Chromium, find_chromium
from records import CLEAN, COMPROMISED, record, references
from salmu_core.comparison.compare import compare_records
from salmu_core.records.schema import RunRecord
from salmu_core.records.store import load_records
from salmu_core.report.report import write_reports
from showings import write_results


def runs(count: int) -> list[RunRecord]:
    """Records between Compromised and Clean, and some beyond."""
    draw = np.random.default_rng(0)
    found = references()
    for number in range(count):
        moved = draw.uniform(0, 1.2, len(CLEAN))
        values = {
            name: COMPROMISED[name] + share * (CLEAN[name] - COMPROMISED[name])
            for name, share in zip(CLEAN, moved, strict=True)
        }
        found.append(record(f"method-{number:02d}", values, options={"lr": 1e-4, "number": number}))
    return found


def main() -> None:
    """Print size and times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="write the results here and leave them")
    given = parser.parse_args()
    if find_chromium() is None:
        sys.exit("There is no Chromium on this machine.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_results(given.keep or Path(temporary), runs(given.runs))
        started, worked = time.perf_counter(), time.process_time()
        loaded = load_records(folder)
        page = write_reports(folder, compare_records(loaded.records), zip(loaded.records, loaded.files, strict=True))["html"]
        made, work = time.perf_counter() - started, time.process_time() - worked
        times: dict[str, list[float]] = {"load": [], "leaderboard": [], "first chart": []}
        with Chromium() as browser:
            for _ in range(given.times):
                times["load"].append(browser.open(page))
                browser.wait_for("performance.getEntriesByName('first-contentful-paint').length > 0")
                times["leaderboard"].append(
                    browser.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
                )
                drawn = (
                    "new Promise((done) => { const see = () => document.querySelector('[data-drawn]') ? done(performance.now())"
                    " : setTimeout(see, 5); document.getElementById('front').scrollIntoView(); see(); })"
                )
                times["first chart"].append(browser.run(drawn))
            version = browser.call("Browser.getVersion")["product"]
        size = page.stat().st_size
    spans = {
        name: {"median": round(statistics.median(found)), "largest": round(max(found))} for name, found in times.items()
    }
    facts = {
        "runs": given.runs,
        "file_bytes": size,
        "made_in_seconds": round(made, 2),
        "made_in_cpu_seconds": round(work, 2),
        **{f"{name.replace(' ', '_')}_ms": span for name, span in spans.items()},
        "browser": version,
        "machine": platform.machine(),
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
