"""The reference of public types: every field and class attribute, with its type, the values that are allowed, and its default."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from python_reference import GROUPS

import salmu_core
from salmu_core.options import Options
from salmu_core.plugins.declared import allowed_values, type_words

_MISSING: Any = object()
#: Members that say nothing about themselves, where a table was made: none, as a test makes sure.
SILENT: list[str] = []


@dataclasses.dataclass(frozen=True)
class Member:
    """One row of a type's table."""

    name: str
    type: str
    allowed: str
    default: str
    words: str


def types_reference() -> str:
    """Markdown: a heading and a table for every public type that has fields."""
    lines = []
    for title, names in GROUPS.items():
        found = [(name, cls) for name in names if isinstance(cls := getattr(salmu_core, name), type)]
        tables = [(name, cls, list(members(cls))) for name, cls in found]
        if any(rows for _, _, rows in tables):
            lines += ["", f"## {title}"]
        for name, cls, rows in tables:
            if rows:
                lines += ["", f"### {name}", "", _sentence(cls), "", *_table(rows)]
    return "\n".join([*lines, ""])


def _table(rows: list[Member]) -> list[str]:
    head = ["| name | type | allowed | default | what |", "|---|---|---|---|---|"]
    return head + [
        f"| `{row.name}` | {_code(row.type)} | {row.allowed} | {_code(row.default)} | {row.words} |" for row in rows
    ]


def _cell(words: str) -> str:
    return words.removesuffix(".").replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _sentence(cls: Any) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def members(cls: type) -> Iterator[Member]:
    """Fields of a value, class attributes of a contract, attributes that a docstring names."""
    said = _said(cls)
    if issubclass(cls, BaseModel):
        yield from _pydantic(cls, said)
        return
    defaults = {}
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            made = field.default_factory is not dataclasses.MISSING
            defaults[field.name] = "empty" if made else _MISSING if field.default is dataclasses.MISSING else field.default
    hints = _hints(cls)
    for name in _own_names(cls, hints):
        text, hint = hints[name]
        shared = typing.get_origin(hint) is ClassVar
        inner = typing.get_args(hint)[0] if shared else hint
        default = defaults.get(name, getattr(cls, name, _MISSING)) if shared or defaults else _MISSING
        if isinstance(default, property | tuple) and issubclass(cls, tuple):
            default = _MISSING
        yield _member(cls, name, text, inner, default, said)
    for name, words in said.items():
        if name not in hints and name in _attributes(cls):
            yield Member(name, "", "", "", _cell(words))
    for name, item in _own_members(cls):
        if isinstance(item, property) and not name.startswith("_"):
            text = item.fget.__annotations__.get("return", "") if item.fget else ""
            yield Member(name, _type(text), "", "", _cell(_sentence(item)))


def _hints(cls: type) -> dict[str, tuple[str, Any]]:
    """Every annotation of a class and of its bases in salmu: as it is written, and what it means."""
    found: dict[str, tuple[str, Any]] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("salmu_core"):
            names = _names(base)
            own = inspect.get_annotations(base)
            kept = {name: text for name, text in own.items() if name[0] != "_" and name != "model_config"}
            found |= {
                name: (text, eval(text, names)) if isinstance(text, str) else (type_words(text), text)
                for name, text in kept.items()
            }
    return found


def _public() -> set[Any]:
    """The classes that have a table of their own."""
    return {getattr(salmu_core, name) for names in GROUPS.values() for name in names}


def _own_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Members of a class, and of bases in salmu that have no table."""
    public = _public()
    for base in cls.__mro__:
        if base is cls or (base.__module__.startswith("salmu_core") and base not in public):
            yield from vars(base).items()


def _own_names(cls: type, hints: dict[str, Any]) -> list[str]:
    """What a class states itself: what a public base states stands in the base's table."""
    public = _public()
    told: set[str] = set()
    for base in cls.__mro__[1:]:
        if base in public:
            told |= set(inspect.get_annotations(base))
    return [name for name in hints if not name.startswith("_") and name not in told]


