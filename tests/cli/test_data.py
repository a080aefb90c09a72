"""`salmu data`: what is announced, found, written and exited with. Layouts come from plugins; here from one made for the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from salmu_core.benchmark import BuildStep, Download
from salmu_core.builtin.toy import Toy
from salmu_core.cli.arguments import benchmark_options
from salmu_core.cli.main import cli, main
from salmu_core.errors import BadOptions
from salmu_core.hookspecs import hookimpl
from salmu_core.layout import Finding, Layout
from salmu_core.plugins.loading import add_plugin, load_plugins
from salmu_core.records.schema import Package
from salmu_core.spec.study import results_folder


class Lines(Layout):
    """A file of captions."""

    name = "lines"
    summary = "Captions, one a line."

    def recognises(self, folder: Path) -> bool:
        return (folder / "captions.txt").is_file()

    def check(self, folder, report=None, *, decode=True) -> Sequence[Finding]:
        if report is not None:
            report(BuildStep("read", 1, 1))
        lines = (folder / "captions.txt").read_text().splitlines()
        found = [Finding("error", f"line {row} is empty.", "Write one.") for row, line in enumerate(lines) if not line]
        return [*found, Finding("fact", f"{len(lines)} lines, pictures {'read' if decode else 'left out'}.")]

    def export(self, benchmark, folder, report=None) -> Sequence[Path]:
        folder.mkdir()
        (folder / "captions.txt").write_text("\n".join(benchmark.split("forget").texts) + "\n")
        return [folder / "captions.txt"]


class Fetched(Toy):
    """A benchmark that has to be fetched."""

    name = "fetched"
    size = 7_000_000

    def ready(self) -> bool:
        return (self.cache / "here").is_file()

    def downloads(self) -> Sequence[Download]:
        return [
            Download("dataset somebody/pairs at 01234567", self.size, str(self.cache / "hub")),
            Download("model x", None, "y"),
        ]

    def build(self, report=None, *, rebuild=False) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        (self.cache / "here").write_text("fetched")


class _Plugin:
    @hookimpl
    def register_layouts(self):
        return [Lines]

    @hookimpl
    def register_benchmarks(self):
        return [Fetched]


@pytest.fixture(autouse=True)
def with_layout(monkeypatch):
    def load():
        plugins = load_plugins(only=[])
        add_plugin(plugins, _Plugin(), Package(name="lines", version="1"), "lines")
        assert not plugins.problems
        return plugins

    monkeypatch.setattr("salmu_core.plugins.loading.load_plugins", load)


def _data(*arguments: str):
    return CliRunner().invoke(cli, ["data", *arguments], catch_exceptions=False, standalone_mode=False)


@pytest.mark.parametrize("command", ["pull", "check", "export"])
def test_every_subcommand_has_help_with_an_example(command):
    output = _data(command, "--help").output
    assert "Examples" in output
    assert f"salmu data {command}" in output


def test_export_writes_and_check_recognises_what_was_written(tmp_path):
    folder = tmp_path / "out"
    done = _data("export", "toy", str(folder), "--layout", "lines", "--bench-set", "identities=2")
    assert done.return_value == 0
    assert "Wrote 1 files" in done.stdout
    found = _data("check", str(folder))
    assert found.return_value == 0
    assert "fact: 12 lines, pictures read." in found.stdout
    assert "0 errors, 0 warnings" in found.stdout
    assert "pictures left out" in _data("check", str(folder), "--no-decode").stdout


def test_errors_are_listed_with_hints_and_exit_code_1(tmp_path):
    (tmp_path / "captions.txt").write_text("one\n\n\n")
    found = _data("check", str(tmp_path))
    assert found.return_value == 1
    assert found.stdout.splitlines()[:2] == ["error: line 1 is empty. Write one.", "error: line 2 is empty. Write one."]
    listed = json.loads(_data("check", str(tmp_path), "--layout", "lines", "--json").stdout)
    assert listed["found"] == {"error": 2, "warning": 0, "fact": 1}
    assert listed["findings"][0] == {"severity": "error", "message": "line 1 is empty.", "hint": "Write one.", "rule": ""}


def test_pull_announces_sizes_and_fetches_once(own_cache):
    first = _data("pull", "fetched")
    assert first.return_value == 0
    assert "dataset somebody/pairs at 01234567" in first.stderr
    assert "7.0 MB" in first.stderr
    assert "size unknown" in first.stderr
    assert (own_cache / "here").is_file()
    again = _data("pull", "fetched")
    assert "is here" in again.stdout
    assert "7.0 MB" not in again.stderr


def test_pull_refuses_what_does_not_fit(own_cache, monkeypatch, capsys):
    monkeypatch.setattr(Fetched, "size", 10**18)
    with pytest.raises(SystemExit):
        main(["data", "pull", "fetched"])
    assert "1000000.0 TB are to be fetched" in " ".join(capsys.readouterr().err.split())
    assert not (own_cache / "here").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "nowhere"], "There is no directory 'nowhere'"),
        (["check", "."], "looks like none of the installed layouts (lines)"),
        (["check", ".", "--layout", "line"], "Did you mean lines"),
        (["export", "toy", "out", "--layout", "salmubenc"], "There is no layout called"),
        (["export", "toyy", "out", "--layout", "lines"], "Did you mean toy"),
        (["pull", "toy", "--data-dir", "x"], "toy has no option 'data_dir'"),
    ],
)
def test_bad_input_is_one_panel(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["data", *arguments])
    assert exit_.value.code == 1
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_data_dir_is_an_option_of_the_benchmark(tmp_path):
    assert benchmark_options(["passes=2"], None, Path("x")) == {"passes": "2", "data_dir": "x"}
    with pytest.raises(BadOptions, match="data_dir is given twice"):
        benchmark_options(["data_dir=y"], None, Path("x"))


def test_results_of_two_places_do_not_meet():
    one, two = (results_folder("salmubench", {"data_dir": place}) for place in ("/a/snapshot", "/b/snapshot"))
    assert one != two
    assert one.parent == Path("results")
    assert one.name.startswith("salmubench-data_dir-snapshot-")
    assert results_folder("mini", {"size": "tiny", "seed": 1}) == Path("results/mini-seed-1-size-tiny")
