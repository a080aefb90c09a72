"""Teacher and student: leave the teacher on forget pairs and follow it on retain pairs (SCRUB), or follow a teacher that
knows nothing on forget pairs (bad teaching)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Features,
    Field,
    FitOptions,
    LossMethod,
    MakeMethod,
    Pairs,
    Role,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.errors import RAISE_BUDGET, BudgetExceeded
from salmu_core.losses import contrastive_loss, group_mask

# ---------------------------------------------------------------- what both have in common


def row_divergence(
    student: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "rows candidates"],
    hidden: Bool[Tensor, "rows candidates"],
) -> Float[Tensor, ""]:
    """`mean_i KL(p_i || q_i)`, p and q the softmaxes of teacher's and student's logits over the candidates not `hidden`.

    A hidden candidate has no say in the value and gets no gradient.
    """
    lowest = torch.finfo(student.dtype).min  # not minus infinity: 0 times that is not a number
    target = teacher.masked_fill(hidden, lowest).softmax(dim=1)
    return F.kl_div(student.masked_fill(hidden, lowest).log_softmax(dim=1), target, reduction="sum") / len(student)


def pair_divergence(
    student: Features, teacher: Features, hidden: Bool[Tensor, "batch batch"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """`T^2 KL_T(teacher || student)` of Hinton et al. 2015 (arXiv 1503.02531), with a classifier's output replaced by the
    batch: half of it from every image's row over captions, half from every caption's row over images.

    Logits take each model's own scale, divided by the temperature T.
    """
    given, target = (features.scale / temperature * features.image @ features.text.T for features in (student, teacher))
    divergence = row_divergence(given, target, hidden) + row_divergence(given.T, target.T, hidden.T)
    return temperature**2 * divergence / 2


def other_wordings(association: Int[Tensor, " batch"]) -> Bool[Tensor, "batch batch"]:
    """Candidates that are the row's own association in another photo or wording: neither right nor wrong, so they are left
    out of its distribution. The row's own pair stays."""
    return group_mask(association) & ~torch.eye(len(association), dtype=torch.bool, device=association.device)


def hidden_of(pairs: Pairs, features: Features) -> Bool[Tensor, "batch batch"]:
    """`other_wordings` of a batch, beside its embeddings."""
    return other_wordings(pairs.columns["association"]).to(features.image.device)


# ---------------------------------------------------------------- SCRUB

_UNLIMITED = 10**15  # samples


def maximises(step: int, steps: int, share: float) -> bool:
    """Is this step, counted from 0, one that leaves the teacher? Every other one in the first `share` of the steps.

    The first step of all is not: student and teacher are equal then, and the divergence has no gradient. The last is not
    either, so that a run always ends with a step that repairs.
    """
    return step % 2 == 1 and step < share * steps and step < steps - 1


def check_steps(steps: int, checks: int, share: float) -> set[int]:
    """After which steps, counted from 1, the model is a candidate for rewinding: evenly spaced, the last one among them,
    each after a step that follows the teacher on retain pairs."""
    planned = {max(1, round(number * steps / checks)) for number in range(1, checks + 1)}
    return {step + 1 if maximises(step - 1, steps, share) else step for step in planned}


@dataclass
class Rewind:
    """The model whose similarity of forget pairs was nearest to the reference so far."""

    reference: float
    distance: float = float("inf")
    weights: Mapping[str, Tensor] | None = None

    def offer(self, similarity: float, weights: Mapping[str, Tensor]) -> None:
        """Keep a copy of the weights if they are nearer; of equals the later one, which was repaired for longer."""
        distance = abs(similarity - self.reference)
        if distance <= self.distance:
            self.distance = distance
            self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}


