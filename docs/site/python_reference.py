"""The reference of Python names: what to ask mkdocstrings for, group by group."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import salmu_core

#: Title -> public names. Every name of `salmu_core` stands in exactly one group; a test says when one was forgotten.
GROUPS = {
    "Run, score, compare": (
        "run",
        "evaluate",
        "compare",
        "Study",
        "StudyMethod",
        "load_records",
        "load_model",
        "Settings",
    ),
    "Records": ("RunRecord", "RunSpec", "PublishedRow"),
    "Write a method": (
        "UnlearningMethod",
        "LossMethod",
        "UnlearnContext",
        "FitOptions",
        "SampleMeter",
        "Batch",
        "Pairs",
        "Features",
    ),
    "Options": ("Options", "Between", "OneOf"),
    "Write a metric": ("Metric", "View", "Embedded", "Score", "NotMeasurable"),
    "Write an audit": ("Audit", "AuditContext", "Leak"),
    "Write a benchmark": (
        "Benchmark",
        "Budget",
        "BuildStep",
        "Counted",
        "Terms",
        "Download",
        "Split",
        "SplitInfo",
        "EncodedImages",
        "join_splits",
    ),
    "Add a command": ("CommandInfo",),
    "Layouts": ("Layout", "Finding"),
    "Models": ("DualEncoder", "ModelConfig", "apply_adapter"),
    "Errors": ("SalmuError", "BadData"),
}
#: Names that are an alias or somebody else's: what they are.
WORDS = {
    "__version__": "the installed version",
    "MakeMethod": "makes an installed method of that name with these options",
    "Field": "[pydantic's `Field`](https://docs.pydantic.dev/latest/concepts/fields/): default, bounds and description of an option",
    "Report": "what a benchmark's `build` calls with every `BuildStep`",
    "Role": '`"forget"` or `"retain"`',
    "Target": '`"clean"` or `"compromised"`',
    "hookimpl": "marks a plugin's [hooks](hooks.md)",
}
MODULES = {
    "salmu_core.losses": "Losses",
    "salmu_authors.testing": "Tests of plugins",
    "salmu_audits": "Attack a model",
    "salmu_tune": "Choose options",
    "salmu_share": "Publish a run",
    "salmu_upkeep": "Repeat runs, add scores",
}


def python_reference() -> str:
    """Markdown with a `:::` line for everything public."""
    lines = []
    grouped = {name for names in GROUPS.values() for name in names}
    rest = [name for name in salmu_core.__all__ if name not in grouped and name not in WORDS]
    for title, names in {**GROUPS, **({"More": tuple(rest)} if rest else {})}.items():
        lines += [f"## {title}", ""]
        for name in names:
            home = salmu_core._HOMES[name]
            lines += [f"::: salmu_core.{home}.{name}", ""]
    for module, title in MODULES.items():
        lines += [f"## {title}", "", f"Module `{module}`.", ""]
        lines += [f"::: {path}\n" for path in _functions(module)]
    lines += ["## Others", "", *(f"- `{name}`: {words}" for name, words in WORDS.items())]
    return "\n".join(lines)


def python_file() -> str:
    """The same for who reads the file: every public name with its signature and what it does, and the methods of classes."""
    lines = []
    for title, names in GROUPS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += _described(name, getattr(salmu_core, name))
    for module, title in MODULES.items():
        lines += ["", f"## {title}", "", f"Module `{module}`."]
        for path in _functions(module):
            home, _, name = path.rpartition(".")
            lines += _described(name, getattr(importlib.import_module(home), name))
    lines += ["", "## Others", "", *(f"- `{name}`: {words}" for name, words in WORDS.items())]
    return "\n".join(lines)


def _described(name: str, thing: Any) -> list[str]:
    lines = ["", f"### {name}", "", "```text", _call(name, thing), "```", "", *_words(thing)]
    if isinstance(thing, type):
        own = [
            (member, item)
            for member, item in inspect.getmembers(thing, inspect.isroutine)
            if member[0] != "_" and (getattr(item, "__module__", None) or "").startswith("salmu")
        ]
        rows = [
            f"| `{_call(member, item, longest=10_000)}` | {' '.join(_words(item)[:1])} |".replace(" | None", " or None")
            for member, item in own
        ]
        lines += ["", "| method | what |", "|---|---|", *rows] if rows else []
    return lines


def _made(text: str) -> str:
    """Functions as defaults have no words of their own."""
    return re.sub(r"<(?:factory|function (?:[^<>]|<\w+>)+)>", "...", text)


class _Bare(str):
    """An annotation that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _call(name: str, thing: Any, longest: int = 100) -> str:
    """The call, a parameter a line where one line would be long."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return name

    def bare(hint: Any) -> Any:
        return _Bare(hint) if isinstance(hint, str) else hint

    shown = signature.replace(
        parameters=[each.replace(annotation=bare(each.annotation)) for each in signature.parameters.values()],
        return_annotation=bare(signature.return_annotation),
    )
    text = _made(f"{name}{shown}")
    if len(text) <= longest:
        return text
    inner, after_star = [], any(each.kind is each.VAR_POSITIONAL for each in shown.parameters.values())
    for each in shown.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not after_star:
            inner.append("    *,")
            after_star = True
        inner.append(_made(f"    {each},"))
    end = "" if shown.return_annotation is shown.empty else f" -> {shown.return_annotation}"
    return "\n".join([f"{name}(", *inner, f"){end}"])


def _words(thing: Any) -> list[str]:
    """The paragraph that a docstring begins with."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return [re.sub(r"([|<>*])", r"\\\1", " ".join(text.split()))] if text else []


def _functions(module: str) -> list[str]:
    """The public functions and classes of a module by the places where they are written."""
    loaded = importlib.import_module(module)
    named = getattr(loaded, "__all__", None)
    names = named or [
        name for name, item in vars(loaded).items() if name[0] != "_" and getattr(item, "__module__", "") == module
    ]
    return [f"{getattr(loaded, name).__module__}.{name}" for name in names]
