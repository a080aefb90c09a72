"""Attacks as part of a comparison: which are run, what is kept, what a kill costs, and what ends nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from salmu_audits.comparison import attack_runs, chosen_audits

from salmu_core import Audit, Field, Leak, Options, compare
from salmu_core.builtin.toy import Toy
from salmu_core.errors import UnknownName
from salmu_core.files.writing import write_sealed_json
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.attacks import AUDITS_FILE, AuditResult, merged, read_attacks
from salmu_core.records.schema import Package
from salmu_core.records.store import read_record
from salmu_core.runner.run import Settings
from toy_methods import Hooks, toy_plugins

CALLS: list[str] = []


class Cosine(Audit):
    """Cheap."""

    name = "cosine"
    summary = "Mean cosine."
    bounds = (-1.0, 1.0)
    quick = {"scale": 2.0}

    class Options(Options):
        scale: float = Field(1.0)

    def attack(self, ctx):
        CALLS.append(self.name)
        split = ctx.split("forget")
        cosine = (ctx.images(split) * ctx.texts(split.render(None))).sum(dim=1).mean()
        return Leak(self.options.scale * float(cosine))


class Slow(Cosine):
    """Not part of every comparison."""

    name = "slow"
    quick = None


class HasOriginal(Cosine):
    """Cheap, and needs what nobody has."""

    name = "has-original"
    references = ("compromised",)

    def attack(self, ctx):
        CALLS.append(self.name)
        return Leak(1.0 if ctx.model.fingerprint() != ctx.reference("clean").fingerprint() else 0.0)


class Breaks(Audit):
    """Has a bug until it is mended."""

    name = "breaks"
    summary = "Breaks."
    quick = {}
    mended = False

    def attack(self, ctx):
        CALLS.append(self.name)
        if not Breaks.mended:
            raise ZeroDivisionError("a bug of the audit")
        return Leak(0.0)


class Peeks(Cosine):
    """Looks past the benchmark."""

    name = "peeks"

    def attack(self, ctx):
        home = Path(os.environ["SALMU_CACHE"])
        (home / "clean").mkdir(parents=True, exist_ok=True)
        list((home / "clean").iterdir())
        write_sealed_json(home / "audits" / "other.json", {})
        os.environ["PEEKED"] = "1"
        ctx.benchmark.load_model("clean")  # which is its right
        return super().attack(ctx)


def plugins(*audits):
    made = toy_plugins()
    add_plugin(made, Hooks(register_audits=lambda: list(audits)), Package(name="toy-audits", version="1.0"), "toy")
    add_plugin(made, Hooks(attack_runs=attack_runs), Package(name="salmu-audits", version="0"), "audits")
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison that was never attacked."""
    root = tmp_path_factory.mktemp("finished")
    settings = Settings(cache=root / "cache", cpu=True)
    names = ["ascent", "weight-edit"]
    return compare(names, benchmark="toy", out=root / "out", settings=settings, plugins=toy_plugins(), audits="none")


@pytest.fixture
def attacked(finished, tmp_path):
    """Attacks a copy of the finished runs; returns what went wrong."""
    shutil.copytree(finished.files["json"].parent, tmp_path / "out")
    benchmark = Toy(Toy.Options())

    def attack(made, choice="fast", method="ascent"):
        CALLS.clear()
        runs = [(benchmark, folder_of(tmp_path, method), method)]
        return attack_runs(runs, choice, Settings(cache=tmp_path / "cache", cpu=True), made)

    return attack


def folder_of(tmp_path, method="ascent"):
    [folder] = (tmp_path / "out" / "runs").glob(f"{method}-*")
    return folder


def results_of(tmp_path):
    return read_attacks(read_record(folder_of(tmp_path)), folder_of(tmp_path)).results


