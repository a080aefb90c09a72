"""Low-rank adapters of the layers of the MLPs: which layers, what the adapters see, and how well they imitate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from salmu_core import DualEncoder, SalmuError
from salmu_core.models.adapters import LowRank, installed
from salmu_vl_eraser.formulas import imitation_loss

Tower = Literal["image", "text"]
Which = Literal["first", "second"]


@dataclass(frozen=True)
class Site:
    """A linear layer of a transformer block's MLP."""

    tower: Tower
    layer: nn.Linear


def mlp_sites(model: DualEncoder, tower: Literal["both", "image", "text"], which: Which) -> dict[str, Site]:
    """One layer of each MLP of open_clip's transformer blocks, by name.

    Raises:
        SalmuError: an encoder has none (a ResNet, timm or Hugging Face encoder).
    """
    towers: tuple[Tower, ...] = ("image", "text") if tower == "both" else (tower,)
    found: dict[str, Site] = {}
    for side in towers:
        ids = {id(parameter) for parameter in model.tower_parameters(side)}
        before = len(found)
        for name, module in model.named_modules():
            first, second = getattr(module, "c_fc", None), getattr(module, "c_proj", None)
            if isinstance(first, nn.Linear) and isinstance(second, nn.Linear) and id(first.weight) in ids:
                layer = first if which == "first" else second
                found[f"{name}.{'c_fc' if which == 'first' else 'c_proj'}"] = Site(side, layer)
        if len(found) == before:
            other = "text" if side == "image" else "image"
            raise SalmuError(
                f"vl-eraser finds no transformer MLP (c_fc, c_proj) in the {side} encoder of this architecture.",
                f"It erases from open_clip's own transformers. Erase from the other encoder with --set tower={other}.",
            )
    return found


#: Called with a layer's name and inputs and which of its tokens count.
Watcher = Callable[[str, Tensor, "Bool[Tensor, 'rows tokens']"], None]


@contextmanager
def watched(model: DualEncoder, sites: Mapping[str, Site], watcher: Watcher) -> Iterator[None]:
    """While open, forward passes show what the layers read to `watcher`, in single precision, whatever the encoders compute in."""
    ends: list[Tensor] = []  # where the captions that pass end

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ends[:] = [inputs[0].argmax(dim=1, keepdim=True)]  # end-of-text has the largest id

    def hook(name: str, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows, tokens = inputs[0].shape[:2]
            counted = torch.ones(rows, tokens, dtype=torch.bool, device=output.device)
            if site.tower == "text":
                counted = torch.arange(tokens, device=output.device) <= ends[0]
            with torch.autocast(output.device.type, enabled=False):
                watcher(name, inputs[0].float(), counted)

        return after

    handles = [site.layer.register_forward_hook(hook(name, site)) for name, site in sites.items()]
    clip: Any = model.clip
    embedding = getattr(clip.text if hasattr(clip, "text") else clip, "token_embedding", None)
    if any(site.tower == "text" for site in sites.values()) and embedding is not None:
        handles.append(embedding.register_forward_pre_hook(remember))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Adapters:
    """Core's low-rank adapters, one for each layer, and how well each imitates its layer.

    An adapter is a map of low rank that sees only the directions it is given. It depends on what they span and not on which basis of
    it is given: directions that hold equally little come in an order that rounding decides. No factor starts at 0, as one of a LoRA
    does: a cosine needs a direction. The product is small beside what the layer itself gives.

    Args:
        sites: the layers.
        bases: orthonormal columns that an adapter sees, by layer.
        rank: of every adapter.
        generator: draws an adapter's start, by layer.

    Attributes:
        losses: of imitation, one per layer of the last forward passes.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        bases: Mapping[str, Float[Tensor, "dim kept"]],
        rank: int,
        generator: Callable[[str], torch.Generator],
    ) -> None:
        self.sites = sites
        self.losses: list[Tensor] = []
        self._weights = {name: site.layer.weight for name, site in sites.items()}  # the layers' own, also while adapted
        self._parts = {
            name: LowRank(site.layer.weight, rank, 1.0, generator(name), spread=0.01, basis=bases[name])
            for name, site in sites.items()
        }

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [parameter for part in self._parts.values() for parameter in part.parameters()]

    def give(self, name: str, inputs: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """What a layer's adapter makes of inputs."""
        factors = self._parts[name].factors()
        return (inputs @ factors.down.T) @ factors.up.T

    def target(self, name: str, inputs: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """What the layer itself makes of them, without its bias."""
        return F.linear(inputs, self._weights[name])

    def matrix(self, name: str) -> Float[Tensor, "out dim"]:
        """A layer's adapter as one matrix."""
        factors = self._parts[name].factors()
        return (factors.up @ factors.down).detach()

    def imitate(self, name: str, inputs: Tensor, counted: Tensor) -> None:
        """A watcher that notes how well the adapters imitate the layers."""
        # Each adapter learns from its own layer: the loss does not reach those below through the layer's inputs.
        fixed = inputs.detach()
        self.losses.append(imitation_loss(self.target(name, fixed), self.give(name, fixed), counted))

    @contextmanager
    def installed(self, model: DualEncoder) -> Iterator[None]:
        """Put the adapters into the model, so that the training loop trains, distributes and checkpoints them like any of its
        parts; and take them out again, whatever happens."""
        with installed(model, {f"{name}.weight": part for name, part in self._parts.items()}, merge=False):
            yield
