"""`salmu list-methods`, `list-metrics`, `list-benchmarks` and `describe`."""

from __future__ import annotations

from typing import Any

import click

from salmu_core.cli.arguments import complete_names

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


def _list(kind: Any, as_json: bool, columns: dict[str, str]) -> int:
    """Print the entries of a kind; `columns` maps a heading to the attribute shown below it."""
    from salmu_core.cli import render
    from salmu_core.plugins import load_plugins

    plugins = load_plugins()
    listed = []
    for name, entry in sorted(plugins.of(kind).items()):
        facts = {"name": name}
        for attribute in columns.values():
            value = getattr(entry.cls, attribute, None)
            facts[attribute] = value if isinstance(value, str | bool) or value is None else ", ".join(value)
        listed.append({**facts, "package": entry.package.name, "version": entry.package.version})
    if as_json:
        render.print_json(listed)
    else:
        keys = ["name", *columns.values()]
        rows = [[_cell(item.get(key)) for key in keys] + [f"{item['package']} {item['version']}"] for item in listed]
        render.out.print(render.make_table(("Name", *columns, "Package"), rows))
    render.show_problems(plugins.problems)
    return 0


def _cell(value: object) -> str:
    if value is None or value is False:
        return ""
    return "yes" if value is True else str(value)


@click.command("list-methods", epilog="\b\nExample:\n  salmu list-methods --json")
@_json_flag
def list_methods_command(as_json: bool) -> int:
    """List the installed unlearning methods: family, data they see, package, paper."""
    columns = {"Family": "family", "Sees": "data", "Oracle": "oracle", "Summary": "summary", "Paper": "paper"}
    return _list("method", as_json, columns)


@click.command("list-metrics", epilog="\b\nExample:\n  salmu list-metrics --json")
@_json_flag
def list_metrics_command(as_json: bool) -> int:
    """List the installed metrics: what they look at, whose value is the target, package."""
    return _list("metric", as_json, {"Aspect": "aspect", "Target": "target", "Summary": "summary", "Paper": "paper"})


@click.command("list-benchmarks", epilog="\b\nExample:\n  salmu list-benchmarks --json")
@_json_flag
def list_benchmarks_command(as_json: bool) -> int:
    """List the installed benchmarks: version, package, paper."""
    return _list("benchmark", as_json, {"Benchmark version": "version", "Summary": "summary", "Paper": "paper"})


def _complete_any(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[Any]:
    return [
        item for kind in ("method", "metric", "benchmark") for item in complete_names(kind)(ctx, parameter, incomplete)
    ]


@click.command("describe", epilog="\b\nExamples:\n  salmu describe gradient-ascent\n  salmu describe RetFail --json")
@click.argument("name", shell_complete=_complete_any)
@_json_flag
def describe_command(name: str, as_json: bool) -> int:
    """Show the card of a method, metric or benchmark and its options with types, defaults and bounds."""
    from rich.markdown import Markdown

    from salmu_core.cli import render
    from salmu_core.errors import UnknownName
    from salmu_core.options import describe_options
    from salmu_core.plugins import load_plugins
    from salmu_core.registry import card_of

    plugins = load_plugins()
    kinds = ("method", "metric", "benchmark")
    entry = next((plugins.of(kind)[name] for kind in kinds if name in plugins.of(kind)), None)  # type: ignore[arg-type]
    if entry is None:
        known = [known for kind in kinds for known in plugins.of(kind)]  # type: ignore[arg-type]
        raise UnknownName("method, metric or benchmark", name, known)
    options = describe_options(entry.cls.Options)
    card = card_of(entry)
    if as_json:
        render.print_json(
            {
                "name": name,
                "kind": entry.kind,
                "summary": entry.cls.summary,
                "package": entry.package.model_dump(),
                "paper": entry.cls.paper,
                "options": [vars(option) for option in options],
                "card": card,
            }
        )
        return 0
    render.out.print(f"[bold]{name}[/] ({entry.kind}, {entry.origin})", highlight=False)
    render.out.print(entry.cls.summary, markup=False, highlight=False)
    rows = [(o.name, o.type, str(o.default), o.bounds, o.description) for o in options]
    render.out.print()
    render.out.print(render.make_table(("Option", "Type", "Default", "Bounds", "What it is"), rows))
    render.out.print()
    render.out.print(Markdown(card) if card else "This package ships no card.")
    return 0
