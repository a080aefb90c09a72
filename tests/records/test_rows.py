"""Per-row values beside a record: read back, and resampled together."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from records import COMPROMISED, record, scores, write_rows
from salmu_core.errors import BadRecord
from salmu_core.files.writing import write_tensors
from salmu_core.records.rows import check_rows, cluster_sums, read_cluster_sums, resampled_scores
from salmu_core.records.store import load_records, write_record


def test_rows_are_summed_by_cluster_and_lone_rows_stand_for_themselves(tmp_path):
    arrays = {
        "RetFail/rows": np.array([1.0, 2.0, 4.0]), "RetFail/cluster": np.array([7, 3, 7]),
        "GenKnow/rows": np.array([0.0, 1.0]),
    }  # fmt: skip
    write_rows(tmp_path, arrays)
    found = read_cluster_sums(record("m", COMPROMISED, rows_file="rows.safetensors"), tmp_path)
    assert found.keys() == {"RetFail", "GenKnow"}
    assert found["RetFail"].label.tolist() == [3, 7]
    assert found["RetFail"].sums.tolist() == [2.0, 5.0]
    assert found["RetFail"].sizes.tolist() == [1.0, 2.0]
    assert found["GenKnow"].label is None


@pytest.mark.parametrize("content", [None, {"RetFail/rows": np.ones(3)}])
def test_a_sidecar_that_is_missing_or_old_has_no_clusters(content, tmp_path):
    path = tmp_path / "rows.safetensors"
    if content is not None:
        save_file(content, path)
    assert read_cluster_sums(record("m", COMPROMISED, rows_file=path.name), tmp_path) == {}
    assert read_cluster_sums(record("m", COMPROMISED), tmp_path) == {}
    assert read_cluster_sums(record("m", COMPROMISED, rows_file=path.name), None) == {}


def test_clusters_without_a_checksum_were_changed_since_they_were_written(tmp_path):
    save_file({"RetFail/rows": np.ones(2), "RetFail/cluster": np.arange(2)}, tmp_path / "rows.safetensors")
    with pytest.raises(BadRecord, match=r"rows\.safetensors' holds no checksum"):
        check_rows(record("m", COMPROMISED, rows_file="rows.safetensors"), tmp_path)


def test_a_damaged_sidecar_is_an_error_and_does_not_count_as_missing(tmp_path):
    path = tmp_path / "rows.safetensors"
    path.write_bytes(b"not a file of tensors")
    with pytest.raises(BadRecord, match=r"rows\.safetensors.*not a whole"):
        read_cluster_sums(record("m", COMPROMISED, rows_file=path.name), tmp_path)


def _kept(folder, rows, clusters=None):
    """A run of one metric, RetFail 0.5, of two rows; and a sidecar that is sound in itself."""
    arrays = {"RetFail/rows": torch.tensor(rows)}
    if clusters is not None:
        arrays["RetFail/cluster"] = torch.tensor(clusters)
    write_tensors(folder / "rows.safetensors", arrays)
    score = scores({"RetFail": 0.5})["RetFail"].model_copy(update={"n": 2})
    run = record("m", {}, scores={"RetFail": score}, rows_file="rows.safetensors")
    write_record(folder, run)
    return run


@pytest.mark.parametrize(
    ("rows", "clusters", "said"),
    [
        ([0.5, 0.6], [0, 1], "have the mean 0.55, where the record says 0.5"),
        ([0.5, 0.5, 0.5], [0, 1, 2], "are 3, where the record says 2"),
        ([float("nan"), 0.5], [0, 1], "are not finite"),
        ([0.5, 0.5], [0, -1], "to which identities"),
        ([0.5, 0.5], [0, 10**12], "to which identities"),  # would be counted in a table of 8 TB
        ([0.5, 0.5], [0], "to which identities"),
        ([0.5, 0.5], [0.5, 1.0], "to which identities"),
    ],
)
def test_rows_that_are_not_the_records_are_named_and_the_run_left_out(rows, clusters, said, tmp_path):
    run = _kept(tmp_path, rows, clusters)
    with pytest.raises(BadRecord, match=said):
        check_rows(run, tmp_path)
    loaded = load_records(tmp_path)
    assert loaded.records == []
    assert said in loaded.problems[0]


def test_rows_that_are_the_records_are_taken(tmp_path):
    check_rows(_kept(tmp_path, [0.25, 0.75], [0, 0]), tmp_path)
    assert len(load_records(tmp_path).records) == 1


def test_rows_that_are_gone_are_named_and_the_scores_count(tmp_path):
    _kept(tmp_path, [0.25, 0.75], [0, 0])
    (tmp_path / "rows.safetensors").unlink()
    loaded = load_records(tmp_path)
    assert len(loaded.records) == 1
    assert "rows.safetensors' is gone" in loaded.problems[0]


def _table(values, labels):
    return cluster_sums({"M/rows": np.asarray(values, dtype=float), "M/cluster": np.asarray(labels)}, "M")


def test_resamples_are_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    people = rng.normal(size=60).repeat(5)
    [found] = resampled_scores([{"M": _table(people, np.arange(60).repeat(5))}], ["M"], resamples=4000)
    assert found["M"].std() == pytest.approx(people.std() / 60**0.5, rel=0.08)


def test_identities_are_drawn_alike_for_all_runs_and_metrics():
    rng = np.random.default_rng(0)
    labels, people = np.arange(40), rng.normal(size=40)
    first = {"M": _table(people, labels), "N": _table(2 * people, labels)}
    second = {"M": _table(people + 0.3, labels)}
    one, two = resampled_scores([first, second], ["M", "N"])
    assert two["M"] - one["M"] == pytest.approx(np.full(1000, 0.3))  # though either moves by far more
    assert one["N"] == pytest.approx(2 * one["M"])
    assert "N" not in two


def test_many_identities_are_drawn_in_parts_and_the_same_every_time(monkeypatch):
    tables = [{"M": _table(np.arange(30.0), np.arange(30)), "L": cluster_sums({"L/rows": np.arange(20.0)}, "L")}]
    monkeypatch.setattr("salmu_core.records.rows._CELLS", 900)
    [first] = resampled_scores(tables, ["M", "L"], resamples=100)
    [again] = resampled_scores(tables, ["M", "L"], resamples=100)
    assert first["M"].shape == (100,)
    assert len(np.unique(first["M"])) == len(np.unique(first["L"])) == 100
    assert np.array_equal(first["M"], again["M"])
    assert np.array_equal(first["L"], again["L"])


def test_they_are_read_without_torch():
    code = (
        "import sys; import salmu_core.records.rows, salmu_core.comparison.compare, salmu_core.comparison.selection, salmu_core.spec.study;"
        "import safetensors.numpy; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
