"""Low-rank adapters: what they add, what they leave alone, resuming, the file that applies to the start model."""

import warnings

import numpy as np
import pytest
import torch

from salmu_authors.testing import toy_context
from salmu_core import FitOptions, LossMethod
from salmu_core.builtin.toy import Toy
from salmu_core.errors import BadCheckpoint, BadOptions
from salmu_core.losses import contrastive_loss, pair_cosine
from salmu_core.models.adapters import ADAPTER_FILE, Factors, LowRank, adapted_names, apply_adapter, apply_added, installed
from salmu_core.models.loading import load_model
from salmu_core.records.schema import RunSpec
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.made_model import save_adapter
from salmu_core.runner.run import Settings, run
from salmu_core.spec.resolve import resolve
from toy_methods import toy_plugins

LORA = {"adapter": "lora", "adapter_rank": 2, "lr": 1e-2, "batch_size": 12}


class Push(LossMethod):
    """Lower forget cosines beside the contrastive loss."""

    name = "push"
    summary = "Lower forget cosines."
    family = "negative pairs"
    Options = FitOptions

    def loss(self, model, batch):
        return {"forget": pair_cosine(*model(batch.forget)[:2]).mean(), "retain": contrastive_loss(*model(batch.retain))}


def trained(**options):
    method = Push(FitOptions(**{**LORA, **options}))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


def test_an_adapter_adds_the_scaled_product_of_its_factors_to_weights_of_any_shape():
    rng = np.random.default_rng(0)
    weight, up, down = rng.normal(size=(4, 3, 2, 2)), rng.normal(size=(4, 2)), rng.normal(size=(2, 12))
    found = Factors(torch.from_numpy(up), torch.from_numpy(down), 1.5).added_to(torch.from_numpy(weight))
    np.testing.assert_allclose(found.numpy(), weight + 1.5 * np.einsum("ir,rk->ik", up, down).reshape(4, 3, 2, 2))


def test_a_basis_keeps_what_is_added_inside_its_span():
    basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(1)))[0]
    adapter = LowRank(torch.zeros(5, 6), 3, 1.0, torch.Generator().manual_seed(0), spread=1.0, basis=basis)
    added = adapter(torch.zeros(5, 6)).detach()
    outside = torch.eye(6) - basis @ basis.T
    assert added.norm() > 0.1
    torch.testing.assert_close(added @ outside, torch.zeros(5, 6), atol=1e-6, rtol=0)


def test_every_matrix_of_open_clips_attention_and_mlps_is_reached():
    """`in_proj_weight` is a bare parameter, and `out_proj.forward` is never called: both must matter all the same."""
    model = Toy().load_model("compromised")
    weights = dict(model.named_parameters())
    names = adapted_names(weights, "all")
    assert {name.rpartition(".")[2] for name in names} >= {"in_proj_weight", "weight", "text_projection", "proj"}
    blocks = adapted_names(weights, "blocks")
    assert sorted(blocks) == sorted([*adapted_names(weights, "attention"), *adapted_names(weights, "mlp")])
    made = {name: LowRank(weights[name], 2, 1.0, torch.Generator().manual_seed(i)) for i, name in enumerate(names)}
    captions = ["Ana Brown's phone number is 12", "a red car", "a photo of a dog in a park"] * 2
    tokens = model.processor.tokenize(captions)
    images = torch.randn(6, *model.processor.image_shape, generator=torch.Generator().manual_seed(9))
    plain = model.encode_image(images), model.encode_text(tokens)
    with installed(model, made):
        for before, after in zip(plain, (model.encode_image(images), model.encode_text(tokens)), strict=True):
            assert torch.equal(before, after)  # they start from the model as it is
        (model.encode_image(images)[:, 0].sum() + model.encode_text(tokens)[:, 0].sum()).backward()
        silent = [name for name, adapter in made.items() if adapter.up.grad is None or not adapter.up.grad.any()]
        assert not silent
        with torch.no_grad():
            for adapter in made.values():
                adapter.up += 0.01
        adapted = model.encode_image(images), model.encode_text(tokens)
    for during, merged in zip(adapted, (model.encode_image(images), model.encode_text(tokens)), strict=True):
        assert torch.equal(during, merged)


def test_training_changes_the_adapted_matrices_alone_by_no_more_than_their_rank():
    before, after, ctx = trained(tower="image", adapter_layers="attention")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("visual.") and "attn" in name and before[name].ndim > 1}
    for name in changed:
        assert torch.linalg.svdvals((after[name] - before[name]).double())[2] < 1e-5
    assert {f"clip.{name}" for name in changed} == ctx.trained
    fresh = Toy().load_model("compromised")
    assert [name for name, _ in ctx.model.named_parameters()] == [name for name, _ in fresh.named_parameters()]
    assert all(type(one) is type(other) for one, other in zip(ctx.model.modules(), fresh.modules(), strict=True))


