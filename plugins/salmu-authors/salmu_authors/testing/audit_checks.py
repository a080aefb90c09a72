"""The contract of an audit, line by line: it attacks the toy benchmark's models, and what comes of it must hold in a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, get_args

from salmu_authors.testing.context import toy_attack
from salmu_authors.testing.contract import Checks, NotApplicable, NotReached
from salmu_authors.testing.declarations import add_declaration_checks, add_process_checks
from salmu_authors.testing.package import check_names
from salmu_authors.testing.watch import fixed_randomness
from salmu_core.audit import Audit, Leak
from salmu_core.builtin.toy import Toy
from salmu_core.metric import NotMeasurable
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.options import parse_options
from salmu_core.plugins.calls import plugin_code
from salmu_core.plugins.loading import Entry
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.schema import Target

AUDIT_CHECKS = Checks()
add_declaration_checks(AUDIT_CHECKS)
check = AUDIT_CHECKS.add

_TARGETS: tuple[Target, ...] = get_args(Target)


class AuditTrial:
    """An audit and what it gets out of the toy benchmark's models."""

    def __init__(self, cls: type[Audit], options: Mapping[str, Any], entry: Entry[Any] | None = None) -> None:
        self.kind = "audit"
        self.cls: Any = cls
        self.options = dict(options)
        self.entry = entry
        self.toy = Toy()
        self.drawn: list[str] = []
        self.settings: list[str] = []
        self.held: dict[Target, DualEncoder] = {}  # reference models that it asked for in its first attack

    def attack(self, which: Target, options: Mapping[str, Any] | None = None, held: dict[Any, Any] | None = None) -> Leak:
        """Attack a fresh model.

        Args:
            options: instead of the trial's own.
            held: is filled with the reference models that are asked for.
        """
        known: dict[Any, Any] = {} if held is None else held

        def reference(asked: Target) -> DualEncoder:
            return known.setdefault(asked, self.toy.load_model(asked))  # type: ignore[no-any-return]

        audit = self.cls(self.cls.Options(**(self.options if options is None else options)))
        return toy_attack(audit, self.toy.load_model(which), load_reference=reference)

    @cached_property
    def first(self) -> Leak:
        """What it gets out of Compromised.

        Raises:
            NotApplicable: the toy benchmark cannot support it.
            NotReached: it gave nothing.
        """
        own = self.cls.__module__.partition(".")[0]
        with fixed_randomness():
            state = ProcessState()
            try:
                with plugin_code("It", lambda sentence: None, state, own):
                    self.attack("compromised")  # importing a library for the first time may draw and set variables
                with plugin_code("It", self.settings.append, state, own):
                    try:
                        leak = self.attack("compromised", held=self.held)
                    finally:
                        self.drawn = state.drawn()
            except NotMeasurable as reason:
                raise NotApplicable(f"The toy benchmark cannot support it: {reason}.") from None
            except Exception as error:
                self.error: Exception = error
                raise NotReached("It gave no leak: see `attacks`.") from error
            finally:
                self.settings = list(dict.fromkeys(self.settings))
        if not isinstance(leak, Leak):
            self.error = TypeError(f"attack returned {type(leak).__name__}")
            raise NotReached("It gave no leak: see `attacks`.")
        return leak


# ---------------------------------------------------------------- what it declares


@check("bounds", "`bounds` are two finite numbers in order.")
def bounds(trial: AuditTrial) -> None:
    low, high = trial.cls.bounds
    assert math.isfinite(low) and math.isfinite(high) and low < high, f"bounds = {trial.cls.bounds}: give (least, largest)."


@check(
    "references", "`references` names the reference models that the attacker has to hold: clean, compromised, both or none."
)
def references(trial: AuditTrial) -> None:
    odd = [name for name in trial.cls.references if name not in _TARGETS]
    assert not odd, f"references names '{odd[0]}', which is neither clean nor compromised."


@check("quick", "`quick` is None or options that it takes.")
def quick(trial: AuditTrial) -> None:
    if trial.cls.quick is None:
        raise NotApplicable("Only `--audits all` runs it.")
    parse_options(trial.cls.Options, trial.cls.quick, trial.cls.name)


@check("version", "`version` is a word that changes with what is computed.")
def version(trial: AuditTrial) -> None:
    assert isinstance(trial.cls.version, str) and trial.cls.version, f"version = {trial.cls.version!r}: give text."


# ---------------------------------------------------------------- what it gives


@check("attacks", "`attack` returns a Leak on the toy benchmark, or says with NotMeasurable what the data lack.")
def attacks(trial: AuditTrial) -> None:
    try:
        _ = trial.first
    except NotReached:
        words = f"{type(trial.error).__name__}: {trial.error}"
        raise AssertionError(f"attack failed on the toy benchmark: {words}") from None


@check("quick-attacks", "It attacks with the options of `quick`, too.")
def quick_attacks(trial: AuditTrial) -> None:
    _ = trial.first
    if not trial.cls.quick:
        raise NotApplicable("It has no options of its own for that.")
    _within(trial, trial.attack("compromised", trial.cls.quick), "with the options of quick")


@check("finite", "The value and its companions are finite numbers.")
def finite(trial: AuditTrial) -> None:
    for name, value in {"value": trial.first.value, **trial.first.extras}.items():
        assert math.isfinite(float(value)), f"{name} is {value}: look for an empty mean or a division by zero."


@check("within-bounds", "The value lies within `bounds`, on Clean as on Compromised.")
def within_bounds(trial: AuditTrial) -> None:
    _within(trial, trial.first, "on Compromised")
    _within(trial, trial.attack("clean"), "on Clean")


def _within(trial: AuditTrial, leak: Leak, where: str) -> None:
    low, high = trial.cls.bounds
    assert low - 1e-6 <= leak.value <= high + 1e-6, f"The value {where}, {leak.value:.4f}, is outside {trial.cls.bounds}."


@check("deterministic", "Equal models get equal values.")
def deterministic(trial: AuditTrial) -> None:
    _ = trial.first
    with fixed_randomness(1):
        again = trial.attack("compromised")
    assert again.value == trial.first.value, (
        f"Two attacks on one model differ ({trial.first.value} and {again.value}): draw from ctx.generator alone."
    )


add_process_checks(AUDIT_CHECKS, "draw from ctx.generator('what for')")


@check("references-unchanged", "Reference models are read, not changed: the next attack is given the same ones.")
def references_unchanged(trial: AuditTrial) -> None:
    _ = trial.first
    if not trial.held:
        raise NotApplicable("It asks for no reference model.")
    for which, model in trial.held.items():
        same = model.fingerprint() == trial.toy.load_model(which).fingerprint()
        assert same, f"It changed the reference model {which}: work on a copy, or on ctx.model, which is one."


@check("card", "The package has a card that names the audit and each of its options.")
def card(trial: AuditTrial) -> None:
    check_names(trial)
