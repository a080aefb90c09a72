"""What a method may use: the model, the forget and retain splits, and the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from salmu_core.data.pairs import Role
from salmu_core.data.pixels import PairStore
from salmu_core.errors import BadOptions, SalmuError
from salmu_core.method import FitOptions, UnlearningMethod
from salmu_core.models.adapters import Added, LowRank, adapted_names, added_by, installed
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.fit import fit
from salmu_core.runner.fit_job import AfterStep, Fit, Loss
from salmu_core.runner.gradients import Combine, OnGradients
from salmu_core.runner.measuring import Measuring, Tell, silent
from salmu_core.runner.wrapping import Wrapping, check_inner

#: Makes an installed method of that name with these options.
MakeMethod = Callable[[str, Mapping[str, Any]], UnlearningMethod]


class UnlearnContext(Measuring):
    """Handed to `UnlearningMethod.unlearn`.

    Attributes:
        model: the model to change, on the run's device.
        accelerator: Accelerate's, for what the methods below do not cover.
        seed: the run's seed; draw through `generator`.
    """

    def __init__(
        self,
        model: DualEncoder,
        stores: Mapping[Role, PairStore],
        meter: SampleMeter,
        accelerator: Accelerator,
        seed: int,
        method: UnlearningMethod,
        checkpoints: Checkpoints | None = None,
        tell: Tell = silent,
        clean: Callable[[], DualEncoder] | None = None,
        make_method: MakeMethod | None = None,
    ) -> None:
        super().__init__(model, stores, meter, accelerator, seed, method, tell)
        self.history: list[dict[str, float]] = []
        self.steps = 0
        self.global_batch = 0
        #: Names of the parameters that fits trained. A run's record adds those whose values changed in other ways.
        self.trained: set[str] = set()
        #: What adapters added to the weights, fit by fit.
        self.added: list[Added] = []
        self._checkpoints = checkpoints
        self._clean = clean
        self._make_method = make_method
        self._wrapping = Wrapping()
        self._fits = 0
        self.seconds_before_resume = 0.0

    # ------------------------------------------------------------------ training

    def fit(
        self,
        loss: Loss,
        options: FitOptions,
        *,
        steps: int | None = None,
        params: Iterable[nn.Parameter] | None = None,
        splits: Sequence[Role] | None = None,
        after_step: AfterStep | None = None,
        on_gradients: OnGradients | None = None,
        combine: Combine | None = None,
    ) -> None:
        """Minimise `loss(model, batch)`. May be called several times with other losses, parameters or splits.

        Args:
            loss: a scalar, or named scalars that are summed. It sees the global batch.
            options: the loop's options; `epochs=None` uses all the budget that is left.
            steps: optimiser steps, at least one, in the place of the options' epochs.
            params: what is trained; default: both towers without the logit scale.
            splits: roles of which every step sees a batch; the first sets the epoch. Default: what the method `reads`.
            after_step: called after each step with its number; True ends the fit.
            on_gradients: changes the gradients (by parameter name, in place) before they are clipped and used.
            combine: makes one gradient out of those of the loss's named terms; costs a backward pass per term.

        Raises:
            BudgetExceeded: more samples than are left, found before the first step.
            Diverged: a loss or gradient stopped being finite.
        """
        stores: dict[str, PairStore] = {role: self._store(role) for role in splits or self._method.reads()}
        rows = {role: len(store) for role, store in stores.items()}
        steps = self._meter.steps(options, rows, asked=steps)
        chosen = list(params) if params is not None else self.model.tower_parameters("both")
        ids = {id(parameter) for parameter in chosen}
        named = {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in ids}
        changes_gradients = self._wrapping.gradients(on_gradients)
        adapters = self._new_adapters(options, named, changes_gradients)
        self.trained |= set(adapters or named)
        self.global_batch = max(self.global_batch, options.batch_size)
        job = Fit(
            accelerator=self.accelerator,
            model=self.model,
            loss=loss,
            stores=stores,
            options=options,
            steps=steps,
            batch_sizes=self._meter.batch_sizes(options, rows),
            params=[factor for adapter in adapters.values() for factor in adapter.parameters()] or chosen,
            meter=self._meter,
            seed=self.seed,
            number=self._fits,
            after_step=self._wrapping.after_step(after_step),
            on_step=self._on_step,
            checkpoints=self._checkpoints,
            extra_state=self._wrapping.state(self._method),
            load_extra_state=self._wrapping.load_state(self._method),
            on_gradients=changes_gradients,
            combine=self._wrapping.combined(combine),
        )
        self._carry_out(job, adapters)

    def _carry_out(self, job: Fit, adapters: Mapping[str, LowRank]) -> None:
        """Run the loop, and note what it took even when it ends early."""
        self._fits += 1
        try:
            with installed(self.model, adapters):
                self.steps += fit(job)
        finally:
            self.history += job.history
            self.seconds_before_resume += job.seconds_before_resume
            if adapters:
                self.added.append(added_by(adapters))

    def steps_of_fit(
        self, options: FitOptions, splits: Sequence[Role] | None = None, *, reserved: Mapping[Role, int] | None = None
    ) -> int:
        """Optimiser steps that `fit` would take with these options, for a method that divides them between several fits.

        Args:
            splits: as for `fit`.
            reserved: samples per role to leave for measurements, where the options give no epochs.

        Raises:
            BudgetExceeded, BadOptions: as `fit`.
        """
        rows: dict[str, int] = {role: self.rows(role) for role in splits or self._method.reads()}
        return self._meter.steps(options, rows, reserved={str(role): count for role, count in (reserved or {}).items()})

    def _new_adapters(
        self, options: FitOptions, trained: Mapping[str, nn.Parameter], changes_gradients: OnGradients | None
    ) -> dict[str, LowRank]:
        """An adapter for every matrix that gets one, by the parameter's name; without `adapter=lora` not any."""
        if options.adapter is None:
            return {}
        if changes_gradients is not None:
            raise BadOptions(
                f"{self._method.name} runs in a fit whose gradients are changed weight by weight, and adapters have others.",
                "Leave adapter out.",
            )
        scale = options.adapter_alpha / options.adapter_rank
        return {
            name: LowRank(trained[name], options.adapter_rank, scale, self.generator("adapter", self._fits, name))
            for name in adapted_names(trained, options.adapter_layers)
        }

    # ------------------------------------------------------------------ methods around methods

    def method(self, name: str, options: Mapping[str, Any]) -> UnlearningMethod:
        """An installed method, for a method that works around any other.

        Raises:
            UnknownName: it is not installed.
            BadOptions: it does not take these options.
            SalmuError: it is the method that asks.
        """
        if name == self._method.name:
            raise SalmuError(f"{name} cannot work around itself.", "Choose another inner method.")
        if self._make_method is None:
            raise SalmuError(f"{self._method.name} asks for the method {name}, and none are at hand here.")
        return self._make_method(name, options)

    def delegate(
        self,
        inner: UnlearningMethod,
        *,
        on_gradients: OnGradients | None = None,
        combine: Combine | None = None,
        after_step: AfterStep | None = None,
        reserved: Mapping[Role, int] | None = None,
    ) -> None:
        """Let `inner` unlearn in this run, on this budget, with something done to each of its training steps.

        Args:
            on_gradients, combine, after_step: as for `fit`; they hold for every fit of the inner method.
            reserved: samples per role that it must leave, unless its options say how many epochs it takes.

        Raises:
            SalmuError: it sees data that the outer method has not declared, or changes steps that the outer one changes.
        """
        outer, before = self._method, self._wrapping
        before.check_room_for(outer)
        check_inner(outer, inner)
        held = {} if getattr(inner.options, "epochs", None) is not None else dict(reserved or {})
        self._declared.update(inner.columns)
        self._method, self._wrapping = inner, Wrapping(outer, on_gradients, combine, after_step)
        try:
            with self._meter.holding_back({str(role): count for role, count in held.items()}):
                inner.unlearn(self)
        finally:
            self._method, self._wrapping = outer, before

    def _on_step(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        self._tell("unlearn", step, steps, values)
        if self.accelerator.log_with:
            self.accelerator.log(dict(values), step=self.steps + step)

    # ------------------------------------------------------------------ models and data

    def frozen_copy(self) -> DualEncoder:
        """An independent copy of the model as it is now, without gradients: a teacher."""
        return self.model.frozen_copy()

    def clean_model(self) -> DualEncoder:
        """The Clean model, for methods marked `oracle`.

        Raises:
            SalmuError: the method is not marked.
        """
        if self._clean is None:
            raise SalmuError(
                f"{self._method.name} asks for the Clean model and is not marked oracle.",
                "Set oracle = True on the method; it is then ranked apart.",
            )
        clean = self._clean().to(self.model.device)
        clean.micro_batch = self.model.micro_batch
        return clean

    @torch.no_grad()
    def set_weights(self, values: Mapping[str, Tensor]) -> None:
        """Give parameters of the model new values, in place.

        Args:
            values: by parameter name; parameters that are not named stay as they are. `weights` gives some to come back to.
        """
        named = dict(self.model.named_parameters())
        for name, value in values.items():
            named[name].copy_(value)

    def weights(self, params: Mapping[str, nn.Parameter] | None = None) -> dict[str, Tensor]:
        """Copies of the parameters' values as they are now, by name; default: those of both towers."""
        chosen = self.parameters() if params is None else params
        return {name: parameter.detach().clone() for name, parameter in chosen.items()}

    def log(self, **values: float) -> None:
        """Values for the progress display, the trackers and the run's history."""
        self.history.append({"fit": self._fits, "step": self.steps, **values})
        self._tell("log", 0, 0, values)
        if self.accelerator.log_with:
            self.accelerator.log(dict(values), step=self.steps)
