"""What lies below the final embeddings: probes on every layer, and how like Clean's the layers are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from salmu_audits.measures import distinct, mean_reciprocal_rank, sample_rows
from salmu_audits.probes import ridge_map
from salmu_core import Audit, AuditContext, DualEncoder, Field, Leak, Options, Split
from salmu_core.data.pixels import PairStore
from salmu_core.metric import NotMeasurable

_CHUNK = 256


class LayerOptions(Options):
    """Options of both audits of layers."""

    rows: int = Field(2000, ge=4, description="forget pairs that are looked at, drawn at random where there are more")


class ProbeOptions(LayerOptions):
    """Options of layer-probe."""

    strength: float = Field(0.1, gt=0, description="ridge penalty for each row, of features with unit variance")


def blocks(tower: nn.Module) -> list[nn.Module]:
    """The layers of an encoder: the members of its longest list of modules of one kind.

    Raises:
        NotMeasurable: it has none.
    """
    lists = [
        list(module)
        for module in tower.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) and len({type(m) for m in module}) == 1
    ]
    lists = [found for found in lists if any(True for _ in found[0].parameters())]
    if not lists:
        raise NotMeasurable("the encoder has no layers that can be told apart")
    return max(lists, key=lambda found: (len(found), sum(p.numel() for m in found for p in m.parameters())))


def pooled(output: Tensor, rows: int) -> Float[Tensor, "rows width"]:
    """One vector for each row: the mean over places, whichever of the first two dimensions rows are. Maps [rows, width, h, w] too."""
    if output.ndim == 4:
        return output.mean(dim=(2, 3))
    if output.ndim == 3:
        return output.mean(dim=1) if output.shape[0] == rows else output.mean(dim=0)
    return output


@contextmanager
def _watched(modules: list[nn.Module], found: list[list[Tensor]], rows: list[int]) -> Iterator[None]:
    def keep(place: int):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, given: object, output: Tensor | tuple[Tensor, ...]) -> None:
            value = output[0] if isinstance(output, tuple) else output
            found[place].append(pooled(value.detach().float(), rows[0]).cpu())

        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def layer_features(model: DualEncoder, split: Split, side: str) -> list[Float[Tensor, "rows width"]]:
    """Pooled output of every layer of an encoder and its final embedding, on the CPU.

    Args:
        side: image or text.
    """
    clip = model.clip
    tower = clip.visual if side == "image" else clip.text if hasattr(clip, "text") else clip.transformer
    assert isinstance(tower, nn.Module)
    modules = blocks(tower)
    store = PairStore(split, model.processor, model.device)
    found: list[list[Tensor]] = [[] for _ in modules]
    final: list[Tensor] = []
    rows = [0]
    model.eval()
    with _watched(modules, found, rows):
        for start in range(0, len(store), _CHUNK):
            index = torch.arange(start, min(start + _CHUNK, len(store)))
            rows[0] = len(index)
            encode = model.encode_image(store.pixels(index)) if side == "image" else model.encode_text(store.tokens(index))
            final.append(encode.cpu())
    return [*(torch.cat(parts) for parts in found), torch.cat(final)]


def standardised(features: Float[Tensor, "rows width"], like: Float[Tensor, "known width"]) -> Float[Tensor, "rows width"]:
    """Mean 0 and variance 1 by the rows that are known."""
    return (features - like.mean(dim=0)) / (like.std(dim=0) + 1e-6)


class LayerProbe(Audit):
    """Learn a map from image layers to text layers on half of the people and retrieve the other half's captions."""

    name = "layer-probe"
    summary = (
        "Linear maps between layers, learned on half of the people, retrieve captions of the others; the best layers count."
    )
    paper = "https://arxiv.org/abs/1610.01644"
    version = "2"
    Options = ProbeOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """What a model hides in its last projections shows a layer below. A map alone cannot know other people's facts, so
        that Clean gets next to nothing."""
        forget = ctx.split("forget")
        split = forget.take(sample_rows(len(forget), self.options.rows, ctx.generator("rows")), "looked at")
        people = sorted({str(value) for value in split.columns["identity_id"]})
        order = torch.randperm(len(people), generator=ctx.generator("people")).tolist()
        taught = {people[place] for place in order[: len(people) // 2]}
        mask = torch.tensor([str(value) in taught for value in split.columns["identity_id"]])
        if not 0 < int(mask.sum()) < len(mask):
            raise NotMeasurable("there are too few identities to learn on some and test on others")
        captions = [caption for caption, known in zip(split.render(None), mask.tolist(), strict=True) if not known]
        tested, own = distinct(captions)
        first = [captions.index(caption) for caption in tested]
        images, texts = layer_features(ctx.model, split, "image"), layer_features(ctx.model, split, "text")
        extras: dict[str, float] = {}
        for i, image in enumerate(images):
            for t, text in enumerate(texts):
                x, y = standardised(image, image[mask]), standardised(text, text[mask])
                learned = ridge_map(x[mask], y[mask], self.options.strength)
                mapped, known = F.normalize(x[~mask] @ learned, dim=1), F.normalize(y[~mask], dim=1)
                key = f"image {_layer(i, images)} to text {_layer(t, texts)}"
                extras[key] = mean_reciprocal_rank(mapped, known[first], own)
        return Leak(max(extras.values()), extras)


def _layer(place: int, layers: list[Tensor]) -> str:
    return "end" if place == len(layers) - 1 else str(place + 1)


def linear_cka(x: Float[Tensor, "rows a"], y: Float[Tensor, "rows b"]) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414, equation 4): `|Y'X|^2 / (|X'X| |Y'Y|)` of centred
    features, Frobenius norms. 1 where one is a rotation and scaling of the other.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [0.0, -2.0]])
    >>> round(linear_cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    x, y = (features.double() - features.double().mean(dim=0) for features in (x, y))
    cross = (y.T @ x).square().sum()
    return float(cross / ((x.T @ x).norm() * (y.T @ y).norm()).clamp(min=1e-30))


class LayerSimilarity(Audit):
    """How unlike Clean's the layers are on what was to be forgotten."""

    name = "layer-cka"
    summary = (
        "1 less the similarity (linear CKA) of layers to Clean's on forget pairs, mean over layers: 0 as if never learned."
    )
    paper = "https://arxiv.org/abs/1905.00414"
    references = ("clean",)
    Options = LayerOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """No attack: it says where in the model the difference to Clean lies."""
        forget = ctx.split("forget")
        split = forget.take(sample_rows(len(forget), self.options.rows, ctx.generator("rows")), "looked at")
        clean = ctx.reference("clean")
        extras: dict[str, float] = {}
        for side in ("image", "text"):
            mine, theirs = layer_features(ctx.model, split, side), layer_features(clean, split, side)
            for place, (x, y) in enumerate(zip(mine, theirs, strict=True)):
                extras[f"{side} {_layer(place, mine)}"] = 1 - linear_cka(x, y)
        return Leak(max(0.0, sum(extras.values()) / len(extras)), extras)
