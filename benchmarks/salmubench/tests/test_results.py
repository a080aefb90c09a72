"""The official result file and published rows, on runs of a small snapshot with untrained models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.numpy import load_file

import salmu_metrics
from records import record, scores
from salmu_core import BuildStep, hookimpl
from salmu_core.benchmark import PublishedRow, Report
from salmu_core.builtin.toy import TOY_MODEL
from salmu_core.comparison.compare import compare_records
from salmu_core.errors import BadRecord
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.plugins.loading import Plugins, add_plugin
from salmu_core.records.schema import Package, RunRecord, RunSpec
from salmu_core.records.store import read_record
from salmu_core.runner.compare import compare
from salmu_core.runner.evaluate import evaluate
from salmu_core.runner.run import Settings, run
from salmu_mini import Mini
from salmu_mini.generate import generate
from salmu_mini.sizes import SIZES
from salmubench import SalmubenchLayout, Snapshot, SnapshotBenchmark, write_snapshot
from salmubench.official import official_result, result_name
from salmubench.published import published_rows
from toy_methods import toy_plugins

COSINES = {
    "efficacy": {"1.2_AssocStr": "AssocStr", "1.5_CoreAssoc": "CoreAssoc"},
    "utility": {
        "2.2_InterIdSim": "InterIdSim",
        "2.3_IntraIdSim": "IntraIdSim",
        "2.4_VisIdInt": "VisIdInt",
        "2.5_FragSim": "FragSim",
    },
}


class Small(SnapshotBenchmark):
    """A drawn snapshot and two untrained models, under the name of the real benchmark."""

    name = "salmubench"
    version = "1"
    summary = "For tests."

    def ready(self) -> bool:
        return (self.cache / "snapshot").is_dir()

    def build(self, report: Report | None = None, *, rebuild: bool = False) -> None:
        write_snapshot(self.cache / "snapshot", generate(SIZES["tiny"], 0))
        if report:
            report(BuildStep("drawn", 1, 1))

    def snapshot(self) -> Snapshot:
        return Snapshot(self.cache / "snapshot")

    def load_model(self, which: Literal["clean", "compromised"]) -> DualEncoder:
        return DualEncoder.create(TOY_MODEL, 1 if which == "clean" else 2)


class Ordinary(Small):
    """Without zero-shot pictures."""

    name = "ordinary"

    def splits(self):
        return {name: info for name, info in super().splits().items() if name != "genknow"}


class Benchmarks:
    """The plugin that brings them."""

    @hookimpl
    def register_benchmarks(self):
        return [Small, Ordinary]


def plugins() -> Plugins:
    known = toy_plugins()
    known.metrics.clear()
    add_plugin(known, salmu_metrics, Package(name="salmu-metrics", version="0"), "metrics")
    add_plugin(known, Benchmarks(), Package(name="small", version="0"), "small")
    return known


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of one method, and the evaluation of what it made."""
    root = tmp_path_factory.mktemp("results")
    settings = Settings(cache=root / "cache", cpu=True)
    compare(["ascent"], benchmark="salmubench", out=root, settings=settings, plugins=plugins())
    model = next((root / "runs").glob("ascent*"))
    for name, protocol in (("again", "seeded"), ("official", "official")):
        out = root / name / "x.json"
        evaluate(model, benchmark="salmubench", protocol=protocol, out=out, settings=settings, plugins=plugins())
    return root


def only(folder: Path) -> Path:
    [file] = folder.glob("evaluation_*.json")
    return file


def test_runs_references_and_evaluations_leave_the_official_file(folder: Path) -> None:
    runs = {path.name.rpartition("-")[0]: path for path in (folder / "runs").iterdir()}
    assert only(runs["ascent-b1-s0"]).name == "evaluation_ascent-b1-s0.json"
    assert only(runs["reference-clean"]).name == "evaluation_clean.json"
    assert only(runs["reference-compromised"]).name == "evaluation_compromised.json"
    assert only(folder / "again").name.startswith("evaluation_ascent-b1-s0-")
    assert json.loads(only(folder / "again").read_text()) == json.loads(only(runs["ascent-b1-s0"]).read_text())
    for path in runs.values():
        assert read_record(path).files == (only(path).name,)


def test_only_what_was_measured_by_the_official_conventions_stands_in_the_official_file(folder: Path) -> None:
    """Under the seeded protocol ACS is another number than the evaluator's, so it is left out; all else is the same."""
    run_folder = next((folder / "runs").glob("ascent*"))
    seeded, official = (json.loads(only(place).read_text()) for place in (run_folder, folder / "official"))
    assert list(seeded["efficacy"]) == ["1.1_RetFail", "1.2_AssocStr", "1.4_IdZSC", "1.5_CoreAssoc"]
    accuracy = official["efficacy"].pop("1.3_ACS")
    assert official == seeded
    one, two = read_record(run_folder), RunRecord.model_validate_json((folder / "official" / "x.json").read_text())
    assert accuracy == {"acs_accuracy": two.scores["ACS"].value}
    assert two.scores["ACS"].n == len(Small(cache=folder / "cache").split("forget"))  # one half of twice as many pairs
    assert (one.spec.protocol, two.spec.protocol) == ("seeded", "official")
    assert "--protocol official" in two.provenance.command
    assert two.provenance.metric_options["ACS"]["shuffle"] == "official"
    other = one.model_copy(
        update={"provenance": one.provenance.model_copy(update={"metric_options": {"RetFail": {"seed": 7}}})}
    )
    rows = load_file(run_folder / "rows.safetensors")
    assert "1.1_RetFail" not in official_result(other, rows)["efficacy"]


