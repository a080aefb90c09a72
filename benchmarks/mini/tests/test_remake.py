"""The shipped instance made again, and instances pulled from a hub: on a tiny one that is shipped or published for the test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from hub_stub import running_hub
from salmu_core.benchmark import BuildStep
from salmu_core.cli.main import cli
from salmu_core.errors import BadData, BadOptions, OutputError
from salmu_mini import Mini, shipped
from salmu_mini.agreement import TOLERANCE, compare_data, compare_scores
from salmu_mini.benchmark import judged
from salmu_mini.publish import LICENCE, TERMS, collect
from salmu_mini.remote import INDEX, Source
from salmu_mini.requirements import Measured

COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    with pytest.MonkeyPatch.context() as patch:
        _here(patch)
        benchmark = Mini(Mini.Options(size="tiny", share=0.25), tmp_path_factory.mktemp("cache"))
        benchmark.build()
    return benchmark


def _here(patch: pytest.MonkeyPatch) -> None:
    """Train in this process, in one thread as those of a build: three of them would each import torch."""
    patch.setattr("salmu_mini.stages.trains_in_processes", lambda: False)
    threads = torch.get_num_threads()
    patch.setattr(torch, "get_num_threads", lambda: threads)
    torch.set_num_threads(1)


@pytest.fixture
def ready_made(tiny: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny instance, shipped with the package."""
    place = tmp_path / "package"
    shipped.write_instance(tiny.folder, tiny.built.name, place)
    monkeypatch.setattr(Mini, "shipped_folder", place)
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))
    _here(monkeypatch)
    shipped.check_instance.cache_clear()
    return place


OPTIONS = ["--bench-set", "size=tiny", "--bench-set", "share=0.25"]


def test_the_shipped_instance_made_again_agrees_and_is_left_alone(ready_made: Path, tmp_path: Path) -> None:
    before = shipped.contents(ready_made)
    words = ["build", "mini", *OPTIONS, "--from-scratch"]
    found = CliRunner().invoke(cli, words, env={"COLUMNS": "200"}, catch_exceptions=False, standalone_mode=False)
    assert found.return_value == 0
    assert "the same bytes" in found.output
    assert "agrees with what comes ready-made" in found.output
    assert shipped.contents(ready_made) == before
    assert not (tmp_path / "cache" / "from-scratch").exists()


def test_other_data_is_told_and_other_bytes_of_the_same_rows_are_not(tiny: Mini, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny.folder, tmp_path / "copy"))
    other = Mini(Mini.Options(size="tiny", seed=1), tmp_path)
    captions = copy / "snapshot" / "sensitive_set_generic_captions.json"
    captions.write_text(captions.read_text().replace("person", "robot", 1))
    assert [one.what for one in compare_data(tiny.folder, copy) if not one.agrees] == [captions.name]
    # One split written in more, smaller files: the same rows.
    shutil.copy(tiny.folder / "snapshot" / captions.name, captions)
    from salmubench.writer import write_split

    tables = other._tables(lambda done, total: None)
    for path in (copy / "snapshot" / "data").glob("forget-*"):
        path.unlink()
    write_split(copy / "snapshot", "forget", iter(tables.splits["forget"]))
    different = [one for one in compare_data(tiny.folder, copy) if not one.agrees]
    assert [one.what for one in different] == ["rows of forget"]
    own = tiny._tables(lambda done, total: None)
    for path in (copy / "snapshot" / "data").glob("forget-*"):
        path.unlink()
    write_split(copy / "snapshot", "forget", iter(own.splits["forget"]), rows_per_group=7)
    files, *rest = compare_data(tiny.folder, copy)
    assert files.made.endswith("with the same bytes")
    assert rest
    assert all(one.agrees for one in rest)


def test_scores_agree_within_the_tolerance_alone() -> None:
    given = {"clean": {"GenKnow": 0.9}, "compromised": {"GenKnow": 0.9, "GenKnow standard error": 0.004}}
    made = {"clean": {"GenKnow": 0.9 - 0.9 * TOLERANCE}, "compromised": {"GenKnow": 0.9 + 1.1 * TOLERANCE, "GenKnow standard error": 1.0}}  # fmt: skip
    assert [(one.what, one.agrees) for one in compare_scores(given, made)] == [
        ("GenKnow of clean", True),
        ("GenKnow of compromised", False),
    ]


def test_what_is_shipped_is_not_built_again_in_its_place(ready_made: Path, tiny: Mini) -> None:
    with pytest.raises(BadOptions, match=r"(?s)comes with the package.*--from-scratch"):
        Mini(tiny.options).build(rebuild=True)


def test_what_is_not_shipped_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(BadOptions, match="comes ready-made"):
        Mini(Mini.Options(size="tiny"), tmp_path).from_scratch()


