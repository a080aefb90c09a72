"""`salmu list-methods`, `list-metrics`, `list-benchmarks` and `describe`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from salmu_core.cli.arguments import complete_names

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


def _list(kind: str, as_json: bool, columns: dict[str, str]) -> int:
    """Print the entries of a kind; `columns` maps a word to the fact shown behind it."""
    from salmu_core.cli import render
    from salmu_core.cli.catalogue import read_catalogue

    catalogue = read_catalogue()
    listed = []
    for entry in catalogue.of(kind).values():
        facts: dict[str, Any] = {"name": entry["name"], "summary": entry["summary"]}
        facts |= {"package": entry["package"]["name"], "version": entry["package"]["version"]}
        for attribute in columns.values():
            value = entry[attribute]
            key = "benchmark_version" if attribute == "version" else attribute
            facts[key] = value if isinstance(value, str | bool) or value is None else ", ".join(value)
        listed.append(facts)
    if as_json:
        render.print_json(listed)
    else:
        render.show_entries(
            (
                str(item["name"]),
                str(item["summary"]),
                [
                    f"{item['package']} {item['version']}",
                    *(_fact(word, item["benchmark_version" if key == "version" else key]) for word, key in columns.items()),
                ],
            )
            for item in listed
        )
    render.show_problems(catalogue.problems)
    return 0


def _fact(word: str, value: object) -> str:
    """A fact in words; empty where there is nothing to say."""
    if not value:
        return ""
    return word if value is True else f"{word} {value}".strip()


@click.command("list-methods", epilog="\b\nExample:\n  salmu list-methods --json")
@_json_flag
def list_methods_command(as_json: bool) -> int:
    """List the installed unlearning methods: family, data they see, package, paper."""
    return _list(
        "method", as_json, {"family:": "family", "sees:": "data", "columns:": "columns", "oracle": "oracle", "": "paper"}
    )


@click.command("list-metrics", epilog="\b\nExample:\n  salmu list-metrics --json")
@_json_flag
def list_metrics_command(as_json: bool) -> int:
    """List the installed metrics: what they look at, whose value is the target, package."""
    return _list("metric", as_json, {"looks at:": "aspect", "target:": "target", "primary": "primary", "": "paper"})


@click.command("list-benchmarks", epilog="\b\nExample:\n  salmu list-benchmarks --json")
@_json_flag
def list_benchmarks_command(as_json: bool) -> int:
    """List the installed benchmarks: version, package, paper."""
    return _list("benchmark", as_json, {"benchmark version": "version", "": "paper"})


@click.command("list-audits", epilog="\b\nExample:\n  salmu list-audits --json")
@_json_flag
def list_audits_command(as_json: bool) -> int:
    """List the installed audits: what each attack does and measures, package, paper."""
    return _list("audit", as_json, {"": "paper"})


def _complete_any(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    return [
        item
        for kind in ("method", "metric", "benchmark", "audit")
        for item in complete_names(kind)(ctx, parameter, incomplete)
    ]


@click.command("describe", epilog="\b\nExamples:\n  salmu describe gradient-ascent\n  salmu describe RetFail --json")
@click.argument("name", shell_complete=_complete_any)
@_json_flag
def describe_command(name: str, as_json: bool) -> int:
    """Show the card of a method, metric, benchmark or audit, its options with types, defaults and bounds, and presets."""
    from salmu_core.cli import render
    from salmu_core.cli.catalogue import read_catalogue
    from salmu_core.errors import UnknownName

    catalogue = read_catalogue()
    found = catalogue.find(name)
    if found is None:
        raise UnknownName("method, metric, benchmark or audit", name, catalogue.names)
    if as_json:
        of_one_kind = ("family", "oracle", "aspect", "target", "primary", "version")
        render.print_json({key: value for key, value in found.items() if key not in of_one_kind})
    else:
        _show(found)
    render.show_problems(catalogue.problems)
    return 0


def _show(found: Mapping[str, Any]) -> None:
    """The card of an entry, with its options before it."""
    from rich.markdown import Markdown

    from salmu_core.cli import render

    package = found["package"]
    render.out.print(f"[bold]{found['name']}[/] ({found['kind']}, {package['name']} {package['version']})", highlight=False)
    render.out.print(found["summary"], markup=False, highlight=False)
    rows = [(o["name"], o["type"], str(o["default"]), o["bounds"], o["description"]) for o in found["options"]]
    tables = [render.make_table(("Option", "Type", "Default", "Bounds", "What it is"), rows)]
    if found["kind"] == "method":
        sees = [
            ("splits", ", ".join(found["data"]) or "no split"),
            ("metadata columns", ", ".join(found["columns"]) or "no column"),
            ("Clean model", "yes" if found["oracle"] else "no"),
        ]
        tables.append(render.make_table(("It sees", ""), sees))
    if found["search"]:
        tables.append(render.make_table(("salmu tune varies", "over"), found["search"].items()))
    if found["presets"]:
        listed = [
            (benchmark, ", ".join(f"{option}={value}" for option, value in preset.items()) or "the defaults")
            for benchmark, preset in found["presets"].items()
        ]
        tables.append(render.make_table(("Preset of", "options"), listed))
    for table in tables:
        render.out.print()
        render.out.print(table)
    render.out.print()
    render.out.print(Markdown(found["card"]) if found["card"] else "This package ships no card.")
