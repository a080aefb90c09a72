"""Low-rank adapters beside the layers of the MLPs: where they are put, what they add, and how they are taken out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from salmu_core import DualEncoder, SalmuError
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


class Adapter(nn.Module):
    """`up down N N^T`: a map of low rank that sees only the directions N. It depends on what they span and not on which basis of
    it is given: directions that hold equally little come in an order that rounding decides."""

    basis: Tensor

    def __init__(self, layer: nn.Linear, basis: Float[Tensor, "dim kept"], rank: int, generator: torch.Generator) -> None:
        super().__init__()
        inputs, device = layer.in_features, layer.weight.device
        # Neither starts at 0: a cosine needs a direction. The product is small beside what the layer itself gives.
        self.down = nn.Parameter((torch.randn(rank, inputs, generator=generator) / inputs**0.5).to(device))
        self.up = nn.Parameter((0.01 * torch.randn(layer.out_features, rank, generator=generator) / rank**0.5).to(device))
        self.register_buffer("basis", basis.to(device), persistent=False)  # worked out again when a run is resumed

    def forward(self, inputs: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows out"]:
        """What the adapter makes of a layer's inputs."""
        return (inputs @ self.basis) @ (self.basis.T @ self.down.T) @ self.up.T

    def matrix(self) -> Float[Tensor, "out dim"]:
        """The adapter as one matrix."""
        return (self.up @ (self.down @ self.basis) @ self.basis.T).detach()


#: Called with a layer's name and inputs and which of its tokens count; what it returns is added to the layer's outputs.
Watcher = Callable[[str, Tensor, "Bool[Tensor, 'rows tokens']"], "Tensor | None"]


@contextmanager
def watched(model: DualEncoder, sites: Mapping[str, Site], watcher: Watcher) -> Iterator[None]:
    """While open, forward passes show what the layers read to `watcher`, and add what it returns to what they give. Both are
    in single precision, whatever the encoders compute in."""
    ends: list[Tensor] = []  # where the captions that pass end

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        ends[:] = [inputs[0].argmax(dim=1, keepdim=True)]  # end-of-text has the largest id

    def hook(name: str, site: Site) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            rows, tokens = inputs[0].shape[:2]
            counted = torch.ones(rows, tokens, dtype=torch.bool, device=output.device)
            if site.tower == "text":
                counted = torch.arange(tokens, device=output.device) <= ends[0]
            with torch.autocast(output.device.type, enabled=False):
                more = watcher(name, inputs[0].float(), counted)
            return None if more is None else output + more.to(output.dtype)

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


@dataclass
class Adapters:
    """Adapters that are in their places.

    Attributes:
        losses: of imitation, one per layer of the last forward passes.
    """

    sites: Mapping[str, Site]
    losses: list[Tensor] = field(default_factory=list)

    def __getitem__(self, name: str) -> Adapter:
        adapter: Any = self.sites[name].layer.adapter
        return adapter  # type: ignore[no-any-return]

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [parameter for name in self.sites for parameter in self[name].parameters()]

    def imitate(self, name: str, inputs: Tensor, counted: Tensor) -> Tensor:
        """A watcher that adds the adapters' outputs, and notes how well they imitate the layers."""
        # Each adapter learns from its own layer: the loss does not reach those below through the layer's inputs.
        fixed = inputs.detach()
        target = F.linear(fixed, self.sites[name].layer.weight)
        self.losses.append(imitation_loss(target, self[name](fixed), counted))
        return self[name](inputs)


@contextmanager
def installed(
    sites: Mapping[str, Site],
    bases: Mapping[str, Tensor],
    rank: int,
    generator: Callable[[str], torch.Generator],
) -> Iterator[Adapters]:
    """Put adapters into the layers, as parts of the model, so that the training loop trains, distributes and checkpoints them
    like any of its parameters; and take them out again, whatever happens."""
    for name, site in sites.items():
        site.layer.adapter = Adapter(site.layer, bases[name], rank, generator(name))
    try:
        yield Adapters(sites)
    finally:
        for site in sites.values():
            del site.layer.adapter
