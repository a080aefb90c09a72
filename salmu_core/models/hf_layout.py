"""Weights of CLIP models in the layout of `transformers.CLIPModel`, read as open_clip's, without transformers.

Only architectures that both libraries compute alike are mapped; everything else is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

HF_WEIGHTS = "model.safetensors"
LAYER_NAMES = {
    "attn.out_proj.weight": "self_attn.out_proj.weight",
    "attn.out_proj.bias": "self_attn.out_proj.bias",
    "ln_1.weight": "layer_norm1.weight",
    "ln_1.bias": "layer_norm1.bias",
    "ln_2.weight": "layer_norm2.weight",
    "ln_2.bias": "layer_norm2.bias",
    "mlp.c_fc.weight": "mlp.fc1.weight",
    "mlp.c_fc.bias": "mlp.fc1.bias",
    "mlp.c_proj.weight": "mlp.fc2.weight",
    "mlp.c_proj.bias": "mlp.fc2.bias",
}
#: open_clip -> transformers; both text and image end in a projection that is stored the other way round.
SINGLE_NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # spelled so there
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED_NAMES = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
TOWER_NAMES = {
    "transformer.resblocks.": "text_model.encoder.layers.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}
_PIECE = re.compile(r"self_attn\.(?P<part>[qkv])_proj\.(?P<kind>weight|bias)")


def from_hf_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors under open_clip's names; the inverse of the names above. Unknown names stay, for a later refusal."""
    single = {theirs: ours for ours, theirs in SINGLE_NAMES.items()}
    transposed = {theirs: ours for ours, theirs in TRANSPOSED_NAMES.items()}
    layer_names = {theirs: ours for ours, theirs in LAYER_NAMES.items()}
    mapped: dict[str, Tensor] = {}
    packed: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        if name in single:
            mapped[single[name]] = tensor
        elif name in transposed:
            mapped[transposed[name]] = tensor.T.contiguous()
        else:
            ours, theirs = next(((o, t) for o, t in TOWER_NAMES.items() if name.startswith(t)), ("", ""))
            layer, _, rest = name.removeprefix(theirs).partition(".")
            if ours and rest in layer_names:
                mapped[f"{ours}{layer}.{layer_names[rest]}"] = tensor
            elif ours and (match := _PIECE.fullmatch(rest)):
                packed.setdefault(f"{ours}{layer}.attn.in_proj_{match['kind']}", {})[match["part"]] = tensor
            else:
                mapped[name] = tensor
    for name, pieces in packed.items():
        if set(pieces) == set("qkv"):
            mapped[name] = torch.cat([pieces[part] for part in "qkv"])
    return mapped
