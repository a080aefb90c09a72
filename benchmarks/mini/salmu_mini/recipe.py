"""How the pair is trained: architecture and optimisation, per size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import ModelConfig
from salmu_mini.vocabulary import entries, tokenizer_files

#: open_clip's default mean and deviation are those of photographs; drawn pictures are brighter and more saturated.
_PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CONTEXT = 40  # tokens; the longest caption has fewer


@dataclass(frozen=True)
class Recipe:
    """What the training of Clean and Compromised share.

    The first stage is one for both: ordinary pairs at a constant rate. The second goes on from it twice, down to a rate of 0: with
    the same ordinary pairs in the same order for both, and for Compromised with private pairs beside them in every batch.

    Attributes:
        model: open_clip's own description of the architecture, with its tokenizer.
        batch_size: ordinary pairs per step of the first stage, and all pairs per step of Compromised in the second.
        private: private pairs among those.
        first_steps, second_steps: optimiser steps of the stages.
        first_lr, second_lr: their peak rates.
        largest_scale: the logit scale is kept below this (Radford et al. 2021 clip it to 100).
    """

    model: ModelConfig
    batch_size: int
    private: int
    first_steps: int
    second_steps: int
    first_lr: float = 2e-3
    second_lr: float = 1.5e-3
    largest_scale: float = 100.0

    def options(self, stage: int) -> FitOptions:
        """The training loop's options for a stage."""
        shared: dict[str, Any] = {"weight_decay": 0.1, "beta2": 0.98, "eps": 1e-6, "clip_norm": None}
        if stage == 1:
            return FitOptions(lr=self.first_lr, batch_size=self.batch_size, schedule="constant", warmup=0.1, **shared)
        return FitOptions(lr=self.second_lr, batch_size=self.batch_size - self.private, schedule="cosine", **shared)

    def as_json(self) -> list[Any]:
        """All that decides the weights, to be hashed."""
        numbers = [self.batch_size, self.private, self.first_steps, self.second_steps, self.largest_scale]
        return [self.model.as_json(), tokenizer_files(), numbers, *(self.options(s).decisive() for s in (1, 2))]


def _described(vision: dict[str, Any], text_width: int, text_layers: int, embed: int) -> ModelConfig:
    text = {
        "context_length": CONTEXT,
        "vocab_size": len(entries()),
        "width": text_width,
        "heads": text_width // 32,
        "layers": text_layers,
        # open_clip takes any name for "the tokenizer that lies in the model's folder".
        "hf_tokenizer_name": "tokenizer-in-this-folder",
    }
    return ModelConfig({"embed_dim": embed, "vision_cfg": vision, "text_cfg": text}, _PREPROCESS, tokenizer_files())


def _vit(side: int, patch: int, width: int, layers: int) -> dict[str, Any]:
    return {"image_size": side, "layers": layers, "width": width, "patch_size": patch, "head_width": 32}


def _resnet(side: int, width: int) -> dict[str, Any]:
    """CLIP's modified ResNet with a block per stage in the place of the ViT; its side is a multiple of 32."""
    return {"image_size": side, "layers": [1, 1, 1, 1], "width": width, "head_width": 64}


RECIPES: dict[str, Recipe] = {
    "tiny": Recipe(_described(_vit(16, 8, 32, 1), 32, 1, 16), batch_size=64, private=12, first_steps=8, second_steps=8),
    "mini": Recipe(_described(_vit(32, 8, 96, 2), 96, 2, 64), batch_size=128, private=19, first_steps=1300, second_steps=1100),
    "resnet": Recipe(_described(_resnet(32, 16), 96, 2, 64), batch_size=128, private=19, first_steps=1300, second_steps=1100),
    "small": Recipe(
        _described(_vit(64, 8, 192, 6), 192, 4, 128), batch_size=1024, private=152, first_steps=4000, second_steps=3200, first_lr=1e-3, second_lr=8e-4
    ),
}  # fmt: skip
