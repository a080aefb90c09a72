"""The reference of hooks, from `salmu_core.hookspecs`."""

from __future__ import annotations

import inspect

from salmu_core import hookspecs


def hook_reference() -> str:
    """Every hook with its signature, what it is for, and its example."""
    lines: list[str] = []
    for name, hook in vars(hookspecs).items():
        if not hasattr(hook, "salmu_spec"):
            continue
        words, _, example = (inspect.getdoc(hook) or "").partition("Example:")
        lines += [
            f"## {name}",
            "",
            "```text",
            f"{name}{inspect.signature(hook)}".replace("'", ""),
            "```",
            "",
            words.strip(),
            "",
        ]
        lines += ["```text", inspect.cleandoc(example), "```", ""]
    return "\n".join(lines)
