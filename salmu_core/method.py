"""The contract of an unlearning method, in three rungs with one interface.

1. `LossMethod`: write only a loss.
2. `UnlearningMethod.unlearn`: call `ctx.fit` as often as needed with different losses, parameters or splits.
3. `UnlearningMethod.unlearn`: measure with `ctx.batches`, `ctx.accumulate` or `ctx.mean_gradients` and edit weights, no training.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from salmu_core.data.pairs import Batch, Role
from salmu_core.errors import BadData
from salmu_core.options import AnyOptions, Field, Options, SearchSpace

if TYPE_CHECKING:
    from salmu_core.models.dual_encoder import DualEncoder
    from salmu_core.runner.budget import SampleMeter
    from salmu_core.runner.context import MakeMethod, UnlearnContext

Family = Literal[
    "baseline",
    "gradient ascent",
    "negative pairs",
    "relabel",
    "distillation",
    "pruning and editing",
    "retain finetuning",
    "closed form",
    "control",  # proposes nothing and probes the benchmark: shown beside the methods, holds no rank
]


class FitOptions(Options):
    """Options of the training loop. Subclass it to add a method's own and to change defaults."""

    lr: float = Field(1e-5, gt=0, le=10, description="peak learning rate")
    epochs: float | None = Field(
        None, gt=0, description="passes over the first split of the method's data; none: all the budget that is left"
    )
    batch_size: int = Field(64, ge=1, description="global batch size per role")
    accumulate: int = Field(1, ge=1, description="micro-batches that one batch is cut into")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="update rule")
    beta1: float = Field(0.9, ge=0, lt=1, description="first AdamW decay, or the momentum of sgd")
    beta2: float = Field(0.999, ge=0, lt=1, description="second AdamW decay")
    eps: float = Field(1e-8, gt=0, description="AdamW epsilon")
    weight_decay: float = Field(0.0, ge=0, description="decoupled for adamw; never on biases, norms and other 1-D tensors")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning rate after warm-up")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps with rising learning rate")
    clip_norm: float | None = Field(1.0, gt=0, description="largest global gradient norm; none: no clipping")
    tower: Literal["both", "image", "text"] = Field("both", description="which encoder is trained")
    adapter: Literal["lora"] | None = Field(None, description="train low-rank adapters and merge them; none: the weights")
    adapter_rank: int = Field(8, ge=1, description="rank of an adapter")
    adapter_alpha: float = Field(16.0, gt=0, description="what adapters add is multiplied with alpha / rank")
    adapter_layers: Literal["blocks", "attention", "mlp", "all"] = Field(
        "blocks", description="matrices that get an adapter: of attention and MLPs, of one of them, or all that are trained"
    )

    def decisive(self) -> dict[str, Any]:
        """Without the options of an adapter that there is not: runs from before there were any are found again."""
        found = super().decisive()
        return found if self.adapter else {name: value for name, value in found.items() if not name.startswith("adapter")}


