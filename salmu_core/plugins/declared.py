"""What a plugin's class says of itself, compared with the types that the contract states for it."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

_MISSING = object()


@cache
def declared_types(base: type) -> dict[str, Any]:
    """Name -> type of every class attribute that a contract's base class states."""
    hints = typing.get_type_hints(base)
    return {name: typing.get_args(hint)[0] for name, hint in hints.items() if typing.get_origin(hint) is ClassVar}


def allowed_values(hint: Any) -> tuple[Any, ...]:
    """The values that a type names: those of its `Literal`, however deep it stands. Empty where it names none."""
    return tuple(dict.fromkeys(_literals(hint)))


def _literals(hint: Any) -> Iterator[Any]:
    for argument in typing.get_args(hint):
        if typing.get_origin(hint) is Literal:
            yield argument
        else:
            yield from _literals(argument)


def type_words(hint: Any) -> str:
    """A type as people write it."""
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    for prefix in ("typing.", "collections.abc.", "salmu_core.options.", "salmu_core.benchmark."):
        text = text.replace(prefix, "")
    return text


def declaration_fault(kind: str, cls: type, base: type) -> str | None:
    """The first class attribute that is not of the type its contract states, in words that name what is allowed; None when all
    are."""
    for name, hint in declared_types(base).items():
        value: Any = getattr(cls, name, _MISSING)
        if name == "Options" or value is _MISSING or isinstance(value, property):
            continue
        if not _fits(hint, value):
            allowed = allowed_values(hint)
            wanted = f"allowed are {', '.join(map(str, allowed))}" if allowed else f"it has to be {type_words(hint)}"
            return f"its {kind} {cls.__name__} has {name} = {value!r}: {wanted}"
        if name == "bounds" and not value[0] < value[1]:
            return f"its {kind} {cls.__name__} has bounds = {value!r}: the lower one comes first"
    return None


def _fits(hint: Any, value: Any) -> bool:
    try:
        # Strict where a lenient reading would mean something else: the text "false" is true to Python.
        _adapter(hint).validate_python(value, strict=hint in (bool, str) or None)
    except ValidationError:
        return False
    return True


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