def _member(cls: type, name: str, text: str, hint: Any, default: Any, said: dict[str, str]) -> Member:
    words = said.get(name, "")
    if not words:
        SILENT.append(f"{cls.__name__}.{name}")
    allowed = ", ".join(f"`{value}`" for value in allowed_values(hint))
    shown = "" if default is _MISSING else default if default == "empty" else _shown(default)
    return Member(name, _type(text), allowed, shown, _cell(words))


def _shown(default: Any) -> str:
    return default.__name__ if isinstance(default, type) else repr(default)


def _type(text: str) -> str:
    """An annotation as people read it: without the marker of class attributes, and words that are allowed stand elsewhere."""
    return re.sub(r"Literal\[[^\]]*\]", "str", re.sub(r"^ClassVar\[(.*)\]$", r"\1", text))


def _pydantic(cls: type[BaseModel], said: dict[str, str]) -> Iterator[Member]:
    hints = _hints(cls)
    for name, field in cls.model_fields.items():
        words = (field.description or "") or said.get(name, "")
        if not words:
            SILENT.append(f"{cls.__name__}.{name}")
        default = field.get_default(call_default_factory=True)
        bounds = [
            f"{sign} {getattr(item, key)}" for item in field.metadata for key, sign in _BOUNDS.items() if hasattr(item, key)
        ]
        allowed = ", ".join([*(f"`{value}`" for value in allowed_values(field.annotation)), *bounds])
        shown = "" if default is PydanticUndefined else "empty" if isinstance(default, BaseModel) else _shown(default)
        yield Member(name, _type(hints[name][0]), allowed, shown, _cell(words))


_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _names(cls: type) -> dict[str, Any]:
    """What annotations may name that is imported for type checkers alone."""
    import importlib

    import numpy
    import torch
    from jaxtyping import Float, Int

    from salmu_core.data.pixels import PairStore

    found: dict[str, Any] = {
        "np": numpy,
        "torch": torch,
        "Float": Float,
        "Int": Int,
        "Tensor": torch.Tensor,
        "PairStore": PairStore,
    }
    found |= {name: getattr(salmu_core, name) for name in salmu_core.__all__}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("salmu_core"):
            found |= vars(importlib.import_module(base.__module__))
    return found


def _attributes(cls: type) -> set[str]:
    """Names that a docstring lists under Attributes."""
    section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)+)", inspect.getdoc(cls) or "", re.M)
    return {name for names, _ in _entries(section[1] if section else "") for name in names}


def _said(cls: type) -> dict[str, str]:
    """Name -> words: from docstrings and from comments beside the lines, of the class and what it derives from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not base.__module__.startswith("salmu_core") or base is Options:
            continue
        found |= _comments(base)
        for section in re.finditer(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", inspect.getdoc(base) or "", re.M):
            found |= {name: words for names, words in _entries(section[1]) for name in names if not words.startswith("see ")}
    return found


def _entries(section: str) -> Iterator[tuple[list[str], str]]:
    text = textwrap.dedent(section)
    for found in re.finditer(r"^([\w, ]+):[ ]?((?:.*\n?)(?:[ \t]+.*\n?)*)", text, re.M):
        yield [name.strip() for name in found[1].split(",")], " ".join(found[2].split())


def _comments(cls: type) -> dict[str, str]:
    """Comments above or behind the annotated lines of a class."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    comments: dict[int, tuple[str, bool]] = {}
    for token in tokenize.generate_tokens(iter(f"{line}\n" for line in lines).__next__):
        if token.type == tokenize.COMMENT:
            alone = not lines[token.start[0] - 1][: token.start[1]].strip()
            comments[token.start[0]] = (token.string.lstrip("#: "), alone)
    found = {}
    [body] = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        behind = [comments[line][0] for line in range(node.lineno, (node.end_lineno or 0) + 1) if line in comments]
        above: list[str] = []
        line = node.lineno - 1
        while line in comments and comments[line][1]:
            above.insert(0, comments[line][0])
            line -= 1
        if words := " ".join(behind or above):
            found[node.target.id] = words
    return found
