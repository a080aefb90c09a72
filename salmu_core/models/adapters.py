"""Low-rank adapters (LoRA): what they add to a model's matrices, how they are put in and merged, and their file.

The adapters are PyTorch parametrizations of the matrices themselves. `peft` wraps modules instead, and half of what open_clip's
models compute with is not reached that way: `visual.proj`, `text_projection` and the attention's `in_proj_weight` are parameters
that no module of their own multiplies with, and of `nn.MultiheadAttention` the output projection's `forward` is never called.
`peft` 0.21 therefore has a layer for it that merges before and unmerges after each forward pass (input and output projection
together or not at all), which layers that are computed again in the backward pass do not survive. A parametrized matrix is
whatever the forward pass reads, however often.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from salmu_core.errors import BadCheckpoint, BadOptions, DamagedFile
from salmu_core.files.writing import read_tensors, write_tensors
from salmu_core.models.dual_encoder import DualEncoder, Tower

#: Which of the trained matrices get an adapter.
Layers = Literal["blocks", "attention", "mlp", "all"]
ADAPTER_FILE = "adapter.safetensors"
_FORMAT = "salmu.adapter"
_KINDS = {
    "attention": re.compile(r"attn|attention"),
    "mlp": re.compile(r"\.mlp\.|(?<!attention)\.(intermediate|output)\.dense\."),
}
_MODEL = "clip."  # what DualEncoder puts before open_clip's names


class Factors(NamedTuple):
    """What one adapter adds to one matrix: `scale * up @ down`."""

    up: Float[Tensor, "rows rank"]
    down: Float[Tensor, "rank columns"]
    scale: float

    def added_to(self, weight: Tensor) -> Tensor:
        """The weight with the adapter: the same numbers whether training, merging or reading a file asks for them.

        Args:
            weight: of any shape `[rows, ...]` whose other dimensions make up the columns.
        """
        return weight + (self.scale * (self.up @ self.down)).view_as(weight)


class LowRank(nn.Module):
    """A parametrization: a frozen weight and what an adapter adds to it (Hu et al. 2021, arXiv 2106.09685).

    Args:
        weight: the matrix, `[rows, ...]`.
        rank: of what is added.
        scale: what the product of the factors is multiplied with: alpha / rank.
        generator: draws `down`; `up` starts at 0 as published, so that training starts from the model as it is.
        spread: standard deviation of `up` times sqrt(rank), where a start at 0 does not do.
        basis: orthonormal columns; the adapter sees only their span.
    """

    basis: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        scale: float,
        generator: torch.Generator,
        spread: float = 0.0,
        basis: Float[Tensor, "columns kept"] | None = None,
    ) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.scale = scale
        if spread:
            down = torch.randn(rank, columns, generator=generator) / columns**0.5
            up = spread * torch.randn(rows, rank, generator=generator) / rank**0.5
        else:  # uniform within 1/sqrt(columns): Kaiming's rule with a = sqrt(5), as in the authors' code
            down = (2 * torch.rand(rank, columns, generator=generator) - 1) / columns**0.5
            up = torch.zeros(rows, rank)
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(up.to(weight.device))
        self.register_buffer("basis", None if basis is None else basis.to(weight.device), persistent=False)

    def factors(self) -> Factors:
        """What it adds, as factors."""
        down = self.down if self.basis is None else (self.down @ self.basis) @ self.basis.T
        return Factors(self.up, down, self.scale)

    def forward(self, weight: Tensor) -> Tensor:
        # In single precision, whatever the encoders compute in: what is merged in the end is what was trained.
        with torch.autocast(weight.device.type, enabled=False):
            return self.factors().added_to(weight)


def adapted_names(weights: Mapping[str, Tensor], layers: Layers) -> list[str]:
    """Names of the matrices among trained weights that get an adapter.

    Raises:
        BadOptions: there is no such layer.
    """
    matrices = [name for name, weight in weights.items() if weight.ndim > 1]
    kinds = {"all": (), "blocks": tuple(_KINDS)}.get(layers, (layers,))
    found = [name for name in matrices if not kinds or any(_KINDS[kind].search(name) for kind in kinds)]
    if not found:
        raise BadOptions(
            f"None of the trained weights is a matrix of the kind adapter_layers={layers}.",
            "Use adapter_layers=all, which takes every matrix.",
        )
    return found


@contextmanager
def installed(model: DualEncoder, adapters: Mapping[str, LowRank], *, merge: bool = True) -> Iterator[None]:
    """Put adapters into a model, so that forward passes, the training loop and its checkpoints see them like any of its parts; in
    the end take them out again, whatever happens, and leave the weights changed by them or (`merge=False`) as they were.

    Args:
        adapters: by the name of the parameter, as `model.named_parameters()` has it.
    """
    places = {name: _place(model, name) for name in adapters}
    orders = {id(module): (module, list(module._parameters)) for module, _ in places.values()}
    for name, (module, attribute) in places.items():
        parametrize.register_parametrization(module, attribute, adapters[name], unsafe=True)
    try:
        yield
    finally:
        for name, (module, attribute) in places.items():
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
            if merge:
                with torch.no_grad():
                    weight: Any = getattr(module, attribute)
                    weight.copy_(adapters[name].factors().added_to(weight))
        for module, order in orders.values():  # taken out and put back, a parameter would stand last
            kept = dict(module._parameters)
            module._parameters.clear()
            module._parameters.update({name: kept[name] for name in order})


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


# ---------------------------------------------------------------- the file

#: What one call of the training loop added, by open_clip's names.
Added = Mapping[str, Factors]


def added_by(adapters: Mapping[str, LowRank]) -> dict[str, Factors]:
    """What adapters add, on the CPU, by open_clip's names."""
    found = {}
    for name, adapter in adapters.items():
        up, down, scale = adapter.factors()
        found[name.removeprefix(_MODEL)] = Factors(up.detach().cpu().clone(), down.detach().cpu().clone(), scale)
    return found


