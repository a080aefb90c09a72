"""A record is run again and compared."""

import json

import pytest

from salmu_core.errors import BadRecord
from salmu_core.files.seals import SEAL
from salmu_core.runner.evaluate import evaluate
from salmu_core.runner.run import Settings, run
from salmu_upkeep.repeating import replay


@pytest.fixture
def settings(tmp_path):
    return Settings(cache=tmp_path / "cache", cpu=True)


def test_a_run_is_reproduced_bit_for_bit(tmp_path, settings, plugins):
    run("ascent", benchmark="toy", out=tmp_path / "run", seed=3, options={"lr": 2e-3}, settings=settings, plugins=plugins)
    for source in (tmp_path / "run", tmp_path / "run" / "record.json"):
        found = replay(source, settings=settings, plugins=plugins)
        assert found.outcome == "bit for bit"
        assert found.replayed.spec == found.recorded.spec
        assert not found.versions
        assert all(a == b for a, b in found.differences.values())


def test_a_record_that_does_not_come_out_is_told_with_its_versions(tmp_path, settings, plugins):
    run("ascent", benchmark="toy", out=tmp_path / "run", settings=settings, plugins=plugins)
    path = tmp_path / "run" / "record.json"
    content = json.loads(path.read_text())
    name, score = next(iter(content["scores"].items()))
    score["value"] += 0.01
    content["provenance"]["packages"]["torch"] = "1.0"
    content["provenance"]["model_fingerprint"] = {"image": "other", "text": "other"}
    for later in (
        SEAL,
        "broken",
        "columns",
        "undeclared",
        "warnings",
    ):  # as salmu 0.1 wrote records, before edits were noticed
        del content[later]
    path.write_text(json.dumps(content))
    found = replay(path, settings=settings, plugins=plugins)
    assert found.outcome == "not reproduced"
    recorded, now = found.differences[name]
    assert recorded - now == pytest.approx(0.01)
    assert found.versions["torch"][0] == "1.0"
    assert replay(path, tolerance=0.02, settings=settings, plugins=plugins).outcome == "within tolerance"


def test_an_evaluation_of_a_given_model_is_no_run(tmp_path, settings, plugins):
    run("ascent", benchmark="toy", out=tmp_path / "run", settings=settings, plugins=plugins)
    evaluate(tmp_path / "run", benchmark="toy", out=tmp_path / "scores", settings=settings, plugins=plugins)
    with pytest.raises(BadRecord, match="not a run"):
        replay(tmp_path / "scores", settings=settings, plugins=plugins)
    with pytest.raises(BadRecord):
        replay(tmp_path / "nothing", settings=settings, plugins=plugins)