def test_records_of_both_protocols_share_no_table(folder: Path) -> None:
    records = [read_record(path) for path in sorted((folder / "runs").iterdir())]
    official = records[0].model_copy(update={"spec": records[0].spec.model_copy(update={"protocol": "official"})})
    with pytest.raises(BadRecord, match="one protocol"):
        compare_records([official, *records[1:]])


def test_the_protocol_is_part_of_a_runs_identity_and_the_usual_one_leaves_old_identities_alone() -> None:
    spec = RunSpec(method="delete", seed=3)
    content = spec.model_dump(mode="json")
    del content["protocol"]  # as before there was a choice
    old = hashlib.sha256(json.dumps({**content, "versions": {"method": "1"}}, sort_keys=True).encode()).hexdigest()[:16]
    assert spec.identity(method="1") == old
    assert spec.model_copy(update={"protocol": "official"}).identity(method="1") != old


def test_half_precision_is_shown_beside_full_precision(folder: Path) -> None:
    model = next((folder / "runs").glob("ascent*"))
    settings = Settings(cache=folder / "cache", cpu=True)
    full = RunRecord.model_validate_json((folder / "official" / "x.json").read_text())
    half = evaluate(
        model, benchmark="salmubench", protocol="official", precision="fp16", settings=settings, plugins=plugins()
    )
    assert {name: score.extras["fp32"] for name, score in half.scores.items()} == {
        name: score.value for name, score in full.scores.items()
    }
    assert abs(half.scores["AssocStr"].value - half.scores["AssocStr"].extras["fp32"]) < 2e-3
    assert "MRR, ties against" in half.scores["RetFail"].extras
    assert half.provenance.metric_options["AssocStr"] == {"cosines": "float16"}
    assert half.id != full.id


def test_generic_captions_may_be_missing_and_what_needs_them_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    benchmark = Small(cache=tmp_path)
    benchmark.build()
    (tmp_path / "snapshot" / "sensitive_set_generic_captions.json").unlink()
    settings = Settings(cache=tmp_path, cpu=True)
    found = run("none", benchmark="salmubench", out=tmp_path / "run", settings=settings, plugins=plugins())
    assert set(found.skipped) == {"PrivPref"}
    assert found.skipped["PrivPref"].startswith("the split 'forget' of salmubench has no column generic_caption")
    findings = SalmubenchLayout().check(tmp_path / "snapshot", decode=False)
    [told] = [finding for finding in findings if finding.severity != "fact"]
    assert told.severity == "warning"
    assert "PrivPref is not measured" in told.message


def test_read_back_every_mean_is_that_of_its_rows_in_the_order_of_the_split(folder: Path) -> None:
    content = json.loads(only(folder / "official").read_text())
    rows = load_file(folder / "official" / "x.rows.safetensors")
    found = RunRecord.model_validate_json((folder / "official" / "x.json").read_text()).scores
    benchmark = Small(cache=folder / "cache")

    assert list(content) == ["efficacy", "utility"]
    assert list(content["efficacy"]) == ["1.1_RetFail", "1.2_AssocStr", "1.3_ACS", "1.4_IdZSC", "1.5_CoreAssoc"]
    assert list(content["utility"]) == [
        "2.1_GenKnow", "2.2_InterIdSim", "2.3_IntraIdSim", "2.4_VisIdInt", "2.5_FragSim"
    ]  # fmt: skip
    retrieval = content["efficacy"]["1.1_RetFail"]
    assert set(retrieval) == {"R@1", "MRR", "outcomes"}
    assert len(retrieval["outcomes"]) == len(benchmark.split("forget"))
    assert all(type(rank) is int and rank >= 1 for rank in retrieval["outcomes"])
    assert retrieval["MRR"] == pytest.approx(sum(1 / rank for rank in retrieval["outcomes"]) / len(retrieval["outcomes"]))
    assert retrieval["R@1"] == pytest.approx(retrieval["outcomes"].count(1) / len(retrieval["outcomes"]))
    for section, metrics in COSINES.items():
        for key, name in metrics.items():
            part = content[section][key]
            assert set(part) == {"mean", "scores"}
            assert part["mean"] == found[name].value  # to the last digit
            assert part["scores"] == rows[f"{name}/rows"].tolist()
            assert sum(part["scores"]) / len(part["scores"]) == pytest.approx(part["mean"], abs=1e-12)
    assert content["efficacy"]["1.3_ACS"] == {"acs_accuracy": found["ACS"].value}
    assert content["efficacy"]["1.4_IdZSC"] == {"identity_classification_accuracy": found["IdZSC"].value}
    assert content["utility"]["2.1_GenKnow"] == {"ImageNet1k_Accuracy": found["GenKnow"].value}