class UnlearningMethod(ABC):
    """A way to make a model forget. `unlearn` changes `ctx.model` in place; that is the result."""

    name: ClassVar[str]  # what people type: letters and digits, words joined by hyphens
    summary: ClassVar[str]  # one sentence for listings
    family: ClassVar[Family]  # the group that reports show it in; a "control" holds no rank
    paper: ClassVar[str | None] = None  # address of the paper
    data: ClassVar[tuple[Role, ...]] = ("forget", "retain")  # what it may see; the first sets the epoch
    columns: ClassVar[
        tuple[str, ...]
    ] = ()  # metadata that it reads (identity_id, data_field, name, value, ...), also as codes
    oracle: ClassVar[bool] = False  # True when it sees the Clean model: ranked apart
    fewest_rows: ClassVar[int] = 1  # forget rows below which its loss is the same whatever they are
    fewest_identities: ClassVar[int] = 1  # different ones in forget below which what it measures is not defined
    former_package: ClassVar[str | None] = None  # the package it was in before, so that finished runs are found
    search: ClassVar[SearchSpace] = {}  # what `salmu tune` tries; the option that matters most first
    Options: ClassVar[type[Options]] = Options  # a subclass of Options, with a default for every option

    def __init__(self, options: AnyOptions | None = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    @abstractmethod
    def unlearn(self, ctx: UnlearnContext) -> None:
        """Make `ctx.model` forget the forget split."""

    def reads(self) -> tuple[Role, ...]:
        """The splits that are read with these options: all of `data`, or fewer of them, in the same order."""
        return self.data

    def check_forget(self, rows: int, identities: int, make_method: MakeMethod) -> None:
        """Look at the size of a request before anything is loaded. Fewer identities than `fewest_identities` are refused; of fewer
        rows than `fewest_rows` a warning says that they are not forgotten. Where these options name a method to work around
        (`inner`, `inner_options`), that one is asked as well.

        Args:
            rows: of forget.
            identities: different ones among them; rows without one are each their own.
            make_method: makes an installed method of that name with these options.

        Raises:
            BadData: there are fewer identities.
        """
        if identities < self.fewest_identities:
            raise BadData(
                f"{self.name} needs forget pairs of at least {self.fewest_identities} identities, and here is {identities}.",
                "Choose another method (`salmu list-methods`), or let it forget more at once.",
            )
        if rows < self.fewest_rows:
            warnings.warn(
                f"{self.name} acts on how forget pairs differ from each other, and there is {rows}: it will not forget that one."
                " Choose another method, or let it forget more at once.",
                stacklevel=2,
            )
        if inner := getattr(self.options, "inner", None):
            make_method(inner, getattr(self.options, "inner_options", None) or {}).check_forget(
                rows, identities, make_method
            )

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Optimiser steps with these options, at most, worked out before anything is loaded, so that a run that its budget cannot
        hold is refused at once. Here: those of one fit over all splits that are read, where the options are `FitOptions`. A method
        that trains in another way, or through another method, says so.

        Args:
            rows: of every split that is read.
            meter: holds the budget; `meter.steps` is what `ctx.fit` does.
            make_method: makes an installed method of that name with these options, for methods around methods.

        Returns:
            Steps; None where they show only while it runs.

        Raises:
            BudgetExceeded: the budget does not hold them.
        """
        if not rows or not isinstance(self.options, FitOptions):
            return None
        return meter.steps(self.options, {str(role): count for role, count in rows.items()})

    def inner_steps(
        self, name: str, options: Mapping[str, Any], rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod
    ) -> int | None:
        """For `planned_steps` of a method around another one: the steps that the inner method plans."""
        inner = make_method(name, options)
        return inner.planned_steps({role: rows[role] for role in inner.reads() if role in rows}, meter, make_method)

    def state(self) -> dict[str, Tensor]:
        """Tensors of the method's own that change while it trains; they are saved with every checkpoint."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: B027  # most methods keep nothing
        """Take back what `state` gave, when a killed run is resumed."""


class LossMethod(UnlearningMethod):
    """A method that is one loss, minimised within the budget. Subclasses write `loss`."""

    Options: ClassVar[type[Options]] = FitOptions

    def prepare(self, ctx: UnlearnContext) -> None:
        """Called once before training, e.g. to keep a frozen copy of the model as a teacher."""

    def trainable(self, model: DualEncoder) -> Iterable[nn.Parameter]:
        """Parameters to train: the towers named by the option `tower`. The logit scale stays fixed: otherwise scaling
        the logits satisfies most forgetting losses without forgetting anything."""
        return model.tower_parameters(self.options.tower)

    @abstractmethod
    def loss(self, model: DualEncoder, batch: Batch) -> Tensor | Mapping[str, Tensor]:
        """A scalar, or named scalars that are summed (and logged one by one)."""

    def unlearn(self, ctx: UnlearnContext) -> None:
        self.prepare(ctx)
        ctx.fit(self.loss, self.options, params=self.trainable(ctx.model))
