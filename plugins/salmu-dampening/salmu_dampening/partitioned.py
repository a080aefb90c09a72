"""PPP: dampen what serves forget pairs, gently where retain pairs near them need it, and past zero where nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from salmu_core import (
    Between,
    DualEncoder,
    Field,
    MakeMethod,
    Options,
    Pairs,
    Role,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
)
from salmu_core.losses import group_codes, pair_losses

Split = Literal["forget", "retain"]

# ---------------------------------------------------------------- formulas


class Regions(NamedTuple):
    """Which weights are dampened: those that neighbours need too, and those that nobody else does."""

    buffer: Bool[Tensor, "*shape"]
    core: Bool[Tensor, "*shape"]


def regions(
    forget: Float[Tensor, "*shape"],
    near: Float[Tensor, "*shape"],
    retain: Float[Tensor, "*shape"],
    alpha: float,
    tau: float,
) -> Regions:
    """Partition weights by their importance for three kinds of pairs, as PPP does (Lu, Li, Qian 2026, AAAI, DOI
    10.1609/aaai.v40i9.37699): shared where `forget <= alpha retain`, of the others buffer where `forget < tau near`, else core.
    """
    selected = forget > alpha * retain
    buffer = selected & (forget < tau * near)
    return Regions(buffer, selected & ~buffer)


def factors(
    forget: Float[Tensor, "*shape"],
    retain: Float[Tensor, "*shape"],
    parts: Regions,
    strength: float,
    cap: float,
    gamma: float,
) -> Float[Tensor, "*shape"]:
    """What each weight is multiplied with: `w = min((strength retain / forget)^2, cap)` in the buffer, `-gamma w` in the core, 1
    elsewhere (PPP)."""
    tiny = torch.finfo(forget.dtype).tiny
    weight = (strength * retain / forget.clamp(min=tiny)).square().clamp(max=cap)
    found = torch.where(parts.buffer, weight, torch.ones_like(weight))
    return torch.where(parts.core, -gamma * weight, found)


def prototypes(rows: Float[Tensor, "rows dim"], group: Int[Tensor, " rows"]) -> Float[Tensor, "groups dim"]:
    """The mean of each group's embeddings, at unit length. Rows of group -1 are each a group of their own."""
    number = group_codes(group)
    sums = rows.new_zeros(int(number.max()) + 1, rows.shape[1]).index_add(0, number, rows)
    return nn.functional.normalize(sums, dim=1)