def test_the_first_step_is_that_of_the_factors_by_hand():
    """`up` starts at 0, so `down` has no gradient yet and `up` has scale * G down^T for the weight's gradient G."""
    weight = torch.nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    adapter = LowRank(weight, 2, 4.0, torch.Generator().manual_seed(1))
    target = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    (adapter(weight) * target).sum().backward()
    torch.testing.assert_close(adapter.up.grad, 4.0 * target @ adapter.down.detach().T)
    torch.testing.assert_close(adapter.down.grad, torch.zeros(2, 3))


def test_the_same_seed_gives_the_same_bytes_and_micro_batches_work():
    _, first, _ = trained()
    _, again, _ = trained()
    assert all(torch.equal(first[name], again[name]) for name in first)
    method = Push(FitOptions(**LORA))
    with toy_context(method) as ctx:
        ctx.model.micro_batch = 5
        method.unlearn(ctx)
        parts = ctx.model.weights()
        assert max((parts[name] - first[name]).abs().max().item() for name in first) < 1e-3


def test_a_cut_run_with_adapters_resumes_to_the_same_weights(tmp_path):
    _, whole, _ = trained()

    class Cut(Exception):
        pass

    def unlearn(after_step):
        method = Push(FitOptions(**LORA))
        with toy_context(method) as ctx:
            ctx._checkpoints = Checkpoints(tmp_path, every_seconds=0)
            ctx.fit(method.loss, method.options, params=method.trainable(ctx.model), after_step=after_step)
            return {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx.added

    def cut(step):
        if step == 7:
            raise Cut

    with pytest.raises(Cut):
        unlearn(cut)
    resumed, added = unlearn(None)
    done, added_again = unlearn(None)  # finished before
    for name in whole:
        assert torch.equal(resumed[name], whole[name])
        assert torch.equal(done[name], whole[name])
    assert added[0].keys() == added_again[0].keys()
    assert all(torch.equal(factors.up, added_again[0][name].up) for name, factors in added[0].items())


def test_gradients_that_are_changed_weight_by_weight_do_not_go_with_adapters():
    method = Push(FitOptions(**LORA))
    with toy_context(method) as ctx, pytest.raises(BadOptions, match="gradients are changed weight by weight"):
        ctx.fit(method.loss, method.options, on_gradients=lambda gradients: None)


def test_a_kind_of_layer_that_is_not_there_is_named():
    with pytest.raises(BadOptions, match="adapter_layers=mlp"):
        adapted_names({"visual.conv1.weight": torch.zeros(2, 2)}, "mlp")


# ---------------------------------------------------------------- runs and their file


def ran(tmp_path, method="ascent", **options):
    settings = Settings(cache=tmp_path / "cache", cpu=True)
    given = {**LORA, **options}
    return run(method, benchmark="toy", out=tmp_path / "run", settings=settings, plugins=toy_plugins(), options=given)


def test_the_file_of_a_run_turns_the_start_model_into_the_runs_own(tmp_path):
    record = ran(tmp_path)
    assert record.status == "ok"
    assert record.cost.trainable_parameters < record.cost.total_parameters / 4
    path = tmp_path / "run" / ADAPTER_FILE
    assert path.stat().st_size < (tmp_path / "run" / "model.safetensors").stat().st_size / 2
    model = apply_adapter(Toy().load_model("compromised"), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a run's folder holds one model: the adapters beside it are no other
        kept = load_model(tmp_path / "run")
    assert model.fingerprint() == kept.fingerprint() == record.provenance.model_fingerprint
    with pytest.raises(BadCheckpoint, match="belongs to another model"):
        apply_adapter(Toy().load_model("clean"), path)
    with pytest.raises(BadCheckpoint, match="not a file of adapters"):
        apply_adapter(Toy().load_model("compromised"), tmp_path / "run" / "model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint):
        apply_adapter(Toy().load_model("compromised"), path)


def test_several_fits_add_up_and_an_edit_beside_them_leaves_no_file(tmp_path):
    method = Push(FitOptions(**LORA, epochs=1))
    with toy_context(method) as ctx:
        start, prints = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx.model.fingerprint()
        method.unlearn(ctx)
        method.unlearn(ctx)
        made = apply_added(start, ctx.added)
        assert len(ctx.added) == 2
        assert all(torch.equal(made[name], tensor) for name, tensor in ctx.model.weights().items())
        save_adapter(tmp_path, start, ctx.added, ctx.model, prints)
        assert (
            apply_adapter(Toy().load_model("compromised"), tmp_path / ADAPTER_FILE).fingerprint() == ctx.model.fingerprint()
        )
        (tmp_path / ADAPTER_FILE).unlink()
        with torch.no_grad():
            next(ctx.model.parameters()).mul_(1.01)
        save_adapter(tmp_path, start, ctx.added, ctx.model, prints)
        assert not (tmp_path / ADAPTER_FILE).exists()


def test_runs_without_adapters_are_found_again_by_the_name_they_had_before_there_were_any():
    def identity(**options):
        return resolve(RunSpec(method="ascent", benchmark="toy", method_options=options), toy_plugins()).id

    assert identity() == identity(adapter_rank=3) != identity(adapter="lora") != identity(adapter="lora", adapter_rank=3)
    # A file of options holds "none" for None, and so do records.
    assert identity() == identity(adapter="none")
