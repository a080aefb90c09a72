"""Metrics that finished runs lack are measured from their weights."""

from salmu_core.records.store import read_record, write_record
from salmu_core.runner.run import Settings, run
from salmu_upkeep.rescoring import rescore


def test_what_is_missing_is_added_and_comes_out_as_in_a_fresh_run(tmp_path):
    settings, out = Settings(cpu=True, cache=tmp_path / "cache"), tmp_path / "run"
    full = run("none", benchmark="toy", out=out, settings=settings)
    lacking = {name: score for name, score in full.scores.items() if name not in ("ACS", "RetFail")}
    write_record(out, full.model_copy(update={"scores": lacking}))
    [found] = rescore(tmp_path, settings=settings)
    assert sorted(found.added) == ["ACS", "RetFail"]
    assert read_record(out).scores == full.scores
    [again] = rescore(tmp_path, settings=settings)
    assert again.added == ()
    # Weights that the record was not made of are refused, and the record stays.
    other = full.provenance.model_copy(update={"model_fingerprint": {"image": "0", "text": "0"}})
    write_record(out, full.model_copy(update={"scores": lacking, "provenance": other}))
    [refused] = rescore(tmp_path, settings=settings)
    assert "not those" in refused.why_not[""]
    assert read_record(out).scores.keys() == lacking.keys()
