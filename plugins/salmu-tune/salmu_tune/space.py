"""What a search may try: a method's declared space, bounded by the rate at which the model was trained, in Optuna's words."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from typing import Any

from salmu_core.method import UnlearningMethod
from salmu_core.options import Between, OneOf, SearchSpace

#: The option that a benchmark's rate of pretraining bounds.
RATE = "lr"


def space_of(cls: type[UnlearningMethod], largest_rate: float | None = None) -> SearchSpace:
    """The declared space, with its learning rate bounded.

    Args:
        largest_rate: of pretraining. A range that lies wholly above it becomes the decade below it.
    """
    span = cls.search.get(RATE)
    if largest_rate is None or not isinstance(span, Between) or span.high <= largest_rate:
        return cls.search
    low = span.low if span.low < largest_rate else largest_rate / 10
    return {**cls.search, RATE: Between(low, largest_rate, span.log)}


def first_trial(cls: type[UnlearningMethod], space: SearchSpace) -> dict[str, Any]:
    """The options that the search begins with: the method's defaults, which need no naming, unless its rate is above the bound."""
    span, default = space.get(RATE), getattr(cls.Options(), RATE, None)
    return {RATE: span.high} if isinstance(span, Between) and default is not None and default > span.high else {}


def searched_values(cls: type[UnlearningMethod], space: SearchSpace, options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the searched options in a trial; nothing when one of them lies outside its range."""
    found = {name: options.get(name, getattr(cls.Options(), name)) for name in space}
    for name, span in space.items():
        value = found[name]
        inside = value in span.values if isinstance(span, OneOf) else value is not None and span.low <= value <= span.high
        if not inside:
            return {}
    return found


def suggest(trial: Any, cls: type[UnlearningMethod], space: SearchSpace) -> dict[str, Any]:
    """The next values to try; three digits of a number are enough, and make it repeatable by hand."""
    chosen: dict[str, Any] = {}
    for name, span in space.items():
        if isinstance(span, OneOf):
            chosen[name] = trial.suggest_categorical(name, list(span.values))
        elif _whole(cls, name):
            chosen[name] = trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
        else:
            value = trial.suggest_float(name, span.low, span.high, log=span.log)
            chosen[name] = min(max(_three_digits(value), span.low), span.high)
    return chosen


def described(space: SearchSpace) -> dict[str, Any]:
    """The space as a preset keeps it."""
    return {
        name: list(span.values) if isinstance(span, OneOf) else {"low": span.low, "high": span.high, "log": span.log}
        for name, span in space.items()
    }


def _whole(cls: type[UnlearningMethod], option: str) -> bool:
    """Does the option take whole numbers?"""
    annotation = cls.Options.model_fields[option].annotation
    return int in (annotation, *typing.get_args(annotation))


def _three_digits(value: float) -> float:
    return 0.0 if value == 0 else round(value, 2 - math.floor(math.log10(abs(value))))
