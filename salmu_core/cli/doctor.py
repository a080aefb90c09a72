"""`salmu doctor`."""

from __future__ import annotations

import click

_KINDS = ("methods", "metrics", "benchmarks", "layouts", "audits", "commands")


@click.command("doctor", epilog="\b\nExample:\n  salmu doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor_command(as_json: bool) -> int:
    """Show versions, devices, plugins and their problems, and cache sizes. Exit code 1 when a plugin has a problem."""
    from salmu_core.cli import render
    from salmu_core.cli.command_group import installed_commands
    from salmu_core.plugins.loading import load_plugins
    from salmu_core.runner.doctor import diagnose

    found = diagnose(load_plugins(), installed_commands())
    if as_json:
        render.print_json(found.as_json())
        return 1 if found.problems else 0
    render.out.print(render.make_table(("Package", "Version"), found.versions.items()))
    render.out.print()
    render.out.print(render.make_table(("Device",), [(device,) for device in found.devices]))
    render.out.print()
    for plugin in found.plugins:
        render.show_offer(f"{plugin['package']} {plugin['version']}", {kind: plugin.get(kind, "") for kind in _KINDS})
    render.out.print()
    rows2 = [(name, render.bytes_text(size)) for name, size in found.cache_bytes.items()] or [("empty", "")]
    render.out.print(render.make_table((f"Cache {found.cache}", "Size"), rows2))
    render.show_problems(found.problems)
    if not found.problems:
        render.out.print("\nNo problems found.", style="green")
    return 1 if found.problems else 0
