"""Pruning in numbers, what it leaves alone, and its card."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import DualEncoder, ModelConfig, SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_pruning", "beartype.beartype"):
    from salmu_pruning import (
        NeuronPruning,
        hidden_layers,
        mean_activity,
        prune_units,
        relative_importance,
        top_units,
    )

METHODS = [NeuronPruning]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


RESNET = ModelConfig(
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
)


def test_relative_importance_by_hand():
    score = relative_importance(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.5, 0.0, 3.0]), 0.5)
    torch.testing.assert_close(score, torch.tensor([2.0, 2.0, 0.0]))


def test_top_units_of_each_layer_and_of_all_together():
    scores = {"first": torch.tensor([1.0, 9.0, 2.0, 3.0]), "second": torch.tensor([8.0, 7.0, 6.0, 0.0])}
    by_layer = top_units(scores, 0.25, "layer")
    assert by_layer["first"].tolist() == [False, True, False, False]
    assert by_layer["second"].tolist() == [True, False, False, False]
    together = top_units(scores, 0.5, "global")
    assert together["first"].tolist() == [False, True, False, False]
    assert together["second"].tolist() == [True, True, True, False]
    assert not top_units(scores, 0.0, "layer")["first"].any()
    assert top_units(scores, 1.0, "global")["second"].all()


def test_hidden_layers_of_the_toy_transformer():
    with toy_context(NeuronPruning()) as ctx:
        layers = hidden_layers(ctx.model, "both")
        assert [(layer.tower, layer.c_fc.out_features) for layer in layers.values()] == [("image", 128), ("text", 64)]
        assert list(hidden_layers(ctx.model, "text")) == ["clip.transformer.resblocks.0.mlp"]


def test_an_encoder_without_such_blocks_is_refused_with_a_way_out():
    model = DualEncoder.create(RESNET, seed=0)
    assert list(hidden_layers(model, "text")) == ["clip.transformer.resblocks.0.mlp"]
    for tower in ("image", "both"):
        with pytest.raises(SalmuError, match="image encoder") as found:
            hidden_layers(model, tower)
        assert "tower=text" in str(found.value)


def activations(model, tower, pairs):
    """The hidden units of the only block of a toy tower, computed from the block's own input."""
    block = (model.clip.visual.transformer if tower == "image" else model.clip.transformer).resblocks[0]
    caught = []
    handle = block.mlp.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        model.encode_image(pairs.image) if tower == "image" else model.encode_text(pairs.text)
        handle.remove()
        return block.mlp.gelu(block.mlp.c_fc(caught[0]))


def test_mean_activity_against_a_loop_over_real_tokens():
    with toy_context(NeuronPruning()) as ctx:
        layers = hidden_layers(ctx.model, "both")
        measured = mean_activity(ctx, "forget", layers, 10)
        pairs = next(ctx.batches("forget", 36))
        image = activations(ctx.model, "image", pairs).abs().double().numpy()
        np.testing.assert_allclose(measured["clip.visual.transformer.resblocks.0.mlp"], image.mean(axis=(0, 1)), rtol=1e-4)
        text = activations(ctx.model, "text", pairs).abs().double().numpy()
        lengths = [row.tolist().index(49407) + 1 for row in pairs.text]  # up to and with the end-of-text token
        assert len(set(lengths)) > 1
        real = np.concatenate([text[row, :length] for row, length in enumerate(lengths)])
        np.testing.assert_allclose(measured["clip.transformer.resblocks.0.mlp"], real.mean(axis=0), rtol=1e-4)


def test_no_hook_is_left_behind():
    method = NeuronPruning()
    with toy_context(method) as ctx:
        method.unlearn(ctx)
        assert not any(module._forward_pre_hooks for module in ctx.model.modules())


@pytest.mark.parametrize("tower", ["image", "text"])
def test_pruned_units_output_zero_and_the_others_are_untouched(tower):
    with toy_context(NeuronPruning()) as ctx:
        (layer,) = hidden_layers(ctx.model, tower).values()
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        units = torch.zeros(layer.c_fc.out_features, dtype=torch.bool)
        units[[0, 5, 17]] = True
        prune_units(layer, units)
        hidden = activations(ctx.model, tower, next(ctx.batches("forget", 12)))
        assert torch.equal(hidden[..., units], torch.zeros_like(hidden[..., units]))
        assert (hidden[..., ~units] != 0).any(dim=(0, 1)).all()
        assert torch.equal(layer.c_proj.weight[:, units], torch.zeros(layer.c_proj.out_features, 3))
        after = ctx.model.weights()
        touched = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".mlp.")[-1] for name in touched} <= {"c_fc.weight", "c_fc.bias", "c_proj.weight"}


def test_the_units_with_the_highest_scores_are_removed():
    method = NeuronPruning(NeuronPruning.Options(share=0.1, tower="image"))
    with toy_context(method) as ctx:
        layers = hidden_layers(ctx.model, "image")
        (name,) = layers
        score = mean_activity(ctx, "forget", layers, 36)[name] / (mean_activity(ctx, "retain", layers, 24)[name] + 1e-6)
        method.unlearn(ctx)
        gone = (layers[name].c_fc.weight == 0).all(dim=1)
        assert ctx.history[-1]["pruned_units"] == int(gone.sum()) == 13  # a tenth of 128
        assert score[gone].min() >= score[~gone].max()
        assert ctx.samples == {"forget": 72, "retain": 48}  # one pass over each here, one in the method


def test_no_share_changes_nothing():
    method = NeuronPruning(NeuronPruning.Options(share=0))
    with toy_context(method) as ctx:
        before = ctx.model.fingerprint()
        method.unlearn(ctx)
        assert ctx.model.fingerprint() == before


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruning_edits_only_the_tower_asked_for(scope):
    for tower, frozen in (("image", "text"), ("text", "image")):
        method = NeuronPruning(NeuronPruning.Options(tower=tower, scope=scope))
        with toy_context(method) as ctx:
            before = ctx.model.fingerprint()
            method.unlearn(ctx)
            after = ctx.model.fingerprint()
        assert after[frozen] == before[frozen]
        assert after[tower] != before[tower]


def test_a_small_budget_measures_fewer_rows():
    with toy_context(method := NeuronPruning(), budget=0.1) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 14, "retain": 14}
