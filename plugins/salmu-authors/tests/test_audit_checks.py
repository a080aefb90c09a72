"""The contract of an audit: salmu's own audits keep it, and each planted fault is found by its own check."""

from __future__ import annotations

import random

import pytest
import torch

from salmu_authors.testing import report_audit
from salmu_core import Audit, Field, Leak, Options
from salmu_core.plugins.loading import load_plugins

#: What makes the trained attacks of salmu's own short.
LIGHT = {"lrs": (1e-3,), "towers": ("text",), "epochs": 1, "steps": 2, "curve": True}
OWN = {name: entry for name, entry in load_plugins().audits.items() if entry.package.name == "salmu-audits"}


class Correct(Audit):
    """How well the model finds forgotten captions, as it is."""

    name = "correct"
    summary = "Asks once."
    quick = {"rows": 2}

    class Options(Options):
        """How many."""

        rows: int = Field(4, ge=1, description="photos that are asked about")

    def attack(self, ctx):
        forget = ctx.split("forget").take(range(self.options.rows))
        cosine = (ctx.images(forget) * ctx.texts(forget.texts)).sum(dim=1).mean()
        return Leak(float(cosine.clamp(0, 1)) / 2, {"rows": float(len(forget))})


class Global(Correct):
    """Draws globally."""

    def attack(self, ctx):
        torch.randn(1)
        return super().attack(ctx)


class Fresh(Correct):
    """Another value each time."""

    def attack(self, ctx):
        found = super().attack(ctx)
        return Leak(found.value + random.Random().random() / 100, found.extras)


class Outside(Correct):
    """More than there is."""

    def attack(self, ctx):
        return Leak(2.0)


class Endless(Correct):
    """A companion that is no number."""

    def attack(self, ctx):
        return Leak(0.5, {"half": float("nan")})


class Breaks(Correct):
    """Changes the model that it is measured against."""

    def attack(self, ctx):
        with torch.no_grad():
            next(iter(ctx.reference("clean").tower_parameters())).add_(1)
        return super().attack(ctx)


class Raises(Correct):
    """Fails."""

    def attack(self, ctx):
        raise RuntimeError("out of ideas")


class Number(Correct):
    """Gives a number in the place of a leak."""

    def attack(self, ctx):
        return 0.5


class Misspelt(Correct):
    """Names an option that it has not."""

    quick = {"row": 2}


class Upside(Correct):
    """Has its bounds the wrong way round."""

    bounds = (1.0, 0.0)


FAULTS = {
    Global: "no-global-randomness",
    Fresh: "deterministic",
    Outside: "within-bounds",
    Endless: "finite",
    Breaks: "references-unchanged",
    Raises: "attacks",
    Number: "attacks",
    Misspelt: "quick",
}


@pytest.mark.parametrize("name", OWN)
def test_own_audits_keep_the_contract(name):
    cls = OWN[name].cls
    options = {option: value for option, value in LIGHT.items() if option in cls.Options.model_fields}
    report = report_audit(cls, options, entry=OWN[name])
    assert report.ok, [(item.id, item.message) for item in report.of("failed")]


def test_a_correct_audit_passes_and_says_what_it_could_not_look_at():
    report = report_audit(Correct)
    assert report.ok
    assert {item.id for item in report.of("skipped")} == {"installed-core", "references-unchanged", "card"}


@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__)
def test_a_fault_of_an_audit_is_found_by_its_check(cls):
    failed = {item.id: item.message for item in report_audit(cls).of("failed")}
    assert FAULTS[cls] in failed
    others = set(failed) - {FAULTS[cls], "quick-attacks", "deterministic"}
    assert not others, failed


def test_bounds_the_wrong_way_round_cannot_be_registered():
    assert {item.id for item in report_audit(Upside).of("failed")} >= {"class"}