def nearest_share(
    rows: Float[Tensor, "rows dim"], centres: Float[Tensor, "groups dim"], share: float
) -> tuple[Bool[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Which share of the rows, at least one and never all, comes closest to some prototype; and every row's distance, `1 - cos`."""
    distance = 1 - (rows @ centres.T).amax(dim=1)
    count = min(max(1, round(share * len(rows))), max(1, len(rows) - 1))
    near = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    near[distance.argsort(stable=True)[:count]] = True
    return near, distance


def disparity(distance: Float[Tensor, " rows"], near: Bool[Tensor, " rows"]) -> float:
    """`(mu_r / mu_n)^2`: how much further from the forget prototypes the other retain pairs are than their neighbours, on average
    (PPP's gamma)."""
    rest = distance[~near] if (~near).any() else distance
    return float((rest.mean() / distance[near].mean().clamp(min=1e-6)).square())


# ---------------------------------------------------------------- the method


class PartitionedOptions(Options):
    """Options of partitioned-dampening."""

    alpha: float = Field(10.0, ge=0, description="weights are dampened where I_forget > alpha * I_retain")
    tau: float = Field(2.0, ge=0, description="of those, they are spared where I_forget < tau * I_near")
    strength: float = Field(1.0, ge=0, description="lambda of the paper: scales the quotient that is squared")
    cap: float = Field(1.0, ge=0, description="lambda_max of the paper: no factor is larger")
    near: float = Field(0.1, gt=0, lt=1, description="share of retain pairs that count as neighbours of the forget set")
    gamma: float | None = Field(
        None, ge=0, description="how far past zero core weights go; none: measured on distances to the prototypes"
    )
    batch_size: int = Field(64, ge=2, description="pairs per squared gradient")
    tower: Literal["both", "image", "text"] = Field("both", description="which encoder is edited")


class PartitionedDampening(UnlearningMethod):
    """Dampen weights by what forget pairs, their neighbours and other retain pairs need."""

    name = "partitioned-dampening"
    summary = "Dampen what serves forget pairs, gently where retain pairs near them need it, past zero elsewhere (PPP)."
    family = "pruning and editing"
    paper = "https://doi.org/10.1609/aaai.v40i9.37699"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id",)
    former_package = "salmu-partitioned-dampening"
    search = {"alpha": Between(0.5, 50), "tau": Between(0.1, 20), "strength": Between(0.1, 10)}
    Options = PartitionedOptions

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Find the neighbours, measure three importances, multiply the weights."""
        options = self.options
        params = ctx.parameters(options.tower)
        passes: dict[Split, Pass] = {split: Pass(split, rows_of_a_pass(ctx, split), options.batch_size) for split in PASSES}
        near, gamma = self._neighbours(ctx, passes)
        forget = importance(ctx, passes["forget"], lambda pairs: torch.ones(len(pairs), dtype=torch.bool), params)
        close = importance(ctx, passes["retain"], lambda pairs: near[pairs.index.cpu()], params)
        rest = importance(ctx, passes["retain"], lambda pairs: ~near[pairs.index.cpu()], params)
        counts = {"buffer": 0, "core": 0}
        with torch.no_grad():
            for name, parameter in params.items():
                parts = regions(forget[name], close[name], rest[name], options.alpha, options.tau)
                parameter.mul_(factors(forget[name], rest[name], parts, options.strength, options.cap, gamma))
                for kind in counts:
                    counts[kind] += int(getattr(parts, kind).sum())
        total = sum(parameter.numel() for parameter in params.values())
        ctx.log(gamma=gamma, **{f"{kind}_share": count / total for kind, count in counts.items()})

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """There are no steps, but passes, each over two rows at least where there are two."""
        for split, passes in PASSES.items():
            meter.check(split, passes * min(rows[split], 2))
        return None

    def _neighbours(self, ctx: UnlearnContext, passes: Mapping[Split, Pass]) -> tuple[Tensor, float]:
        """Which rows of retain are neighbours, and gamma. Rows that are not read do not count as neighbours."""
        image, text, forget = embedded(ctx, passes["forget"])
        identity = torch.cat([pairs.columns["identity"].cpu() for pairs in forget])
        centres = prototypes(nn.functional.normalize(image + text, dim=1), identity)
        image, text, retain = embedded(ctx, passes["retain"])
        chosen, distance = nearest_share(nn.functional.normalize(image + text, dim=1), centres, self.options.near)
        near = torch.zeros(ctx.rows("retain"), dtype=torch.bool)
        near[torch.cat([pairs.index.cpu() for pairs in retain])] = chosen
        gamma = disparity(distance, chosen) if self.options.gamma is None else self.options.gamma
        return near, gamma


#: How often the method goes over a split.
PASSES: Mapping[Split, int] = {"forget": 2, "retain": 3}


class Pass(NamedTuple):
    """One look at some rows of a split, the same ones every time."""

    split: Split
    rows: int
    batch_size: int


def rows_of_a_pass(ctx: UnlearnContext, split: Split) -> int:
    """All rows, or as many as the budget holds for all passes."""
    return ctx.affordable_rows(split, parts=PASSES[split], least=2)


@torch.no_grad()
def embedded(ctx: UnlearnContext, look: Pass) -> tuple[Tensor, Tensor, list[Pairs]]:
    """Image and caption embeddings of a pass, on the CPU, and its batches."""
    parts = []
    for pairs in ctx.batches(look.split, look.batch_size, rows=look.rows, shuffle=True):
        image, text, _ = ctx.model(pairs)
        parts.append((image.cpu(), text.cpu(), pairs))
    images, texts, batches = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(texts), list(batches)


def importance(
    ctx: UnlearnContext, look: Pass, rows: Callable[[Pairs], Tensor], params: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Mean squared batch gradient of CLIP's loss of some rows of each batch, with all of the batch as candidates."""
    counted = 0

    def loss(model: DualEncoder, pairs: Pairs) -> Tensor:
        nonlocal counted
        image, text, scale = model(pairs)
        chosen = rows(pairs).to(image.device)
        if not chosen.any():
            return torch.zeros((), device=image.device)
        counted += 1
        own = torch.eye(len(image), dtype=torch.bool, device=image.device)
        return pair_losses(image, text, scale, own)[chosen].mean()

    sums = {name: torch.zeros_like(parameter) for name, parameter in params.items()}
    for gradients in ctx.gradients(loss, look.split, look.batch_size, params=params, rows=look.rows):
        for name, gradient in gradients.items():
            sums[name] += gradient.square()
    return {name: total / max(1, counted) for name, total in sums.items()}