def apply_added(weights: Mapping[str, Tensor], stages: Sequence[Added]) -> dict[str, Tensor]:
    """Weights with what every stage added, in order. The given ones stay as they are."""
    changed = dict(weights)
    for stage in stages:
        for name, factors in stage.items():
            on = changed[name].device
            changed[name] = Factors(factors.up.to(on), factors.down.to(on), factors.scale).added_to(changed[name])
    return changed


def write_adapter(path: Path, stages: Sequence[Added], start: Mapping[Tower, str]) -> None:
    """Write what was added as one small safetensors file: `STAGE|NAME|up` and `STAGE|NAME|down`.

    Args:
        start: `DualEncoder.fingerprint()` of the model that they belong to.
    """
    tensors = {}
    scales: dict[str, float] = {}
    for number, stage in enumerate(stages):
        for name, factors in stage.items():
            tensors[f"{number:03d}|{name}|up"] = factors.up
            tensors[f"{number:03d}|{name}|down"] = factors.down
            scales[f"{number:03d}|{name}"] = factors.scale
    facts = {"version": 1, "stages": len(stages), "scales": scales, "start": dict(start)}
    write_tensors(path, tensors, {_FORMAT: json.dumps(facts, sort_keys=True)})


def read_adapter(path: Path) -> tuple[list[dict[str, Factors]], dict[str, str]]:
    """What a file of adapters adds, stage by stage, and the fingerprint of the model that it belongs to.

    Raises:
        BadCheckpoint: it is something else, or damaged.
    """
    try:
        tensors, metadata = read_tensors(path, sealed=True)
        facts = json.loads(metadata[_FORMAT])
        stages: list[dict[str, Factors]] = [{} for _ in range(int(facts["stages"]))]
        for key, scale in facts["scales"].items():
            number, _, name = key.partition("|")
            stages[int(number)][name] = Factors(tensors[f"{key}|up"], tensors[f"{key}|down"], float(scale))
        return stages, {str(tower): str(value) for tower, value in facts["start"].items()}
    except DamagedFile as error:
        raise BadCheckpoint(error.message, "Fetch or make the file again.") from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise BadCheckpoint(
            f"'{path}' is not a file of adapters.", f"A run with adapter=lora leaves one as {ADAPTER_FILE}."
        ) from error


def apply_adapter(model: DualEncoder, path: str | Path) -> DualEncoder:
    """Add what a run's `adapter.safetensors` holds to the model that the run started from: the result is the run's own model, bit
    for bit on the same kind of machine.

    Args:
        model: changed in place.
        path: the file.

    Returns:
        The same model.

    Raises:
        BadCheckpoint: no such file, a damaged one, or one that belongs to another model.
    """
    stages, start = read_adapter(Path(path))
    if model.fingerprint() != start:
        raise BadCheckpoint(
            f"'{path}' belongs to another model: the weights are not those that the run started from.",
            "Give the checkpoint that was unlearned, exactly as it was then.",
        )
    changed = apply_added(model.weights(), stages)
    model.clip.load_state_dict(changed)
    return model
