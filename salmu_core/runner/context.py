"""What a method may use: the model, the forget and retain splits, and the budget. Nothing here leads to evaluation data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from accelerate import Accelerator
from jaxtyping import Int
from torch import Tensor, nn

from salmu_core.data.pairs import NotedColumns, Pairs, Role
from salmu_core.data.pixels import PairStore
from salmu_core.errors import BadOptions, SalmuError
from salmu_core.losses import mismatched_cosine, pair_cosine
from salmu_core.method import FitOptions, UnlearningMethod
from salmu_core.models.adapters import Added, LowRank, adapted_names, added_by, installed
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.fit import fit
from salmu_core.runner.fit_job import AfterStep, Fit, Loss
from salmu_core.runner.gradients import Combine, OnGradients, gradients_of
from salmu_core.runner.wrapping import Wrapping, check_inner
from salmu_core.seeding import derive_seed

#: Makes an installed method of that name with these options.
MakeMethod = Callable[[str, Mapping[str, Any]], UnlearningMethod]
#: Shows that a stage moves: stage, done, total, values.
Tell = Callable[[str, int, int, Mapping[str, float]], None]


def _silent(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """Nobody watches."""


class UnlearnContext:
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
        tell: Tell = _silent,
        clean: Callable[[], DualEncoder] | None = None,
        make_method: MakeMethod | None = None,
    ) -> None:
        self.model = model
        self.accelerator = accelerator
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self.steps = 0
        self.global_batch = 0
        self.trained: set[str] = set()
        #: What adapters added to the weights, fit by fit.
        self.added: list[Added] = []
        self._stores = dict(stores)
        self._meter = meter
        self._method = method
        self._checkpoints = checkpoints
        self._tell = tell
        self._clean = clean
        self._make_method = make_method
        self._wrapping = Wrapping()
        self._fits = 0
        self._captions: dict[str, int] = {}
        self._declared = set(method.columns)
        self.seconds_before_resume = 0.0

    # ------------------------------------------------------------------ training

    def fit(
        self,
        loss: Loss,
        options: FitOptions,
        *,
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
            params: what is trained; default: both towers without the logit scale.
            splits: roles of which every step sees a batch; the first sets the epoch. Default: what the method `reads`.
            after_step: called after each step with its number; True ends the fit.
            on_gradients: changes the gradients (by parameter name, in place) before they are clipped and used.
            combine: makes one gradient out of those of the loss's named terms; costs a backward pass per term.

        Raises:
            BudgetExceeded: more samples than are left, found before the first step.
            Diverged: a loss or gradient stopped being finite.
        """
        roles = tuple(splits) if splits is not None else self._method.reads()
        stores: dict[str, PairStore] = {role: self._store(role) for role in roles}
        rows = {role: len(store) for role, store in stores.items()}
        steps = self._meter.steps(options, rows)
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
        self._fits += 1
        try:
            with installed(self.model, adapters):
                self.steps += fit(job)
        finally:
            self.history += job.history
            self.seconds_before_resume += job.seconds_before_resume
            if adapters:
                self.added.append(added_by(adapters))

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
        """
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
    ) -> None:
        """Let `inner` unlearn in this run, on this budget, with something done to each of its training steps.

        Args:
            on_gradients, combine, after_step: as for `fit`; they hold for every fit of the inner method.

        Raises:
            SalmuError: it sees data that the outer method has not declared.
        """
        outer, before = self._method, self._wrapping
        check_inner(outer, inner)
        self._declared.update(inner.columns)
        self._method, self._wrapping = inner, Wrapping(outer, on_gradients, combine, after_step)
        try:
            inner.unlearn(self)
        finally:
            self._method, self._wrapping = outer, before

    def _on_step(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        self._tell("unlearn", step, steps, values)
        if self.accelerator.log_with:
            self.accelerator.log(dict(values), step=self.steps + step)

    # ------------------------------------------------------------------ statistics

    def batches(self, split: Role, batch_size: int, *, rows: int | None = None, shuffle: bool = False) -> Iterator[Pairs]:
        """The split once. Every process sees all of it. Counts.

        Args:
            rows: no more than this many; default: all.
            shuffle: in an order drawn from the run's seed instead of row order, in which neighbours are photos of one
                person: what a contrastive loss over a batch needs.
        """
        store = self._store(split)
        total = len(store) if rows is None else min(rows, len(store))
        self._meter.check(split, total)
        order = torch.arange(len(store))
        if shuffle:
            order = torch.randperm(len(store), generator=self.generator("batches", split))
        for start in range(0, total, batch_size):
            index = order[start : min(start + batch_size, total)]
            self._meter.take(split, len(index))
            yield Pairs(store, index)
            self._tell(f"measure {split}", start + len(index), total, {})

    def accumulate(
        self,
        measure: Callable[[Pairs], Mapping[str, Tensor]],
        split: Role,
        batch_size: int = 64,
        *,
        rows: int | None = None,
        shuffle: bool = False,
    ) -> dict[str, Tensor]:
        """Sums of what `measure` returns, over `batches`. Runs without gradients.

        Inside `measure`, call `model.encode_image(pairs.image)` or `model.encode_text(pairs.text)` where hooks watch the
        model: those compute the whole batch on every process, so each has the same sums.
        """
        sums: dict[str, Tensor] = {}
        with torch.no_grad():
            for pairs in self.batches(split, batch_size, rows=rows, shuffle=shuffle):
                for name, value in measure(pairs).items():
                    sums[name] = sums[name] + value if name in sums else value.clone()
        return sums

    def gradients(
        self,
        loss: Callable[[DualEncoder, Pairs], Tensor],
        split: Role,
        batch_size: int = 64,
        *,
        params: Mapping[str, nn.Parameter] | None = None,
        rows: int | None = None,
        shuffle: bool = True,
    ) -> Iterator[dict[str, Tensor]]:
        """The gradient of `loss(model, pairs)` for each batch of `batches`, by parameter name; zeros where the loss does
        not depend on a parameter. The same on every process. No weight is changed.
        """
        named = dict(params) if params is not None else self.parameters()
        for pairs in self.batches(split, batch_size, rows=rows, shuffle=shuffle):
            yield gradients_of(loss(self.model, pairs), named, self.accelerator.num_processes)

    def forget_similarity(self, rows: int) -> float:
        """Mean cosine of so many forget pairs, drawn from the run's seed: the same ones whenever it is asked for. Counts."""
        found = [pair_cosine(image, text) for _, image, text in self._embedded_forget(rows)]
        return float(torch.cat(found).double().mean())

    def unrelated_similarity(self, rows: int) -> float:
        """Mean cosine of so many forget images with captions of other identities: what they have in common anyway, and a goal for
        forgetting that needs no Clean model. Counts, and reads `identity_id`.

        Raises:
            SalmuError: all of them are of one identity.
        """
        parts = self._embedded_forget(rows)
        identity = torch.cat([pairs.columns["identity"] for pairs, _, _ in parts])
        found = mismatched_cosine(torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts]), identity)
        if not torch.isfinite(found):
            raise SalmuError(
                f"{self._method.name} cannot measure what unrelated pairs have in common: all {rows} forget pairs that it looks at"
                " are of one identity.",
                "Let it look at more rows, or give its target where it has that option.",
            )
        return float(found)

    @torch.no_grad()
    def _embedded_forget(self, rows: int) -> list[tuple[Pairs, Tensor, Tensor]]:
        found = []
        for pairs in self.batches("forget", 256, rows=rows, shuffle=True):
            image, text, _ = self.model(pairs)
            found.append((pairs, image.cpu(), text.cpu()))
        return found

    def parameters(self, tower: Literal["both", "image", "text"] = "both") -> dict[str, nn.Parameter]:
        """Parameters of one or both towers by name, without logit scale and bias."""
        ids = {id(parameter) for parameter in self.model.tower_parameters(tower)}
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in ids}

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

    def rows(self, split: Role) -> int:
        """Rows of a split."""
        return len(self._store(split))

    def captions(self, split: Role) -> Sequence[str]:
        """Captions in the order of `Pairs.index`. Noted in the record: every row once, however often they are asked for."""
        captions = tuple(self._store(split).captions)
        self._captions[split] = len(captions)
        return captions

    def columns(self, split: Role) -> Mapping[str, Sequence[Any]]:
        """Metadata columns (identity_id, data_field, name, value, ...) in the order of `Pairs.index`. Those that are read are noted
        in the record; a method declares them in `columns`."""
        store = self._store(split)
        return NotedColumns(store.split.columns, store.columns_read)

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "batch context"]:
        """Token ids on the run's device."""
        return self.model.processor.tokenize(captions).to(self.model.device)

    @property
    def samples(self) -> Mapping[str, int]:
        """Samples seen so far, per role."""
        return dict(self._meter.seen)

    @property
    def captions_read(self) -> Mapping[str, int]:
        """Rows of a role whose captions were read without their pictures, outside of batches."""
        return dict(self._captions)

    @property
    def columns_read(self) -> Mapping[str, tuple[str, ...]]:
        """Metadata columns that were read, per role."""
        return {role: tuple(sorted(store.columns_read)) for role, store in self._stores.items() if store.columns_read}

    @property
    def undeclared_columns(self) -> tuple[str, ...]:
        """Columns that were read and that the method does not declare."""
        return tuple(sorted({name for names in self.columns_read.values() for name in names} - self._declared))

    def budget_left(self, split: Role) -> int | None:
        """Samples of a role that may still be seen."""
        return self._meter.left(split)

    def generator(self, *purpose: object) -> torch.Generator:
        """A CPU generator for one purpose, seeded from the run's seed."""
        return torch.Generator().manual_seed(derive_seed(self.seed, self._method.name, *purpose))

    def log(self, **values: float) -> None:
        """Values for the progress display, the trackers and the run's history."""
        self.history.append({"fit": self._fits, "step": self.steps, **values})
        self._tell("log", 0, 0, values)
        if self.accelerator.log_with:
            self.accelerator.log(dict(values), step=self.steps)

    def _store(self, split: Role) -> PairStore:
        if split not in self._method.reads() or split not in self._stores:
            raise SalmuError(
                f"{self._method.name} asks for the {split} split and has not declared it.",
                f"It declares data = {self._method.data} and reads {self._method.reads()} with these options.",
            )
        return self._stores[split]
