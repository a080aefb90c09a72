"""A method around another: what the outer one adds to every training step of the inner one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from salmu_core.errors import SalmuError
from salmu_core.method import UnlearningMethod
from salmu_core.runner.fit_job import AfterStep
from salmu_core.runner.gradients import Combine, OnGradients

_INNER = "inner."  # what the inner method keeps is saved under this prefix


@dataclass(frozen=True)
class Wrapping:
    """What an outer method does to the fits of an inner one; by default there is no outer method."""

    outer: UnlearningMethod | None = None
    on_gradients: OnGradients | None = None
    combine: Combine | None = None
    step_done: AfterStep | None = None

    def check_room_for(self, method: UnlearningMethod) -> None:
        """Refuse a method that wants to do the same to another one: only one of them would be heard.

        Raises:
            SalmuError: this wrapping does something to its steps.
        """
        if self.outer is not None and any((self.on_gradients, self.combine, self.step_done)):
            raise SalmuError(
                f"{method.name} works around another method and cannot be inside one that does, as {self.outer.name}.",
                "Choose a method with a loss of its own.",
            )

    def after_step(self, inner: AfterStep | None) -> AfterStep | None:
        """Both calls, the outer one first; either may end the fit."""
        if self.step_done is None or inner is None:
            return self.step_done or inner
        first, second = self.step_done, inner

        def both(step: int) -> bool:
            ends = [bool(first(step)), bool(second(step))]
            return any(ends)

        return both

    def gradients(self, inner: OnGradients | None) -> OnGradients | None:
        """Both calls, the inner one first: the outer one has the last word."""
        if self.on_gradients is None or inner is None:
            return self.on_gradients or inner
        first, second = inner, self.on_gradients

        def both(gradients: Mapping[str, Tensor]) -> None:
            first(gradients)
            second(gradients)

        return both

    def combined(self, inner: Combine | None) -> Combine | None:
        """The one rule there is.

        Raises:
            SalmuError: the inner method has one of its own, and two rules cannot both decide.
        """
        if self.combine is not None and inner is not None:
            raise SalmuError("Both of two methods combine the gradients of the loss's terms.", "Use one of them.")
        return self.combine or inner

    def state(self, method: UnlearningMethod) -> Callable[[], dict[str, Tensor]]:
        """What both methods keep with a checkpoint."""
        if self.outer is None:
            return method.state
        outer = self.outer
        return lambda: outer.state() | {f"{_INNER}{name}": tensor for name, tensor in method.state().items()}

    def load_state(self, method: UnlearningMethod) -> Callable[[dict[str, Tensor]], None]:
        """How both take it back."""
        if self.outer is None:
            return method.load_state
        outer = self.outer

        def load(state: dict[str, Tensor]) -> None:
            outer.load_state({name: tensor for name, tensor in state.items() if not name.startswith(_INNER)})
            inner = {name.removeprefix(_INNER): tensor for name, tensor in state.items() if name.startswith(_INNER)}
            method.load_state(inner)

        return load


def check_inner(outer: UnlearningMethod, inner: UnlearningMethod) -> None:
    """Refuse an inner method that sees more than the outer one declares.

    Raises:
        SalmuError: it does.
    """
    more = [role for role in inner.reads() if role not in outer.reads()]
    if more:
        raise SalmuError(
            f"{inner.name} sees the {more[0]} split, and {outer.name} around it does not declare it.",
            f"{outer.name} declares data = {outer.data}.",
        )
    if inner.oracle and not outer.oracle:
        raise SalmuError(f"{inner.name} sees the Clean model, and {outer.name} around it is not marked oracle.")
