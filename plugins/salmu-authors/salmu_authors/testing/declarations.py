"""Checks of what a class says about itself, shared by methods, metrics, benchmarks and audits; and what metrics and audits
share of how they are run."""

from __future__ import annotations

import inspect
import re
from typing import Any

from salmu_authors.testing.contract import Checks, NotApplicable
from salmu_authors.testing.package import requirement_fault
from salmu_core.errors import BadOptions, PluginFailure
from salmu_core.options import describe_options, parse_options
from salmu_core.plugins.loading import require_class

_LONGEST_SUMMARY = 160


def add_declaration_checks(checks: Checks) -> None:
    """Put the shared checks first on a list."""

    @checks.add("class", "The class can be registered: its base, name, summary and default options are there.")
    def registrable(trial: Any) -> None:
        try:
            require_class(trial.kind, trial.cls)
        except PluginFailure as failure:
            raise AssertionError(f"{trial.cls.__name__} cannot be registered: {failure.message}.") from None

    @checks.add("name", "The name is one word of letters, digits and hyphens, as people type it.")
    def name(trial: Any) -> None:
        given = str(trial.cls.name)
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", given), (
            f"The name '{given}' is awkward to type: use letters and digits, words joined by hyphens."
        )

    @checks.add("summary", "The summary is one sentence.")
    def summary(trial: Any) -> None:
        given = trial.cls.summary
        assert given.strip() and given.rstrip().endswith("."), (
            f"The summary '{given}' is not a sentence: end it with a full stop."
        )
        assert "\n" not in given, "The summary has more than one line: listings show one sentence."
        assert len(given) <= _LONGEST_SUMMARY, f"The summary has {len(given)} characters: say it in {_LONGEST_SUMMARY}."
        assert "TODO" not in given, "The summary still holds a TODO."

    @checks.add("docstring", "The class has a docstring of its own.")
    def docstring(trial: Any) -> None:
        own = trial.cls.__dict__.get("__doc__")
        assert own and own.strip(), f"{trial.cls.__name__} has no docstring: say in a sentence what it does."

    @checks.add("paper", "`paper` is None or an address that a reader can open.")
    def paper(trial: Any) -> None:
        given = trial.cls.paper
        assert given is None or re.match(r"https?://\S+$", str(given)), (
            f"paper = {given!r} is no address: give https://arxiv.org/abs/..., or leave it out."
        )

    @checks.add("constructor", "The class is made from its options alone, and keeps them as `self.options`.")
    def constructor(trial: Any) -> None:
        options = trial.cls.Options(**trial.options)
        try:
            made, plain = trial.cls(options), trial.cls()
        except TypeError as error:
            raise AssertionError(
                f"{trial.cls.__name__}(options) raised {error}: do not add arguments to __init__."
            ) from None
        assert made.options == options, "self.options is not what __init__ was given: call super().__init__(options)."
        assert plain.options == trial.cls.Options(), (
            "Without options the defaults must be used: call super().__init__(options)."
        )

    @checks.add("options-round-trip", "Options survive being written to a record and read back.")
    def options_round_trip(trial: Any) -> None:
        options = trial.cls.Options(**trial.options)
        assert trial.cls.Options(**options.model_dump(mode="json")) == options, (
            "Options do not survive a round trip through JSON: use numbers, text, booleans, lists and None."
        )

    @checks.add("options-strict", "Options that are misspelt are refused, and options cannot change after they are made.")
    def options_strict(trial: Any) -> None:
        config = trial.cls.Options.model_config
        assert config.get("extra") == "forbid", "Unknown options are taken silently: leave extra='forbid' as it is."
        assert config.get("frozen"), "Options can be changed after they are made: leave frozen=True as it is."

    @checks.add("options-described", "Every option says what it is.")
    def options_described(trial: Any) -> None:
        bare = [option.name for option in describe_options(trial.cls.Options) if not option.description.strip()]
        assert not bare, f"These options have no description: {', '.join(bare)}. Write Field(..., description=...)."

    @checks.add("options-from-text", "Every default can be typed after --set.")
    def options_from_text(trial: Any) -> None:
        if not trial.cls.Options.model_fields:
            raise NotApplicable("It has no options.")
        for name, value in trial.cls.Options().model_dump(mode="json").items():
            text = "none" if value is None else str(value)
            if isinstance(value, list | dict):
                continue  # typed as JSON, which the round trip has tried
            try:
                parsed = parse_options(trial.cls.Options, {name: text}, trial.cls.name)
            except BadOptions as error:
                raise AssertionError(f"`--set {name}={text}` is refused: {error.message}") from None
            assert parsed.model_dump(mode="json")[name] == value, (
                f"`--set {name}={text}` gives another value than the default."
            )

    @checks.add("installed-core", "The package says which versions of salmu it works with, and this is one of them.")
    def installed_core(trial: Any) -> None:
        if trial.entry is None or trial.entry.package.name == "salmu":
            raise NotApplicable("It is not an installed plugin.")
        fault = requirement_fault(trial.entry.package.name)
        assert fault is None, fault


def add_process_checks(checks: Checks, generator: str) -> None:
    """Put on a list what metrics and audits share: what their one call did to the process.

    Args:
        generator: where to draw from instead, as an order.
    """

    @checks.add("no-global-randomness", "Nothing is drawn from global generators.")
    def no_global_randomness(trial: Any) -> None:
        _ = trial.first
        assert not trial.drawn, f"It draws from or seeds {', '.join(trial.drawn)}: {generator}."

    @checks.add("process-settings", "Settings of the process are as they were.")
    def process_settings(trial: Any) -> None:
        _ = trial.first
        assert not trial.settings, f"It left the process changed. {' '.join(trial.settings)}"


def own_module(cls: type) -> str:
    """The source file of a class; empty where it is unknown."""
    try:
        return inspect.getfile(cls)
    except (TypeError, OSError):
        return ""
