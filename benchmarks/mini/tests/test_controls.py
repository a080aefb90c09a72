"""What forgets nothing in substance wins nothing: controls on the shipped instance. All variants: `experiments/controls.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from salmu_core.comparison.overall import INDISCRIMINATE
from salmu_core.runner.compare import MethodChoice, compare
from salmu_core.runner.run import Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from controls import faults

pytest.importorskip("salmu_controls")

#: The strongest variant of each kind that the trials on a development instance found, and the Clean model itself.
CHOSEN = [
    MethodChoice("word-removal", {"variant": "rare", "r": 2.0}),
    MethodChoice("word-removal", {"variant": "owned"}),
    MethodChoice("name-shuffle"),
    MethodChoice("caption-centroid", {"keep": 0.1}),
    MethodChoice("clean-oracle"),
]


def test_no_control_reads_selective_or_beats_indiscriminate_forgetting(tmp_path: Path, shared_cache: Path) -> None:
    settings = Settings(cache=shared_cache, cpu=True)
    found = compare(CHOSEN, preset="none", out=tmp_path, settings=settings, audits="none")
    rows = {row.title: row for row in found.comparison.rows if row.kind == "run"}
    assert len(rows) == len(CHOSEN)
    assert {row.status for row in rows.values()} == {"ok"}
    assert faults(list(rows.values())) == []
    assert all((row.overall or 0.0) <= INDISCRIMINATE for row in rows.values())
    [clean] = [row for title, row in rows.items() if title.startswith("clean-oracle")]
    assert clean.overall == pytest.approx(0.0, abs=1e-6)
    # Where every word is shared, there is none to delete.
    [owned] = [row for title, row in rows.items() if "owned" in title]
    assert owned.verdict == "no effect"


def test_a_control_that_wins_is_told() -> None:
    class Row:
        family, verdict, overall, title = "control", "selective", 0.4, "x"

    assert len(faults([Row()])) == 2  # type: ignore[list-item]