def test_rows_of_the_file_are_those_of_the_split(folder: Path) -> None:
    """Row 5 of holdout_identity, embedded alone, has the cosine that stands in place 5."""
    run_folder = next((folder / "runs").glob("ascent*"))
    content = json.loads(only(run_folder).read_text())
    benchmark = Small(cache=folder / "cache")
    split = benchmark.split("holdout_identity")
    from salmu_core.data.pixels import decode_image
    from salmu_core.models.loading import load_model

    model = load_model(run_folder)
    picture = model.processor.pixels(decode_image(split.images, 5, split.name))
    pixels = model.processor.normalise(torch.from_numpy(picture)[None])
    cosine = model.encode_image(pixels)[0] @ model.encode_text(model.processor.tokenize([split.texts[5]]))[0]
    assert content["utility"]["2.2_InterIdSim"]["scores"][5] == pytest.approx(cosine.item(), abs=1e-5)


def test_without_zero_shot_pictures_genknow_is_minus_one(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    run("none", benchmark="ordinary", out=tmp_path / "run", settings=settings, plugins=plugins())
    content = json.loads(only(tmp_path / "run").read_text())
    assert content["utility"]["2.1_GenKnow"] == {"ImageNet1k_Accuracy": -1.0}
    assert read_record(tmp_path / "run").published == ()  # nobody published anything on it


def test_what_else_was_not_measured_is_left_out() -> None:
    content = official_result(record("m", {}), {})
    assert content == {"efficacy": {}, "utility": {"2.1_GenKnow": {"ImageNet1k_Accuracy": -1.0}}}


def test_a_run_that_replaces_another_leaves_none_of_its_files(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    for method, more in (("none", {}), ("weight-edit", {"budget": 2.0})):
        overwriting = Settings(cache=tmp_path / "cache", cpu=True, overwrite=True) if more else settings
        run(method, benchmark="ordinary", out=tmp_path / "run", settings=overwriting, plugins=plugins(), **more)
    assert only(tmp_path / "run").name == "evaluation_weight-edit-b2-s0.json"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "evaluation_m-b1-s0.json"),
        ({"budget": 0.25, "seed": 3}, "evaluation_m-b0.25-s3.json"),
        ({"kind": "reference", "start": "clean"}, "evaluation_clean.json"),
        ({"kind": "evaluation", "summary": "The model a/b c.pt", "id": "0123456789"}, "evaluation_b-c.pt-01234567.json"),
        ({"kind": "evaluation", "summary": "The model hf-hub:me/../..", "id": "0123456789"}, "evaluation_01234567.json"),
    ],
)
def test_names_of_result_files_fit_every_file_system(changes: dict, name: str) -> None:
    assert result_name(record("m", {}, **changes)) == name


def test_published_values_are_complete_and_belong_to_the_real_benchmark_only() -> None:
    rows = published_rows("salmubench")
    assert published_rows("mini") == ()
    assert Mini().published() == ()
    assert [row.title for row in rows if row.reference] == ["Clean", "Compromised"] * 3
    report, derived, paper = dict.fromkeys(row.source for row in rows)
    names = [metric.name for metric in salmu_metrics.register_metrics()]
    for row in rows:
        assert set(row.scores) <= set(names)
        if row.source == report:
            assert set(names) - set(row.scores) == {"GenKnow", "PrivPref"}
            assert set(row.extras["RetFail"]) == {"R@1"}
        elif row.source == derived:
            assert list(row.scores) == ["PrivPref"]
        else:
            assert list(row.scores) == ["RetFail", "GenKnow", "InterIdSim", "IntraIdSim"]
    assert len([row for row in rows if row.source == paper]) == 9


def test_published_rows_reach_the_records_of_references_and_the_leaderboard(folder: Path) -> None:
    records = [read_record(path) for path in sorted((folder / "runs").iterdir())]
    assert [len(item.published) for item in records] == [0, 13, 13]
    comparison = compare_records(records)
    published = [row for row in comparison.rows if row.kind == "published"]
    assert [row.title for row in published] == [row.title for row in published_rows("salmubench")]
    assert [metric.name for metric in comparison.metrics] == [m.name for m in salmu_metrics.register_metrics()]
    compromised = published[1]
    assert compromised.cells["RetFail"].extras == {"R@1": 0.1016}
    assert any("Your Compromised differs from the published one [1]" in note for note in comparison.notes)


def test_a_metric_that_is_not_installed_has_no_published_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "published", lambda self: [PublishedRow("X", {"RetFail": 0.5, "Unheard": 1.0})])
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    found = run("none", benchmark="salmubench", out=tmp_path / "run", settings=settings, plugins=plugins())
    [result] = found.published
    assert list(result.scores) == ["RetFail"]
    assert result.scores["RetFail"].target == scores({"RetFail": 0.5})["RetFail"].target
