"""`salmu list-methods`, `list-metrics`, `list-benchmarks` and `describe`."""

from __future__ import annotations

from typing import Any

import click

from salmu_core.cli.arguments import complete_names

_json_flag = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


def _list(kind: Any, as_json: bool, columns: dict[str, str]) -> int:
    """Print the entries of a kind; `columns` maps a word to the attribute shown behind it."""
    from salmu_core.cli import render
    from salmu_core.plugins.registry import load_plugins

    plugins = load_plugins()
    listed = []
    for name, entry in sorted(plugins.of(kind).items()):
        facts: dict[str, Any] = {"name": name, "summary": entry.cls.summary}
        facts |= {"package": entry.package.name, "version": entry.package.version}
        for attribute in columns.values():
            value = getattr(entry.cls, attribute, None)
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
    render.show_problems(plugins.problems)
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
    from rich.markdown import Markdown

    from salmu_core.cli import render
    from salmu_core.errors import UnknownName
    from salmu_core.options import describe_options, describe_space
    from salmu_core.plugins.cards import card_of
    from salmu_core.plugins.registry import load_plugins
    from salmu_core.spec.resolve import shipped_presets

    plugins = load_plugins()
    kinds = ("method", "metric", "benchmark", "audit")
    entry = next((plugins.of(kind)[name] for kind in kinds if name in plugins.of(kind)), None)  # type: ignore[arg-type]
    if entry is None:
        known = [known for kind in kinds for known in plugins.of(kind)]  # type: ignore[arg-type]
        raise UnknownName("method, metric, benchmark or audit", name, known)
    options = describe_options(entry.cls.Options)
    space = describe_space(getattr(entry.cls, "search", {}))
    presets = shipped_presets(name, plugins) if entry.kind == "method" else {}
    card = card_of(entry)
    if as_json:
        render.print_json(
            {
                "name": name,
                "kind": entry.kind,
                "summary": entry.cls.summary,
                "package": entry.package.model_dump(),
                "paper": entry.cls.paper,
                "data": list(getattr(entry.cls, "data", ())),
                "columns": list(getattr(entry.cls, "columns", ())),
                "options": [vars(option) for option in options],
                "search": space,
                "presets": presets,
                "card": card,
            }
        )
        render.show_problems(plugins.problems)
        return 0
    render.out.print(f"[bold]{name}[/] ({entry.kind}, {entry.origin})", highlight=False)
    render.out.print(entry.cls.summary, markup=False, highlight=False)
    rows = [(o.name, o.type, str(o.default), o.bounds, o.description) for o in options]
    render.out.print()
    render.out.print(render.make_table(("Option", "Type", "Default", "Bounds", "What it is"), rows))
    if entry.kind == "method":
        sees = [
            ("splits", ", ".join(entry.cls.data) or "none"),
            ("metadata columns", ", ".join(entry.cls.columns) or "none"),
        ]
        render.out.print()
        render.out.print(render.make_table(("It sees", ""), [*sees, ("Clean model", "yes" if entry.cls.oracle else "no")]))
    if space:
        render.out.print()
        render.out.print(render.make_table(("salmu tune varies", "over"), space.items()))
    if presets:
        listed = [
            (benchmark, ", ".join(f"{option}={value}" for option, value in preset.items()) or "the defaults")
            for benchmark, preset in presets.items()
        ]
        render.out.print()
        render.out.print(render.make_table(("Preset of", "options"), listed))
    render.out.print()
    render.out.print(Markdown(card) if card else "This package ships no card.")
    render.show_problems(plugins.problems)
    return 0