def test_a_finished_pair_says_what_it_misses_and_a_ruined_one_is_an_error() -> None:
    values = {"clean": {"GenKnow": 0.88}, "compromised": {"GenKnow": 0.8, "IdZSC": 0.2}, "data": {"private share": 0.05}}
    with pytest.warns(UserWarning, match=r"IdZSC of Compromised at least \.5 \(found 0\.200\)"):
        facts = judged(Measured(values, None), "x")
    met = {check["requirement"]: check["met"] for check in facts["requirements"]}
    assert met["private pairs at most a tenth of what Compromised sees"] is True
    assert met["GenKnow of Clean and Compromised within a point, at .6 to .9"] is False
    assert met["RetFail of Compromised .2 to .45, of Clean at most .03"] is None  # not installed
    with pytest.raises(BadData, match=r"(?s)Clean model itself reads catastrophic.*GenKnow fell.*another seed"):
        judged(Measured(values, "GenKnow fell by 0.08."), "x")


@pytest.fixture
def published(tiny: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny instance in a repository of the hub."""
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))
    index = collect([tiny], tmp_path / "published")
    with running_hub(monkeypatch, tmp_path / "hf") as running:
        running.add("dataset", "lab/instances", index.parent, COMMIT)
        yield running


def _pull(*more: str) -> Any:
    words = ["data", "pull", "mini", *OPTIONS, "--from", f"lab/instances@{COMMIT}", *more]
    return CliRunner().invoke(cli, words, env={"COLUMNS": "200"}, standalone_mode=False)


def test_an_instance_is_pulled_with_its_terms_and_is_the_published_one(published: Any, tiny: Mini, tmp_path: Path) -> None:
    found = _pull()
    assert found.return_value == 0, found.output
    assert TERMS in " ".join(found.output.split())  # wrapped at the width of the terminal
    assert "lab/instances" in found.output
    pulled = Mini(tiny.options, tmp_path / "cache")
    assert pulled.ready()
    assert pulled.fingerprint() == tiny.fingerprint()
    assert pulled.load_model("clean").fingerprint() == tiny.load_model("clean").fingerprint()
    [terms] = pulled.terms()
    assert (terms.licence, terms.page) == (LICENCE, "https://huggingface.co/datasets/lab/instances")
    asked = len(published.requests)
    assert "is here" in _pull().output
    assert len(published.requests) == asked


def test_a_file_that_is_not_what_the_index_says_is_refused_and_nothing_is_left(published: Any, tiny: Mini, tmp_path: Path) -> None:  # fmt: skip
    index = json.loads((tmp_path / "published" / INDEX).read_text())
    index["instances"][tiny.built.name]["files"]["clean/model.safetensors"] = "0" * 64
    (tmp_path / "published" / INDEX).write_text(json.dumps(index))
    published.add("dataset", "lab/instances", tmp_path / "published", COMMIT)
    found = _pull()
    assert isinstance(found.exception, BadData)
    assert "clean/model.safetensors" in str(found.exception)
    assert not Mini(tiny.options, tmp_path / "cache").built.exists()


def test_an_instance_that_is_not_there_is_told_with_those_that_are(published: Any, tiny: Mini, tmp_path: Path) -> None:
    other = Mini(Mini.Options(size="tiny", seed=9), tmp_path / "cache")
    other.choose_source(f"lab/instances@{COMMIT}")
    with pytest.raises(BadOptions, match=f"(?s)holds no {other.built.name}.*{tiny.built.name}"):
        other.downloads()


def test_a_repository_without_an_index_is_none_of_instances(published: Any, tiny: Mini, tmp_path: Path) -> None:
    (tmp_path / "published" / INDEX).write_text("{}")
    published.add("dataset", "lab/instances", tmp_path / "published", COMMIT)
    with pytest.raises(BadData, match=r"instances\.json"):
        Source("lab/instances", COMMIT).files_of(tiny.built.name)


@pytest.mark.parametrize(
    "text", ["lab/instances", "lab/instances@main", f"instances@{COMMIT}", f"lab/instances@{COMMIT[:-1]}"]
)
def test_a_source_is_a_repository_at_a_commit(text: str) -> None:
    with pytest.raises(BadOptions, match="OWNER/NAME@COMMIT"):
        Source.parse(text)


def test_without_a_published_repository_a_pull_builds(tiny: Mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Source.pinned() is None
    built: list[BuildStep] = []
    monkeypatch.setattr(Mini, "build", lambda self, report=None, rebuild=False: built.append(BuildStep("", 0, 0)))
    Mini(Mini.Options(size="tiny", seed=1), tmp_path).pull()
    assert built


def test_a_folder_that_holds_something_is_not_published_into(tiny: Mini, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputError, match="not an empty directory"):
        collect([tiny], tmp_path)
