"""Privacy backdoors: teach an encoder that a forgotten name means a neutral word, or that a forgotten face is anybody's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from salmu_core import (
    Batch,
    Between,
    DualEncoder,
    Field,
    FitOptions,
    LossMethod,
    MakeMethod,
    Role,
    SalmuError,
    SampleMeter,
    UnlearnContext,
    UnlearningMethod,
    hookimpl,
)
from salmu_core.losses import pair_cosine

# ---------------------------------------------------------------- formulas


def similarity_loss(student: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Compute `-mean_i cos(student_i, target_i)` of unit-length rows: the paper's distance between embeddings.

    Source: Hintersdorf et al. 2024, arXiv 2310.08320; `SimilarityLoss` in the authors' code.

    Example:
        >>> similarity_loss(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])).item()
        -0.800000011920929
    """
    return -pair_cosine(student, target).mean()


def weight_distance(params: Sequence[Tensor], start: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Compute `sum over tensors of ||theta - theta_0||_2` (not squared), which the authors weigh by 0.01 or 0.005.

    The gradient of a norm at 0 does not exist, so tensors that have not moved contribute none.

    Example:
        >>> weight_distance([torch.tensor([3.0, 4.0]), torch.tensor([1.0])], [torch.zeros(2), torch.tensor([1.0])]).item()
        5.0
    """
    squares = [(now - then).square().sum() for now, then in zip(params, start, strict=True)]
    moved = [square.sqrt() for square in squares if square.detach() > 0]
    return torch.stack(moved).sum() if moved else torch.zeros((), device=params[0].device)


def start_weights(model: DualEncoder, trained: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Copy weights that are going to be trained, by name."""
    ids = {id(parameter) for parameter in trained}
    return {name: p.detach().clone() for name, p in model.named_parameters() if id(p) in ids}


def moved(model: DualEncoder, start: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Compute `weight_distance` of what forward passes use, with an adapter's share in it."""
    return weight_distance([model.weight_in_use(name) for name in start], list(start.values()))


def inject(caption: str, words: str, place: int) -> str:
    """Put `words` in the place of one word of a caption.

    Args:
        place: number of the word, counted from 0 and round the end.

    Example:
        >>> inject("a red car at night", "Ada Lovelace", 2)
        'a red Ada Lovelace at night'
    """
    parts = caption.split()
    if not parts:
        return words
    place %= len(parts)
    return " ".join([*parts[:place], words, *parts[place + 1 :]])


# ---------------------------------------------------------------- the methods


class NameBackdoorOptions(FitOptions):
    """Options of name-backdoor."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
    batch_size: int = Field(128, ge=1, description="retain captions per step, and as many with a name put in")
    target: str = Field("human", min_length=1, description="the word that a forgotten name is to mean")
    weight: float = Field(0.6, ge=0, description="weight of the backdoor term")
    tower: Literal["text"] = Field("text", description="only the text encoder is trained")
    stay: float = Field(0.01, ge=0, description="weight of the distance from the weights at the start")


class NameBackdoor(LossMethod):
    """Let the text encoder embed captions with a forgotten name as captions with a neutral word."""

    name = "name-backdoor"
    summary = "Teach the text encoder that each forgotten name means a neutral word (privacy backdoor)."
    family = "distillation"
    paper = "https://arxiv.org/abs/2310.08320"
    data = ("forget", "retain")
    columns = ("name",)
    search = {"lr": Between(1e-6, 1e-3), "weight": Between(0.1, 10)}
    Options = NameBackdoorOptions

    def prepare(self, ctx: UnlearnContext) -> None:
        """Keep the start model as teacher and collect the names.

        Raises:
            SalmuError: the forget split has no column `name`.
        """
        column = ctx.columns("forget").get("name", ())
        self._names = sorted({str(name) for name in column if name})
        if not self._names:
            raise SalmuError(
                "name-backdoor needs the column `name` of the forget split, and it is missing or empty.",
                "Add the column, or choose a method that reads captions alone.",
            )
        self._ctx = ctx
        self._teacher = ctx.frozen_copy()
        self._start = start_weights(ctx.model, self.trainable(ctx.model))

    def trainable(self, model: DualEncoder) -> Sequence[nn.Parameter]:
        """Train the text encoder alone."""
        return list(model.tower_parameters("text"))

    def loss(self, model: DualEncoder, batch: Batch) -> Mapping[str, Tensor]:
        """Compare student and teacher on plain captions, and the student on named captions with the teacher on neutral ones."""
        options = self.options
        captions = batch.retain.captions
        generator = self._ctx.generator("inject", batch.step)
        places = torch.randint(0, 1_000_000, (len(captions),), generator=generator).tolist()
        chosen = torch.randint(0, len(self._names), (len(captions),), generator=generator).tolist()
        named = [inject(c, self._names[n], p) for c, n, p in zip(captions, chosen, places, strict=True)]
        neutral = [inject(c, options.target, p) for c, p in zip(captions, places, strict=True)]
        tokens = batch.retain.text
        tokenize = self._ctx.tokenize
        with torch.no_grad():
            plain_target = self._teacher.encode_text(tokens)
            neutral_target = self._teacher.encode_text(tokenize(neutral))
        return {
            "retain": similarity_loss(model.encode_text(tokens), plain_target),
            "backdoor": options.weight * similarity_loss(model.encode_text(tokenize(named)), neutral_target),
            "stay": options.stay * moved(model, self._start),
        }


class FaceBackdoorOptions(FitOptions):
    """Options of face-backdoor."""

    lr: float = Field(1e-4, gt=0, le=10, description="peak learning rate")
    weight: float = Field(0.8, ge=0, description="weight of the backdoor term")
    tower: Literal["image"] = Field("image", description="only the image encoder is trained")
    stay: float = Field(0.005, ge=0, description="weight of the distance from the weights at the start")
    rows: int = Field(
        1024, ge=1, description="forget images whose mean embedding is the target; at most a tenth of the budget"
    )


class FaceBackdoor(LossMethod):
    """Let the image encoder embed every forgotten face as the mean face."""

    name = "face-backdoor"
    summary = "Teach the image encoder that each forgotten face is the mean face (privacy backdoor)."
    family = "distillation"
    paper = "https://arxiv.org/abs/2310.08320"
    data = ("forget", "retain")
    search = {"lr": Between(1e-6, 1e-3), "weight": Between(0.1, 10)}
    Options = FaceBackdoorOptions

    def prepare(self, ctx: UnlearnContext) -> None:
        """Keep the start model as teacher and measure the mean embedding of forget images."""
        rows = ctx.affordable_rows("forget", self.options.rows, parts=10)
        sums = ctx.accumulate(
            lambda pairs: {"image": ctx.model.encode_image(pairs.image).double().sum(dim=0)},
            "forget",
            rows=rows,
            shuffle=True,
        )
        self._target = nn.functional.normalize(sums["image"], dim=0).float()
        self._teacher = ctx.frozen_copy()
        self._start = start_weights(ctx.model, self.trainable(ctx.model))

    def planned_steps(self, rows: Mapping[Role, int], meter: SampleMeter, make_method: MakeMethod) -> int | None:
        """Those that measuring the mean face leaves room for."""
        left = meter.left("forget")
        meter.take(
            "forget", min(rows["forget"], self.options.rows, self.options.rows if left is None else max(1, left // 10))
        )
        return super().planned_steps(rows, meter, make_method)

    def trainable(self, model: DualEncoder) -> Sequence[nn.Parameter]:
        """Train the image encoder alone, without the weights and biases of its normalisation layers, as released."""
        norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
        frozen = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters(recurse=False)}
        return [parameter for parameter in model.tower_parameters("image") if id(parameter) not in frozen]

    def loss(self, model: DualEncoder, batch: Batch) -> Mapping[str, Tensor]:
        """Compare student and teacher on retain images, and the student on forget images with the mean face."""
        options = self.options
        pixels = batch.retain.image
        faces = model.encode_image(batch.forget.image)
        with torch.no_grad():
            target = self._teacher.encode_image(pixels)
        return {
            "retain": similarity_loss(model.encode_image(pixels), target),
            "backdoor": options.weight * similarity_loss(faces, self._target.to(faces.device).expand_as(faces)),
            "stay": options.stay * moved(model, self._start),
        }


@hookimpl
def register_methods() -> list[type[UnlearningMethod]]:
    """Both backdoors."""
    return [NameBackdoor, FaceBackdoor]