class ScrubOptions(FitOptions):
    """Options of scrub."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
    max_share: float = Field(0.5, ge=0, le=1, description="every other step leaves the teacher in this first share of steps")
    gamma: float = Field(1.0, ge=0, description="weight of the contrastive loss on retain pairs")
    alpha: float = Field(0.5, ge=0, description="weight of the divergence from the teacher on retain pairs")
    temperature: float = Field(2.0, gt=0, description="divides the logits of teacher and student")
    rewind: bool = Field(True, description="end with the checked model whose forget similarity is nearest to the reference")
    checks: int = Field(5, ge=1, description="models that are checked, evenly spaced over the steps")
    check_rows: int = Field(256, ge=2, le=4096, description="forget pairs per check, at most a quarter of the budget in all")


class Scrub(LossMethod):
    """Alternate between leaving a frozen copy of the model on forget pairs and following it on retain pairs."""

    name = "scrub"
    summary = "Diverge from the original model on forget pairs, follow it on retain pairs, and rewind (SCRUB+R)."
    family = "distillation"
    paper = "https://arxiv.org/abs/2302.09880"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 3e-3), "max_share": Between(0.1, 1.0, log=False), "alpha": Between(1e-3, 50)}
    Options = ScrubOptions

    _teacher: DualEncoder
    _steps: int
    _done: int = 0
    _rewind: Rewind | None = None

    def unlearn(self, ctx: UnlearnContext) -> None:
        """Measure the reference, alternate, and take back the model that came nearest to it."""
        options = self.options
        self._teacher = ctx.frozen_copy()
        self._done = 0
        rows = self._plan(ctx)
        params = ctx.parameters(options.tower)
        if rows:
            self._rewind = Rewind(ctx.unrelated_similarity(rows))
            ctx.log(reference=self._rewind.reference)
        due = check_steps(self._steps, options.checks, options.max_share)

        def after_step(step: int) -> None:
            self._done = step
            if self._rewind is not None and step in due:
                similarity = ctx.forget_similarity(rows)
                self._rewind.offer(similarity, {name: ctx.model.weight_in_use(name) for name in params})
                ctx.log(checked_step=step, similarity=similarity)

        ctx.fit(self.loss, options, steps=self._steps, params=params.values(), after_step=after_step)
        if self._rewind is not None and self._rewind.weights is not None:
            ctx.set_weights(self._rewind.weights)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The forget batch in a step that leaves the teacher, else the retain batch."""
        options = self.options
        leaves = maximises(self._done, self._steps, options.max_share)
        pairs = batch.forget if leaves else batch.retain
        student = model(pairs)
        with torch.no_grad():
            teacher = self._teacher(pairs)
        divergence = pair_divergence(student, teacher, hidden_of(pairs, student), options.temperature)
        if leaves:
            return {"forget": -divergence}
        return {"retain": options.gamma * contrastive_loss(*student), "teacher": options.alpha * divergence}

    def state(self) -> dict[str, Tensor]:
        """The step, which decides what the next one does, and the model to rewind to."""
        kept: dict[str, Tensor] = {"done": torch.tensor(self._done)}
        if self._rewind is not None and self._rewind.weights is not None:
            kept["distance"] = torch.tensor(self._rewind.distance, dtype=torch.float64)
            kept |= {f"nearest.{name}": tensor for name, tensor in self._rewind.weights.items()}
        return kept

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken; the reference was measured again by then."""
        self._done = int(state["done"])
        nearest = {name.removeprefix("nearest."): t for name, t in state.items() if name.startswith("nearest.")}
        if self._rewind is not None and nearest:
            self._rewind.distance, self._rewind.weights = float(state["distance"]), nearest

    def _plan(self, ctx: UnlearnContext) -> int:
        """Decide on the number of steps, so that there is room for the checks, and return their rows; 0: no checks."""
        rows: dict[Role, int] = {role: ctx.rows(role) for role in self.data}
        left = {role: _UNLIMITED if (count := ctx.budget_left(role)) is None else count for role in self.data}
        self._steps, check = self._steps_and_check(rows, left)
        return check

    def _steps_and_check(self, rows: Mapping[Role, int], left: Mapping[Role, int]) -> tuple[int, int]:
        """Steps, and rows of a check; 0: no checks.

        Raises:
            BudgetExceeded: the checks have no room.
        """
        options = self.options
        sizes = {role: min(options.batch_size, rows[role]) for role in self.data}
        measures = options.checks + 1 if options.rewind else 0  # the reference is one more
        steps, room = 0, left["forget"] // 4
        if options.epochs is not None:
            steps = max(1, int(options.epochs * rows["forget"] / sizes["forget"]))
            room = left["forget"] - steps * sizes["forget"]
        check = min(options.check_rows, rows["forget"], room // measures) if measures else 0
        if measures and check < min(2, rows["forget"]):
            raise BudgetExceeded(
                f"The forget budget leaves no room for {measures} measurements of scrub.",
                f"Use fewer epochs, --set rewind=false, or {RAISE_BUDGET}.",
            )
        if options.epochs is None:
            steps = max(1, min((left["forget"] - measures * check) // sizes["forget"], left["retain"] // sizes["retain"]))
        return steps, check

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those that the checks leave room for."""
        super().planned_steps(rows, meter, make_method)  # without checks
        limits = {role: _UNLIMITED if (count := meter.left(role)) is None else count for role in self.data}
        return self._steps_and_check(rows, limits)[0]


# ---------------------------------------------------------------- bad teaching


class BadTeacher(LossMethod):
    """Follow an untrained model on forget pairs and a frozen copy of the model on retain pairs."""

    name = "bad-teacher"
    summary = "Follow an untrained model on forget pairs and the original model on retain pairs."
    family = "distillation"
    paper = "https://arxiv.org/abs/2205.08096"
    data = ("forget", "retain")
    fewest_rows = 2
    columns = ("identity_id", "data_field")
    search = {"lr": Between(1e-6, 3e-3), "retain_weight": Between(0.1, 10), "temperature": Between(0.5, 20)}

    class Options(FitOptions):
        """Options of bad-teacher."""

        lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
        temperature: float = Field(1.0, gt=0, description="divides the logits of teachers and student")
        retain_weight: float = Field(1.0, ge=0, description="weight of the divergence from the good teacher on retain pairs")

    _bad: DualEncoder
    _good: DualEncoder

    def prepare(self, ctx: UnlearnContext) -> None:
        """Freeze the good teacher and draw the bad one."""
        self._good = ctx.frozen_copy()
        self._bad = untrained_twin(ctx)

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """The divergence from each teacher on the pairs it teaches."""
        forget, retain = model(batch.forget), model(batch.retain)
        with torch.no_grad():
            bad, good = self._bad(batch.forget), self._good(batch.retain)
        temperature = self.options.temperature
        return {
            "forget": pair_divergence(forget, bad, hidden_of(batch.forget, forget), temperature),
            "retain": self.options.retain_weight
            * pair_divergence(retain, good, hidden_of(batch.retain, retain), temperature),
        }


def untrained_twin(ctx: UnlearnContext) -> DualEncoder:
    """A frozen model of the same architecture with weights drawn from the run's seed."""
    seed = int(torch.randint(2**31, (), generator=ctx.generator("bad teacher")))
    twin = DualEncoder.create(ctx.model.config, seed).to(ctx.model.device)
    twin.autocast, twin.micro_batch = ctx.model.autocast, ctx.model.micro_batch
    return twin.requires_grad_(False).eval()


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """SCRUB and bad teaching."""
    return [Scrub, BadTeacher]
