"""The contract of an audit: an attack that tries to get forgotten associations back out of a model.

Metrics look at embeddings as they are; audits may train the model, round its weights, exchange its towers or learn maps between
them. Each is also run on the Clean and the Compromised model: what it gets from Clean is what anybody gets who never saw the
associations, and only the rest was kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from salmu_core.options import AnyOptions, Options
from salmu_core.records.schema import Target

if TYPE_CHECKING:
    from salmu_core.runner.audit_context import AuditContext


@dataclass(frozen=True)
class Leak:
    """What an attack got out of one model.

    Args:
        value: more is worse for whoever asked to be forgotten.
        extras: companions, e.g. the value before the attack.
    """

    value: float
    extras: Mapping[str, float] = field(default_factory=dict)


class Audit(ABC):
    """An attack on a finished model."""

    name: ClassVar[str]  # what people type after --only
    summary: ClassVar[str]  # one sentence: what is done, and what is then measured
    paper: ClassVar[str | None] = None  # address of the paper
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)  # least and largest value
    version: ClassVar[str] = "1"  # results kept from another version are not used: change it with what is computed
    # Options with which it is cheap enough for every comparison ({}: its defaults); None: only `--audits all` runs it.
    quick: ClassVar[Mapping[str, Any] | None] = None
    # Reference models that the attacker has to hold. Nobody outside has them, so such an audit explains a result but is left out of
    # `recovered`, the most that an attack on the model alone gets.
    references: ClassVar[tuple[Target, ...]] = ()
    Options: ClassVar[type[Options]] = Options  # a subclass of Options, with a default for every option

    def __init__(self, options: AnyOptions | None = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    @abstractmethod
    def attack(self, ctx: AuditContext) -> Leak:
        """Attack `ctx.model`, which is a copy of the attack's own. Deterministic: draw through `ctx.generator`.

        Raises:
            NotMeasurable: the data at hand cannot support the attack.
        """
