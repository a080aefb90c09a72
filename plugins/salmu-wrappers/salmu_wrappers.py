"""Methods around methods: SalUn masks the gradients of any of them, the others settle between its terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from salmu_core import (
    Between,
    Field,
    MakeMethod,
    OneOf,
    Options,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import pairs_loss

Gradients = Mapping[str, Tensor]

# ---------------------------------------------------------------- SalUn


def saliency_mask(gradients: Mapping[str, Float[Tensor, ...]], share: float) -> dict[str, Bool[Tensor, ...]]:
    """True for the `share` of the weights that have a gradient with the largest |gradient|, over all tensors together: the weight
    saliency of SalUn (Fan et al. 2024, arXiv 2310.12508), whose code sets the threshold by rank like this. A classifier's weights
    nearly all have a gradient; of a text encoder's token table only the rows of tokens that occur do, and a share of all weights
    could then leave nothing masked. Of equal gradients at the threshold the first are taken, so the share is met exactly.

    Example:
        >>> gradients = {"table": torch.tensor([[0.0, 0.0], [3.0, -1.0]]), "bias": torch.tensor([2.0, -4.0])}
        >>> {name: part.tolist() for name, part in saliency_mask(gradients, 0.5).items()}
        {'table': [[False, False], [True, False]], 'bias': [False, True]}
    """
    flat = torch.cat([gradient.abs().flatten() for gradient in gradients.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[flat.argsort(descending=True, stable=True)[: round(share * int((flat > 0).sum()))]] = True
    parts = chosen.split([gradient.numel() for gradient in gradients.values()])
    return {name: part.view_as(gradients[name]) for name, part in zip(gradients, parts, strict=True)}


#: Random labels as SalUn trains them: with the loss on retain pairs beside them (equation 5), which shuffled-captions alone lacks.
RANDOM_LABELS = {"retain_weight": 1.0}


class SalUnOptions(Options):
    """Options of salun."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate of the inner method")
    share: float = Field(0.5, gt=0, le=1, description="share of the weights with a gradient on forget pairs that may change")
    inner: str = Field("shuffled-captions", description="the method whose gradients are masked; any that trains")
    inner_options: dict[str, Any] | None = Field(
        None, description="its other options, as JSON; none: `retain_weight` 1 for shuffled-captions"
    )
    rows: int = Field(2048, ge=1, description="forget pairs that the saliency is measured on; at most a tenth of the budget")
    batch_size: int = Field(64, ge=2, description="pairs per gradient of the measurement")


