"""A model that learned the toy benchmark's associations, shared by all tests of attacks."""

from __future__ import annotations

import copy

import pytest

from salmu_core import FitOptions
from salmu_core.builtin.toy import Toy
from salmu_core.losses import pairs_loss
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.audit_context import AuditContext


class Memorised(Toy):
    """The toy benchmark with a Compromised model that was trained on forget."""

    def load_model(self, which):
        if which == "clean":
            return super().load_model("clean")
        if "trained" not in self.__dict__:
            model = super().load_model("compromised")
            with open_accelerator(cpu=True) as accelerator:
                options = FitOptions(lr=3e-3, epochs=60, batch_size=36)
                AuditContext(model, self, accelerator, 0, "memorise").train(
                    self.split("forget"), lambda model, batch: pairs_loss(model, batch.forget), options
                )
            self.__dict__["trained"] = model
        return copy.deepcopy(self.__dict__["trained"])


@pytest.fixture(scope="session")
def memorised():
    return Memorised(Toy.Options(identities=6))
