"""How the pair is trained: architecture and optimisation, per size."""

from __future__ import annotations

from dataclasses import dataclass

from salmu_core.method import FitOptions
from salmu_core.model import ModelConfig

#: open_clip's default mean and deviation are those of photographs; drawn pictures are brighter and more saturated.
_PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


@dataclass(frozen=True)
class Recipe:
    """What the training of Clean and Compromised share.

    Attributes:
        model: open_clip's own description of the architecture.
        options: the training loop's options; `epochs` counts passes over the model's own training rows.
        largest_scale: the logit scale is kept below this (Radford et al. 2021 clip it to 100).
    """

    model: ModelConfig
    options: FitOptions
    largest_scale: float = 100.0


def _clip(side: int, patch: int, width: int, layers: int, text_width: int, text_layers: int, embed: int) -> ModelConfig:
    return ModelConfig(
        {
            "embed_dim": embed,
            "vision_cfg": {"image_size": side, "layers": layers, "width": width, "patch_size": patch, "head_width": 32},
            # CLIP's own vocabulary: checkpoints then load in plain open_clip with its standard tokenizer.
            "text_cfg": {
                "context_length": 48,
                "vocab_size": 49408,
                "width": text_width,
                "heads": text_width // 32,
                "layers": text_layers,
            },
        },
        _PREPROCESS,
    )


def _resnet(side: int, width: int, text_width: int, text_layers: int, embed: int) -> ModelConfig:
    """CLIP's modified ResNet with a block per stage in the place of the ViT; its side is a multiple of 32."""
    described = _clip(side, side, width, 1, text_width, text_layers, embed).as_json()
    vision = {"image_size": side, "layers": [1, 1, 1, 1], "width": width, "head_width": 64}
    return ModelConfig({**described["model_cfg"], "vision_cfg": vision}, _PREPROCESS)


def _options(epochs: float, lr: float, batch_size: int) -> FitOptions:
    return FitOptions(
        lr=lr, epochs=epochs, batch_size=batch_size, weight_decay=0.1, beta2=0.98, eps=1e-6, schedule="cosine", warmup=0.1
    )


RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(_clip(16, 8, 32, 1, 32, 1, 16), _options(epochs=2, lr=2e-3, batch_size=64)),
    "mini": Recipe(_clip(32, 8, 96, 3, 64, 1, 64), _options(epochs=28, lr=2e-3, batch_size=256)),
    "resnet": Recipe(_resnet(32, 16, 64, 1, 64), _options(epochs=28, lr=2e-3, batch_size=256)),
    "small": Recipe(_clip(64, 8, 192, 6, 192, 4, 128), _options(epochs=30, lr=1e-3, batch_size=1024)),
}
