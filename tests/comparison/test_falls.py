"""Paired tests of falls, against numbers worked out by hand."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from records import COMPROMISED, record
from salmu_core.comparison.falls import fall_test, fall_tests, general_rows


def test_mcnemar_counts_the_rows_that_changed():
    before = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 1])
    after = np.array([0, 0, 0, 0, 0, 0, 0, 1, 0, 1])  # seven lost, one gained
    # P(at least 7 of 8 heads) = (8 + 1) / 256.
    assert fall_test(before, after).p == pytest.approx(9 / 256)
    assert fall_test(before, after).real
    # The other way round: P(at least 1 of 8) = 255 / 256.
    assert fall_test(after, before).p == pytest.approx(255 / 256)
    assert fall_test(before, before).p == 1.0


def test_values_are_compared_by_a_paired_t_test():
    before = np.array([0.5, 0.75, 1.0, 0.25])
    after = before - np.array([0.1, 0.2, 0.3, 0.2])
    # Mean .2, sd .0816, t = .2 / (.0816 / 2) = 4.899 with 3 degrees: one-sided p .0081.
    assert fall_test(before, after).p == pytest.approx(0.00814, abs=1e-4)
    assert fall_test(before, before - 0.25).p == 0.0
    assert fall_test(before, before + 0.25).p == 1.0


def test_only_rows_that_both_models_kept_are_compared(tmp_path):
    run, reference = (record(name, COMPROMISED, rows_file="rows.safetensors") for name in ("m", "none"))
    for name, rows in (("m", [0.0] * 6), ("none", [1.0] * 6)):
        (tmp_path / name).mkdir()
        save_file({"GenKnow/rows": np.array(rows), "RetFail/rows": np.array(rows)}, tmp_path / name / "rows.safetensors")
    before = general_rows(reference, tmp_path / "none")
    found = fall_tests(run, tmp_path / "m", before)
    assert {name: (fall.p, fall.rows) for name, fall in found.items()} == {"GenKnow": (pytest.approx(1 / 64), 6)}
    assert general_rows(reference, None) == fall_tests(run, tmp_path / "m", {}) == {}
    save_file({"GenKnow/rows": np.zeros(5)}, tmp_path / "m" / "rows.safetensors")
    assert fall_tests(run, tmp_path / "m", before) == {}
