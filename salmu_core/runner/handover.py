"""What a method hands back: its weights, looked over, in a fresh model. Nothing else that it did to the model is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from salmu_core.errors import PluginFailure
from salmu_core.files.names import some
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.processor import forget_tokenizers

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)
_PROBE = "The quick brown fox, 42"


class Handed:
    """A model as it was before a method had it."""

    def __init__(self, model: DualEncoder) -> None:
        self._model = model
        self.weights = {name: tensor.detach().cpu().clone() for name, tensor in model.weights().items()}
        self._hooks = _hooks(model)
        self._attributes = {name: _replaceable(module) for name, module in model.named_modules()}
        self._processor = model.processor
        self._processed = _processed(model.processor)

    def taken_back(self, model: Any) -> dict[str, Tensor]:
        """The weights after the method, as they will be saved and scored.

        Args:
            model: what the method left in the context.

        Raises:
            PluginFailure: it is another model, or its weights have other names, shapes or number types.
        """
        if model is not self._model:
            raise PluginFailure(
                "It is not the model that was handed to it: another one stands in ctx.model.",
                "Change the model that is given.",
            )
        found: dict[str, Tensor] = self._model.weights()
        missing, surplus = sorted(self.weights.keys() - found.keys()), sorted(found.keys() - self.weights.keys())
        if missing or surplus:
            what = f"lacks the weight {missing[0]}" if missing else f"has the new weight {surplus[0]}"
            raise PluginFailure(
                f"It {what}, so it is of another architecture now.", "Change values, and leave names as they are."
            )
        for name, before in self.weights.items():
            if found[name].shape != before.shape or found[name].dtype != before.dtype:
                raise PluginFailure(
                    f"Its {name} is {tuple(found[name].shape)} of {found[name].dtype}, and was {tuple(before.shape)} of"
                    f" {before.dtype}.",
                    "Use copy_ to write values into a weight.",
                )
        return found

    def warnings(self, who: str, weights: Mapping[str, Tensor]) -> list[str]:
        """What the method left on the model, or changed, beside what it is there to change."""
        found = [
            f"{who} changed {name} from {float(before):.4f} to {float(weights[name]):.4f}: that scales all logits and forgets"
            " nothing."
            for name, before in self.weights.items()
            if name in ("logit_scale", "logit_bias") and not torch.equal(before, weights[name].detach().cpu())
        ]
        hooks = {name: count for name, count in _hooks(self._model).items() if count > self._hooks.get(name, 0)}
        if hooks:
            found.append(
                f"{who} left hooks on {some(hooks)}. They are not part of the weights, so they are neither saved nor scored."
            )
        replaced = {
            f"{name}.{attribute}".lstrip("."): None
            for name, module in self._model.named_modules()
            for attribute, value in _replaceable(module).items()
            if self._attributes.get(name, {}).get(attribute) is not value
        }
        if replaced:
            found.append(
                f"{who} replaced {some(replaced)}. That is not part of the weights, so it is neither saved nor scored."
            )
        if self._model.processor is not self._processor or not _equal(_processed(self._model.processor), self._processed):
            forget_tokenizers()
            found.append(f"{who} changed how pictures or captions are prepared. The scores are of those prepared as before.")
        return found


def fresh_model(load: Callable[[], DualEncoder], weights: Mapping[str, Tensor]) -> DualEncoder:
    """A model that nobody has touched, with these weights, on the CPU."""
    model = load()
    with torch.no_grad():
        for name, tensor in model.weights().items():
            tensor.copy_(weights[name])
    return model


def _hooks(model: nn.Module) -> dict[str, int]:
    return {
        name or "the model": count
        for name, module in model.named_modules()
        if (count := sum(len(getattr(module, kind, ())) for kind in _HOOKS))
    }


def _replaceable(module: nn.Module) -> dict[str, Any]:
    """What a module has of its own in place of a method of its class."""
    return {name: value for name, value in vars(module).items() if callable(value) and hasattr(type(module), name)}


def _processed(processor: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """What becomes of a picture and a caption."""
    try:
        pixels = processor.normalise(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1))
        return pixels.cpu().clone(), processor.tokenize([_PROBE]), torch.tensor(processor.vocabulary)
    except Exception:  # it is broken: that is a change, too
        return None


def _equal(first: tuple[Tensor, ...] | None, second: tuple[Tensor, ...] | None) -> bool:
    if first is None or second is None:
        return first is second
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
