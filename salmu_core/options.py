"""Options of methods, metrics and benchmarks: validated, frozen, no unknown keys.

One class, `Options`, serves Python (`Options(lr=1e-4)`), the command line (`--set lr=1e-4`) and record files, so a wrong
value is answered with the same words everywhere.
"""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Field  # re-exported: plugin authors import it from salmu_core
from pydantic_core import PydanticUndefined

from salmu_core.errors import BadOptions

OptionsT = TypeVar("OptionsT", bound="Options")


class Options(BaseModel):
    """Base of every options class. Fields take defaults, bounds and descriptions through `Field`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    def decisive(self) -> dict[str, Any]:
        """What tells a run with these options from others; by default all of them."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Between:
    """A range of a numeric option that a search may try, both ends included.

    Attributes:
        low: the least value.
        high: the largest value.
        log: draw evenly on a logarithmic scale, for options whose right order of magnitude is not known.
    """

    low: float
    high: float
    log: bool = True


@dataclass(frozen=True)
class OneOf:
    """The values of an option that a search may try.

    Attributes:
        values: all of them.
    """

    values: tuple[Any, ...]


#: What `salmu tune` may try: option name -> range. Few and wide is better than many: every method gets the same trials.
SearchSpace = Mapping[str, Between | OneOf]

#: For classes that have an attribute called Options themselves.
AnyOptions = Options


def check_word(what: str, name: str, value: Any, allowed: Iterable[str]) -> None:
    """Refuse a value that is not one of a few words.

    Args:
        what: that has the value, e.g. "A view".

    Raises:
        BadOptions: with the words that are allowed.
    """
    words = list(allowed)
    if value not in words:
        raise BadOptions(f"{what} has {name} = {value!r}.", f"Allowed are {', '.join(words)}.")


@dataclass(frozen=True)
class OptionInfo:
    """One option as `salmu describe` shows it."""

    name: str
    type: str
    default: Any
    bounds: str
    description: str


def parse_options(cls: type[OptionsT], values: Mapping[str, Any], owner: str) -> OptionsT:
    """Build `cls` from `values`; strings (from `--set`) are converted to the declared types.

    Raises:
        BadOptions: an unknown option (near matches are listed), or a value of the wrong type or out of bounds.
    """
    prepared: dict[str, Any] = {}
    for name, value in values.items():
        field = cls.model_fields.get(name)
        if field is None:
            near = difflib.get_close_matches(name, cls.model_fields, n=3, cutoff=0.5)
            known = ", ".join(sorted(cls.model_fields)) or "none"
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It takes: {known}."
            raise BadOptions(f"{owner} has no option '{name}'.", hint)
        prepared[name] = _from_text(value, field.annotation) if isinstance(value, str) else value
    try:
        return cls(**prepared)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(str(part) for part in item["loc"]) or "options"
            problems.append(f"option '{name}' of {owner}: {_lower_first(item['msg'])}, got {item['input']!r}")
        raise BadOptions("; ".join(dict.fromkeys(problems)) + ".", f"See `salmu describe {owner}`.") from None


def describe_options(cls: type[Options]) -> list[OptionInfo]:
    """The options of a class in declaration order, with types, defaults, bounds and descriptions."""
    rows = []
    for name, field in cls.model_fields.items():
        bounds = [_bound_text(item) for item in field.metadata]
        default = field.get_default(call_default_factory=True)
        default = None if default is PydanticUndefined else default
        rows.append(
            OptionInfo(name, _type_text(field.annotation), default, ", ".join(filter(None, bounds)), field.description or "")
        )
    return rows


def describe_space(space: SearchSpace) -> dict[str, str]:
    """What a search may try, in words, by option."""
    return {
        name: " | ".join(map(str, span.values))
        if isinstance(span, OneOf)
        else f"{span.low:g} to {span.high:g}{', logarithmic' if span.log else ''}"
        for name, span in space.items()
    }


def _from_text(value: str, annotation: Any) -> Any:
    """Text as typed after `--set name=`: JSON for lists and mappings, 'none' for optional values, else left to pydantic."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if annotation is type(None) and value.lower() in ("none", "null"):
        return None
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and value.lower() in ("none", "null"):
            return None
        if str in arguments:
            return value
        inner = [a for a in arguments if a is not type(None)]
        return _from_text(value, inner[0]) if len(inner) == 1 else value
    if origin in (list, tuple, dict) or annotation in (list, tuple, dict):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return [part.strip() for part in value.split(",")] if origin in (list, tuple) else value
    return value


def _bound_text(item: Any) -> str:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if hasattr(item, attribute):
            return f"{sign} {getattr(item, attribute):g}"
    return ""


def _type_text(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(a) for a in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(_type_text(a) for a in typing.get_args(annotation))
    if annotation is type(None):
        return "none"
    if typing.get_origin(annotation) is tuple and typing.get_args(annotation)[1:] == (...,):
        return f"list of {_type_text(typing.get_args(annotation)[0])}"
    if typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "")
    return str(getattr(annotation, "__name__", annotation))


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