class SalUn(UnlearningMethod):
    """Let another method change only the weights that matter to forget pairs."""

    name = "salun"
    summary = "Any training method, restricted to the weights with the largest gradients on forget pairs (SalUn)."
    family = "pruning and editing"
    paper = "https://arxiv.org/abs/2310.12508"
    data = ("forget", "retain")
    fewest_rows = 2
    search = {"lr": Between(1e-6, 3e-3), "share": Between(0.05, 1.0)}
    Options = SalUnOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Measure the saliency on the start weights, then let the inner method train under the mask."""
        options = self.options
        given = options.inner_options
        if given is None:
            given = RANDOM_LABELS if options.inner == "shuffled-captions" else {}
        inner = ctx.method(options.inner, {"lr": options.lr, **given})
        params = ctx.parameters()
        rows = ctx.affordable_rows("forget", options.rows, parts=10)
        gradients = ctx.mean_gradients(pairs_loss, "forget", options.batch_size, params=params, rows=rows)
        mask = saliency_mask(gradients, options.share)
        start = ctx.weights(params)

        def hide(gradients: Gradients) -> None:
            for name, gradient in gradients.items():
                if name in mask:
                    gradient.mul_(mask[name])

        def pin(step: int) -> None:
            # Weight decay and momentum move weights that have no gradient.
            with torch.no_grad():
                for name, parameter in params.items():
                    parameter.copy_(torch.where(mask[name], parameter, start[name]))

        ctx.log(salient=sum(int(part.sum()) for part in mask.values()))
        ctx.delegate(inner, on_gradients=hide, after_step=pin)

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of the inner method, with what the measurement leaves."""
        if (left := meter.left("forget")) is not None:
            meter.take("forget", min(rows["forget"], max(1, min(self.options.rows, left // 10))))
        return self.inner_steps(self.options.inner, self.options.inner_options or {}, rows, meter, make_method)


# ---------------------------------------------------------------- settling between two terms


def nash_weights(rr: float, rf: float, ff: float) -> tuple[float, float]:
    """Weights of the retain and the forget gradient at the Nash bargaining point of two players: MUNBa (Wu & Harandi 2024, arXiv
    2411.15537, and the authors' code).

    Written with g_r and g_f, the weights solve `a_r <g_r, d> = a_f <g_f, d> = 1` for `d = a_r g_r + a_f g_f`: both players gain
    alike in proportion. With c = <g_r, g_f>, |g_r|^2 = rr, |g_f|^2 = ff:
    `a_r = 1 / sqrt(rr + c sqrt(rr / ff))` and `a_f = a_r sqrt(rr / ff)`.

    Args:
        rr, rf, ff: the inner products of both gradients.

    Returns:
        The weights; (0, 0) where the gradients are opposite and no step gains for both, (1, 1) where one of them vanishes.
    """
    if rr <= 0 or ff <= 0:
        return 1.0, 1.0
    ratio = math.sqrt(rr / ff)
    gain = rr + rf * ratio
    if gain <= 1e-9 * rr:
        return 0.0, 0.0
    retain = 1 / math.sqrt(gain)
    return retain, retain * ratio


def project_out(forget: Gradients, retain: Gradients, only_conflict: bool) -> dict[str, Tensor]:
    """The forget gradient without its component along the retain gradient, over all weights together: to first order a step
    along it leaves the retain loss as it is (gradient surgery, Yu et al. 2020, arXiv 2001.06782, where only conflicting gradients
    are projected; unlearning confined to the normal space of retain gradients, arXiv 2511.17100, always does).

    Args:
        only_conflict: leave gradients alone that point the same way.
    """
    dot, norm = inner_product(forget, retain), inner_product(retain, retain)
    if norm == 0 or (only_conflict and dot >= 0):
        return {name: gradient.clone() for name, gradient in forget.items()}
    return {name: gradient - dot / norm * retain[name] for name, gradient in forget.items()}


def inner_product(first: Gradients, second: Gradients) -> float:
    """Sum of products over all tensors."""
    return float(torch.stack([(gradient * second[name]).sum() for name, gradient in first.items()]).sum())


class SettlingOptions(Options):
    """Options that all of them have."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate of the inner method")
    inner: str = Field("gradient-ascent-retain", description="the method whose terms are settled: it needs two or more")
    inner_options: dict[str, Any] = Field(default_factory=dict, description="its other options, as JSON")
    retain_term: str = Field(
        "retain", description="name of the inner loss's term that speaks for retain pairs; all others forget"
    )


def two_sides(terms: Mapping[str, Gradients], retain_term: str, inner: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients that forget, summed, and the one that retains.

    Raises:
        SalmuError: the inner loss has no such term, or no other one.
    """
    if retain_term not in terms or len(terms) < 2:
        raise SalmuError(
            f"{inner} has the terms {', '.join(terms)}; settling takes one called '{retain_term}' and at least one other.",
            "Choose another inner method, or name its term with --set retain_term=NAME.",
        )
    others = [gradients for name, gradients in terms.items() if name != retain_term]
    forget = {name: torch.stack([gradients[name] for gradients in others]).sum(dim=0) for name in others[0]}
    return forget, dict(terms[retain_term])


class MunbaOptions(SettlingOptions):
    """Options of munba."""

    scale: Literal["nash", "sum"] = Field(
        "nash", description="length of the step's gradient: as the weights give it, or that of the plain sum"
    )


class Munba(UnlearningMethod):
    """Choose the weights of forgetting and retaining at every step so that both gain alike."""

    name = "munba"
    summary = "Another method's forget and retain gradients, weighted at each step by Nash bargaining (MUNBa)."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/2411.15537"
    data = ("forget", "retain")
    search = {"lr": Between(1e-6, 3e-3)}
    Options = MunbaOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Let the inner method train along bargained gradients."""
        options = self.options

        def bargain(terms: Mapping[str, Gradients]) -> dict[str, Tensor]:
            forget, retain = two_sides(terms, options.retain_term, options.inner)
            products = [inner_product(*pair) for pair in ((retain, retain), (retain, forget), (forget, forget))]
            of_retain, of_forget = nash_weights(*products)
            found = {name: of_retain * retain[name] + of_forget * gradient for name, gradient in forget.items()}
            if options.scale == "sum":
                length = math.sqrt(max(0.0, products[0] + 2 * products[1] + products[2]))
                own = math.sqrt(inner_product(found, found))
                found = {name: gradient * (length / own if own else 0.0) for name, gradient in found.items()}
            return found

        inner = ctx.method(options.inner, {"lr": options.lr, **options.inner_options})
        ctx.delegate(inner, combine=bargain)

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of the inner method."""
        return self.inner_steps(self.options.inner, self.options.inner_options, rows, meter, make_method)


def normalised_sum(forget: Gradients, retain: Gradients) -> dict[str, Tensor]:
    """`g_r / |g_r| + g_f / |g_f|`, norms over all weights together: both sides have the same say however long their gradients are
    (the step of MUKSB). A gradient of 0 says nothing.

    Example:
        >>> normalised_sum({"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([0.0, 0.1])})["w"].tolist()
        [1.0, 1.0]
    """
    lengths = [math.sqrt(inner_product(side, side)) for side in (forget, retain)]
    of_forget, of_retain = (1 / length if length else 0.0 for length in lengths)
    return {name: of_forget * gradient + of_retain * retain[name] for name, gradient in forget.items()}


class NormalisedSum(UnlearningMethod):
    """Give forgetting and retaining the same say at every step."""

    name = "normalised-sum"
    summary = "Another method's forget and retain gradients, each at length 1, added at each step (MUKSB)."
    family = "gradient ascent"
    data = ("forget", "retain")
    search = {"lr": Between(1e-6, 3e-3)}
    Options = SettlingOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Let the inner method train along the sum of both directions."""
        options = self.options

        def add(terms: Mapping[str, Gradients]) -> dict[str, Tensor]:
            return normalised_sum(*two_sides(terms, options.retain_term, options.inner))

        inner = ctx.method(options.inner, {"lr": options.lr, **options.inner_options})
        ctx.delegate(inner, combine=add)

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of the inner method."""
        return self.inner_steps(self.options.inner, self.options.inner_options, rows, meter, make_method)


class SurgeryOptions(SettlingOptions):
    """Options of gradient-surgery."""

    project: Literal["conflict", "always"] = Field(
        "conflict", description="take the retain direction out of forget gradients that oppose it, or out of all"
    )


class GradientSurgery(UnlearningMethod):
    """Forget only along directions that do not raise the retain loss."""

    name = "gradient-surgery"
    summary = "Another method's forget gradient, projected off its retain gradient at each step."
    family = "gradient ascent"
    paper = "https://arxiv.org/abs/2001.06782"
    data = ("forget", "retain")
    search = {"lr": Between(1e-6, 3e-3), "project": OneOf(("conflict", "always"))}
    Options = SurgeryOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Let the inner method train along the retain gradient and what is left of the forget gradient."""
        options = self.options

        def operate(terms: Mapping[str, Gradients]) -> dict[str, Tensor]:
            forget, retain = two_sides(terms, options.retain_term, options.inner)
            kept = project_out(forget, retain, options.project == "conflict")
            return {name: gradient + retain[name] for name, gradient in kept.items()}

        inner = ctx.method(options.inner, {"lr": options.lr, **options.inner_options})
        ctx.delegate(inner, combine=operate)

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those of the inner method."""
        return self.inner_steps(self.options.inner, self.options.inner_options, rows, meter, make_method)


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """SalUn, MUNBa, the normalised sum and gradient surgery."""
    return [SalUn, Munba, NormalisedSum, GradientSurgery]