def test_fast_runs_what_declares_itself_cheap_with_the_options_that_make_it_so():
    made = plugins(Cosine, Slow, HasOriginal)
    assert [(audit.name, audit.options.scale) for audit in chosen_audits(made, "fast")] == [
        ("cosine", 2.0),
        ("has-original", 2.0),
    ]
    assert [(audit.name, audit.options.scale) for audit in chosen_audits(made, "all")] == [
        ("cosine", 1.0), ("slow", 1.0), ("has-original", 1.0)
    ]  # fmt: skip
    assert chosen_audits(made, "none") == []


def test_every_run_is_attacked_beside_both_references_and_done_attacks_are_not_repeated(tmp_path, attacked):
    made = plugins(Cosine, Slow)
    attacked(made)
    assert CALLS == ["cosine"] * 3  # Clean, Compromised, the run
    assert [(item.audit, item.options, item.package) for item in results_of(tmp_path)] == [
        ("cosine", {"scale": 2.0}, "toy-audits 1.0")
    ]  # fmt: skip
    attacked(made)
    assert CALLS == []
    attacked(made, "all")  # others, and the same with other options
    assert CALLS == ["cosine"] * 3 + ["slow"] * 3
    assert len(results_of(tmp_path)) == 3


def test_references_are_attacked_once_for_each_instance_whatever_is_compared(tmp_path, attacked):
    made = plugins(Cosine)
    attacked(made)
    (folder_of(tmp_path) / AUDITS_FILE).unlink()
    attacked(made)
    assert CALLS == []  # even the run's own is in the cache
    attacked(made, method="weight-edit")
    assert CALLS == ["cosine"]


def test_a_kill_costs_the_attack_that_was_going_on(tmp_path, attacked, monkeypatch, request):
    made = plugins(Cosine, HasOriginal)
    # A shell starts what runs in its background with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def killed(self, ctx):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(HasOriginal, "attack", killed)
        with pytest.raises(KeyboardInterrupt):
            attacked(made)
    attacked(made)
    assert CALLS == ["has-original"] * 3


def test_an_attack_that_fails_ends_nothing_and_is_tried_again(tmp_path, attacked, monkeypatch):
    made = plugins(Breaks, Cosine)
    problems = attacked(made)
    assert len(problems) == 1
    assert "breaks failed: ZeroDivisionError" in problems[0]
    found = results_of(tmp_path)
    assert [(item.audit, item.failed) for item in found] == [("breaks", True), ("cosine", False)]
    monkeypatch.setattr(Breaks, "mended", True)
    attacked(made)
    assert CALLS == ["breaks"] * 3
    found = results_of(tmp_path)
    assert [(item.audit, item.failed) for item in found] == [("breaks", False), ("cosine", False)]


def test_none_attacks_nothing_and_a_core_without_audits_says_so(tmp_path, attacked):
    assert attacked(plugins(Cosine), "none") == []
    assert CALLS == []
    assert not (folder_of(tmp_path) / AUDITS_FILE).exists()
    [problem] = attacked(toy_plugins())
    assert "no audit is installed" in problem


def test_compare_attacks_by_default(tmp_path):
    CALLS.clear()
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    compare(["weight-edit"], benchmark="toy", out=tmp_path / "out", settings=settings, plugins=plugins(Cosine, Slow))
    assert CALLS == ["cosine"] * 3


def test_compare_without_a_package_that_attacks_says_so_and_one_that_raises_is_named(tmp_path):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    how = {"benchmark": "toy", "out": tmp_path / "out", "settings": settings}
    found = compare(["weight-edit"], plugins=toy_plugins(), **how).comparison
    assert "No run was attacked: no audit is installed." in found.notes

    def raises(runs, audits):
        raise ZeroDivisionError("boom")

    made = toy_plugins()
    add_plugin(made, Hooks(attack_runs=raises), Package(name="odd", version="1.0"), "odd")
    [note] = [note for note in compare(["weight-edit"], plugins=made, **how).comparison.notes if "attack_runs" in note]
    assert "attack_runs of odd:odd raised ZeroDivisionError: boom" in note


