"""The reference of Python names: what to ask mkdocstrings for, group by group."""

from __future__ import annotations

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


def _functions(module: str) -> list[str]:
    """The public functions and classes of a module by the places where they are written."""
    import importlib

    loaded = importlib.import_module(module)
    named = getattr(loaded, "__all__", None)
    names = named or [
        name for name, item in vars(loaded).items() if name[0] != "_" and getattr(item, "__module__", "") == module
    ]
    return [f"{getattr(loaded, name).__module__}.{name}" for name in names]
