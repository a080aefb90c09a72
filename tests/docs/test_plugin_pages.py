"""The plugins that the docs' pages for authors write register, keep the contract, and do what their pages say of them."""

import importlib
import json

import pytest
from click.testing import CliRunner

from salmu_authors.testing import check_benchmark, check_command, check_metric
from salmu_core import Settings, run
from salmu_core.errors import SalmuError
from salmu_core.plugins.loading import add_plugin
from salmu_core.records.schema import Package
from snippets import ROOT, blocks
from toy_methods import toy_plugins


@pytest.fixture
def written(monkeypatch, tmp_path_factory):
    """The module that a page writes."""
    tmp_path = tmp_path_factory.mktemp("plugin")

    def write(page, hook):
        [block] = [block for block in blocks(ROOT / "docs" / f"{page}.md", "python") if hook in block.text]
        name = f"from_{page.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(block.text, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module(name)
        return module

    return write


def registered(module):
    plugins = toy_plugins()
    add_plugin(plugins, module, Package(name="docs", version="1"), "docs")
    assert plugins.problems == []
    return plugins


def test_the_metric_keeps_the_contract(written):
    module = written("write-a-metric", "register_metrics")
    check_metric(registered(module).metrics["nearest-stranger"].cls)


def test_the_benchmark_keeps_the_contract(written, tmp_path):
    module = written("write-a-benchmark", "register_benchmarks")
    cls = registered(module).benchmarks["cities"].cls
    small = cls(cls.Options(people=2), tmp_path)
    with pytest.raises(SalmuError, match="salmu build cities"):
        small.load_model("clean")
    small.build()
    check_benchmark(small)


def test_the_audit_tells_compromised_from_clean_on_the_benchmark(written, tmp_path):
    audit = pytest.importorskip("salmu_audits").audit
    plugins = registered(written("write-an-audit", "register_audits"))
    benchmark = written("write-a-benchmark", "register_benchmarks")
    add_plugin(plugins, benchmark, Package(name="docs-benchmark", version="1"), "docs-benchmark")
    how = {"benchmark": "cities", "benchmark_options": {"people": 4}, "plugins": plugins}
    [found] = audit("compromised", audits=["weight-noise"], settings=Settings(cpu=True, cache=tmp_path), **how)
    assert found.reason is None
    assert found.counts
    assert found.compromised > 2 * found.clean
    assert (found.value, found.recovered) == (found.compromised, 1.0)
    assert "before" in found.extras


def test_the_command_keeps_the_contract_and_names_the_best_run(written, tmp_path):
    module = written("add-a-command", "register_commands")
    [info] = module.register_commands()
    check_command(info)
    how = {"benchmark": "toy", "settings": Settings(cpu=True, cache=tmp_path / "cache"), "plugins": toy_plugins()}
    for start in ("clean", "compromised"):
        run("none", start=start, out=tmp_path / "runs" / start, **how)
    empty = CliRunner().invoke(module.command, [str(tmp_path), "--metric", "MeanCosine"])
    assert isinstance(empty.exception, SalmuError)
    run("weight-edit", out=tmp_path / "runs" / "edit", **how)
    done = CliRunner().invoke(module.command, [str(tmp_path), "--metric", "MeanCosine", "--json"], catch_exceptions=False)
    assert json.loads(done.output)["method"] == "weight-edit"


@pytest.mark.parametrize("page", ["write-a-metric", "write-a-benchmark", "write-an-audit"])
def test_allowed_values_on_the_pages_are_those_of_the_contract(page):
    from salmu_core import Audit, Benchmark, Metric
    from salmu_core.plugins.declared import allowed_values, declared_types

    base = {"write-a-metric": Metric, "write-a-benchmark": Benchmark, "write-an-audit": Audit}[page]
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    told = {name: hint for name, hint in declared_types(base).items() if f"\n| `{name}` |" in text}
    assert told
    for name, hint in told.items():
        line = text[text.index(f"\n| `{name}` |") + 1 :].splitlines()[0].split(" | ")[1]
        for value in allowed_values(hint):
            assert f"`{value}`" in line or f'"{value}"' in line, f"{page}: {name} may be {value}"