def test_attacks_of_another_version_or_package_are_made_again(tmp_path, attacked, monkeypatch):
    attacked(plugins(Cosine))
    monkeypatch.setattr(Cosine, "version", "2")
    attacked(plugins(Cosine))
    assert CALLS == ["cosine"] * 3
    [found] = results_of(tmp_path)
    assert found.version == "2"


def test_results_of_another_version_give_way_whatever_their_options():
    def result(version, **options):
        return AuditResult(
            audit="a", summary="", package="p", options=options, value=1, clean=0, compromised=1, version=version
        )

    old = [result("1", lr=1), result("2", lr=2)]
    assert merged(old, result("2", lr=3)) == [result("2", lr=2), result("2", lr=3)]
    assert merged(old, result("2", lr=1)) == [result("2", lr=1), result("2", lr=2)]


def test_attacks_of_another_model_or_damaged_files_are_left_out_and_named(tmp_path, attacked):
    attacked(plugins(Cosine))
    folder = folder_of(tmp_path)
    path, record = folder / AUDITS_FILE, read_record(folder)
    content = json.loads(path.read_text())
    write_sealed_json(path, {**content, "model_fingerprint": {"image": "x"}})
    assert read_attacks(record, folder).results == ()
    assert "another model" in read_attacks(record, folder).problem
    path.write_text(json.dumps({**content, "seed": 7}))
    assert read_attacks(record, folder).results == ()
    assert "was changed after it was written" in read_attacks(record, folder).problem
    path.write_text("{")
    assert "cannot be read" in read_attacks(record, folder).problem
    # What salmu 0.1 wrote has neither version nor seed.
    old = {"audit": "a", "summary": "", "package": "p 1", "options": {}, "value": 0.5, "clean": 0.0, "compromised": 1.0,
           "extras": {}, "seconds": 1.0, "reason": None, "recovered": 0.5}  # fmt: skip
    path.write_text(json.dumps({"model_fingerprint": record.provenance.model_fingerprint, "audits": [old]}))
    assert read_attacks(record, folder).most.recovered == 0.5


def result(value, clean=0.0, compromised=1.0, **more):
    return AuditResult(
        audit="a", summary="", package="", options={}, value=value, clean=clean, compromised=compromised, **more
    )  # fmt: skip


def test_what_counts_needs_the_model_alone_and_tells_compromised_from_clean():
    assert result(0.4).counts
    assert not result(0.4, references=("clean",)).counts
    assert not result(0.5, clean=0.51, compromised=0.53).counts  # a difference of .02 of bounds that are 1 apart
    assert result(0.5, clean=0.51, compromised=0.53, bounds=(0.5, 1.0)).counts
    assert result(0.5, clean=0.4, compromised=0.5, extras={"standard error": 0.03}).counts
    assert not result(0.5, clean=0.4, compromised=0.5, extras={"standard error": 0.04}).counts  # by chance
    assert not result(0.5, clean=0.6, compromised=0.5).counts
    assert not result(None).counts


def test_unknown_audits_are_one_clear_error():
    from salmu_audits.runner import make_audits

    with pytest.raises(UnknownName, match="cosin"):
        make_audits(plugins(Cosine), ["cosin"], {})


def test_an_audit_that_opens_or_leaves_something_is_named_in_its_result(finished, attacked, tmp_path, monkeypatch):
    monkeypatch.setenv("SALMU_CACHE", str(tmp_path / "cache"))
    attacked(plugins(Cosine, Peeks), "all")
    record = read_record(folder_of(tmp_path))
    plain, peeking = read_attacks(record, folder_of(tmp_path)).results
    assert plain.warnings == ()
    assert peeking.value == plain.value
    told = " ".join(peeking.warnings)
    assert "It changed the environment variable PEEKED" in told
    assert "It opened files of the benchmark by itself: clean" in told
    assert "It wrote audits/other.json by itself" in told
    assert not (tmp_path / "cache" / "audits" / "other.json").exists()
    assert "PEEKED" not in os.environ
