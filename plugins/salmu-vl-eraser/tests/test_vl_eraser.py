"""VL-Eraser: null spaces and imitation in numbers, adapters that come and go, what is subtracted, and the card."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook
from torch import Tensor, nn

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import Batch, DualEncoder, ModelConfig, SalmuError
from salmu_core.losses import contrastive_loss
from salmu_core.runner.checkpoints import Checkpoints

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_vl_eraser", "beartype.beartype"):
    from salmu_vl_eraser import VLEraser
    from salmu_vl_eraser.adapters import Adapters, Site, mlp_sites, watched
    from salmu_vl_eraser.formulas import gain, imitation_loss, null_basis
    from salmu_vl_eraser.method import measured_gains, retain_moments

METHODS = [VLEraser]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


def test_keeps_the_contract():
    check_method(VLEraser)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


# ---------------------------------------------------------------- formulas


def test_the_null_space_of_few_vectors_is_what_they_do_not_span():
    rows = draw(0, 3, 7)
    basis = null_basis(rows.T @ rows, 0.0)
    assert basis.shape == (7, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=torch.double), atol=1e-12, rtol=0)
    torch.testing.assert_close(rows @ basis, torch.zeros(3, 4, dtype=torch.double), atol=1e-12, rtol=0)
    # A projector on it is 1 minus the projector that a singular value decomposition gives.
    _, _, right = np.linalg.svd(rows.numpy(), full_matrices=False)
    np.testing.assert_allclose(basis @ basis.T, np.eye(7) - right.T @ right, atol=1e-10)


def test_the_leak_by_hand():
    moment = torch.diag(torch.tensor([1.0, 90.0, 4.0, 5.0], dtype=torch.double))  # shares .01, .9, .04, .05
    assert [null_basis(moment, leak).shape[1] for leak in (0.0, 0.01, 0.04, 0.05, 0.1, 0.5)] == [0, 1, 1, 2, 3, 3]
    assert null_basis(moment, 0.05)[[1, 3]].abs().max() == 0
    assert null_basis(torch.zeros(3, 3), 0.0).shape == (3, 3)


def test_imitation_loss_by_hand():
    target = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [9.0, 9.0]], [[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]])
    given = torch.tensor([[[5.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], [[0.0, -1.0], [0.0, -1.0], [0.0, 7.0]]])
    counted = torch.tensor([[True, True, False], [True, True, True]])
    # Row 0: 0 and 1; row 1: 2, 2 and 0. Rows weigh the same, whatever their tokens.
    assert imitation_loss(target, given, counted).item() == pytest.approx((1 / 2 + 4 / 3) / 2, abs=1e-6)


def test_imitation_loss_against_numpy_is_bounded_and_blind_to_length():
    target, given = draw(1, 4, 5, 6), draw(2, 4, 5, 6)
    counted = torch.ones(4, 5, dtype=torch.bool)
    a, b = target.numpy(), given.numpy()
    expected = (1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()
    assert imitation_loss(target, given, counted).item() == pytest.approx(expected, rel=1e-5)
    assert imitation_loss(target, 1000 * given, counted).item() == pytest.approx(expected, rel=1e-5)
    assert imitation_loss(target, target, counted).item() == pytest.approx(0, abs=1e-6)
    assert imitation_loss(target, -target, counted).item() == pytest.approx(2, abs=1e-6)


def test_tokens_that_do_not_count_get_no_gradient():
    given = draw(3, 2, 3, 4).requires_grad_()
    counted = torch.tensor([[True, False, False], [True, True, False]])
    imitation_loss(draw(4, 2, 3, 4), given, counted).backward()
    assert torch.equal(given.grad[~counted], torch.zeros(3, 4, dtype=torch.double))
    assert (given.grad[counted] != 0).any(dim=1).all()


def test_the_gain_is_the_least_squares_factor():
    target, given = draw(5, 40), draw(6, 40)
    given = given + target
    found = gain((target * given).sum(), given.square().sum())
    expected, *_ = np.linalg.lstsq(given.numpy()[:, None], target.numpy(), rcond=None)
    assert found.item() == pytest.approx(expected[0], rel=1e-10)
    assert gain(torch.tensor(-3.0), torch.tensor(2.0)).item() == 0
    assert gain(torch.tensor(0.0), torch.tensor(0.0)).item() == 0
    assert gain(torch.tensor(6.0), torch.tensor(2.0), 2.5).item() == 2.5
    assert gain(torch.tensor(1e-9), torch.tensor(0.0), 2.5).item() == 2.5


# ---------------------------------------------------------------- adapters

RESNET = ModelConfig(
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
)


def test_an_adapter_sees_only_its_directions():
    layer, basis = nn.Linear(7, 5), torch.linalg.qr(draw(7, 7, 3)).Q.float()

    def adapter(basis):
        return Adapters({"x": Site("text", layer)}, {"x": basis}, 2, lambda name: torch.Generator().manual_seed(0))

    made = adapter(basis)
    inputs = draw(8, 4, 6, 7).float()
    torch.testing.assert_close(made.give("x", inputs).detach(), inputs @ made.matrix("x").T)
    torch.testing.assert_close(made.target("x", inputs), inputs @ layer.weight.T)
    hidden = inputs - inputs @ basis @ basis.T  # nothing along its directions
    torch.testing.assert_close(made.give("x", hidden), torch.zeros(4, 6, 5), atol=1e-7, rtol=0)
    assert made.matrix("x").norm() > 0
    turned = basis @ torch.linalg.qr(draw(9, 3, 3)).Q.float()
    torch.testing.assert_close(adapter(turned).matrix("x"), made.matrix("x"))
    assert len(made.parameters()) == 2


def test_sites_of_the_toy_transformer():
    with toy_context(VLEraser()) as ctx:
        first, second = mlp_sites(ctx.model, "both", "first"), mlp_sites(ctx.model, "both", "second")
        assert [site.layer.in_features for site in first.values()] == [32, 16]
        assert [site.layer.in_features for site in second.values()] == [128, 64]
        named = dict(ctx.model.named_modules())
        assert all(named[name] is site.layer for name, site in (first | second).items())


def test_an_encoder_without_such_blocks_is_refused_with_a_way_out():
    model = DualEncoder.create(RESNET, seed=0)
    assert len(mlp_sites(model, "text", "second")) == 1
    with pytest.raises(SalmuError, match="image encoder") as found:
        mlp_sites(model, "both", "second")
    assert "tower=text" in str(found.value)


def seen_by(ctx, sites, pairs):
    """Inputs and counted tokens of each site when a batch passes."""
    seen = {}
    with torch.no_grad(), watched(ctx.model, sites, lambda name, *what: seen.update({name: what})):
        ctx.model.encode_image(pairs.image)
        ctx.model.encode_text(pairs.text)
    return seen


@pytest.mark.parametrize("layer", ["first", "second"])
def test_what_is_watched_is_what_the_layers_read(layer):
    with toy_context(VLEraser()) as ctx:
        sites = mlp_sites(ctx.model, "both", layer)
        pairs = next(ctx.batches("forget", 12))
        seen = seen_by(ctx, sites, pairs)
        image, text = (seen[name] for name in sites)
        assert image[1].shape == (12, 5)  # four patches and the class token
        assert image[1].all()
        lengths = [row.tolist().index(49407) + 1 for row in pairs.text]  # up to and with the end-of-text token
        assert text[1].sum(dim=1).tolist() == lengths
        assert len(set(lengths)) > 1
        block = ctx.model.clip.transformer.resblocks[0]
        expected = text[0] if layer == "second" else None
        if layer == "first":
            caught = []
            handle = block.ln_2.register_forward_hook(lambda module, inputs, output: caught.append(output))
            with torch.no_grad():
                ctx.model.encode_text(pairs.text)
            handle.remove()
            expected = caught[0]
        else:
            (inputs, _) = seen_by(ctx, mlp_sites(ctx.model, "text", "first"), pairs)["clip.transformer.resblocks.0.mlp.c_fc"]
            expected = block.mlp.gelu(block.mlp.c_fc(inputs)).detach()
        torch.testing.assert_close(text[0], expected)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in ctx.model.modules())


def test_moments_are_those_of_all_real_tokens():
    with toy_context(VLEraser()) as ctx:
        sites = mlp_sites(ctx.model, "both", "second")
        found = retain_moments(ctx, sites, 10)
        assert ctx.samples == {"forget": 0, "retain": 24}
        seen = seen_by(ctx, sites, next(ctx.batches("retain", 24)))
    for name, (inputs, counted) in seen.items():
        vectors = inputs[counted].double().numpy()
        np.testing.assert_allclose(found[name], vectors.T @ vectors, rtol=1e-3, atol=1e-4)


def bases_of(ctx, sites, leak=0.05):
    return {name: null_basis(moment, leak) for name, moment in retain_moments(ctx, sites, 24).items()}


def test_adapters_are_parts_of_the_model_while_they_are_installed_and_gone_after():
    with toy_context(VLEraser()) as ctx:
        sites = mlp_sites(ctx.model, "both", "second")
        bases = bases_of(ctx, sites)
        before, names = ctx.model.fingerprint(), list(ctx.model.weights())
        adapters = Adapters(sites, bases, 3, lambda name: torch.Generator())
        with adapters.installed(ctx.model):
            assert len(adapters.parameters()) == 4
            assert {id(p) for p in adapters.parameters()} < {id(p) for p in ctx.model.parameters()}
            assert "transformer.resblocks.0.mlp.c_proj.parametrizations.weight.0.up" in ctx.model.weights()
        assert list(ctx.model.weights()) == names
        assert ctx.model.fingerprint() == before


def test_adapters_add_to_their_layers_and_learn_from_them_alone():
    """Embeddings with adapters are those of the weights plus the adapters' matrices; losses are those written out."""
    with toy_context(method := VLEraser(VLEraser.Options(distill=0.3))) as ctx:
        sites = mlp_sites(ctx.model, "both", "second")
        bases = bases_of(ctx, sites)
        pairs = next(ctx.batches("forget", 12))
        start = {name: site.layer.weight.detach().clone() for name, site in sites.items()}
        adapters = Adapters(sites, bases, 3, lambda name: ctx.generator(name))
        with adapters.installed(ctx.model):
            for parameter in adapters.parameters():
                parameter.data.mul_(20)
            with watched(ctx.model, sites, adapters.imitate):
                terms = method.loss_of(adapters)(ctx.model, Batch({"forget": pairs}))
            matrices = {name: adapters.matrix(name) for name in sites}
            terms["distill"].backward(retain_graph=True)
            assert all(parameter.grad is not None for parameter in adapters.parameters())
            assert ctx.model.clip.visual.conv1.weight.grad is None  # inputs are fixed
        with torch.no_grad():
            for name, site in sites.items():
                site.layer.weight += matrices[name]
            features = ctx.model(pairs)
            seen = seen_by(ctx, sites, pairs)
    expected = []
    for name, (inputs, counted) in seen.items():
        target, given = F.linear(inputs, start[name]), F.linear(inputs, matrices[name])
        rows = [(1 - F.cosine_similarity(t[c], g[c], dim=1)).mean() for t, g, c in zip(target, given, counted, strict=True)]
        expected.append(torch.stack(rows).mean().item())
    assert terms["distill"].item() == pytest.approx(0.3 * np.mean(expected), rel=1e-4)
    assert terms["contrastive"].item() == pytest.approx(0.7 * contrastive_loss(*features).item(), rel=1e-4)


def test_gains_come_from_the_model_without_adapters():
    with toy_context(VLEraser()) as ctx:
        sites = mlp_sites(ctx.model, "both", "second")
        bases = bases_of(ctx, sites)
        adapters = Adapters(sites, bases, 3, lambda name: ctx.generator(name))
        found = measured_gains(ctx, adapters, 36, 10)
        assert ctx.samples == {"forget": 36, "retain": 24}
        for name, (inputs, counted) in seen_by(ctx, sites, next(ctx.batches("forget", 36))).items():
            vectors = inputs[counted].double()
            target = vectors @ sites[name].layer.weight.detach().double().T
            given = vectors @ adapters.matrix(name).double().T
            expected = max(0.0, float((target * given).sum() / given.square().sum()))
            assert found[name].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


# ---------------------------------------------------------------- on the toy benchmark


def ran(**options):
    method = VLEraser(VLEraser.Options(**options))
    with toy_context(method) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        method.unlearn(ctx)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


def test_only_the_layers_asked_for_are_edited():
    for options, expected in (
        ({}, {"visual.transformer.resblocks.0.mlp.c_proj.weight", "transformer.resblocks.0.mlp.c_proj.weight"}),
        ({"layer": "first", "tower": "image", "leak": 0.2}, {"visual.transformer.resblocks.0.mlp.c_fc.weight"}),
        ({"tower": "text"}, {"transformer.resblocks.0.mlp.c_proj.weight"}),
    ):
        before, after, _ = ran(**options)
        assert {name for name in before if not torch.equal(before[name], after[name])} == expected


def test_the_edit_has_the_rank_of_the_adapter_and_leaves_retain_features_alone():
    """What is subtracted from a layer does to the features of retain pairs no more than the leak allows."""
    name = "transformer.resblocks.0.mlp.c_proj.weight"
    before, after, _ = ran(rank=2, leak=0.001, tower="text", lr=1e-2)
    edit = (before[name] - after[name]).double()
    values = torch.linalg.svdvals(edit)
    assert values[1] > 1e-3
    assert values[2:].max() < 1e-5
    with toy_context(VLEraser()) as ctx:
        moments = retain_moments(ctx, mlp_sites(ctx.model, "text", "second"), 24)
    (moment,) = (moment.double() for moment in moments.values())
    reaches = (edit @ moment @ edit.T).trace()
    assert reaches <= 0.0011 * moment.trace() * values[0] ** 2
    assert reaches < 0.02 * moment.trace() * edit.square().sum() / edit.shape[1]  # what any edit of that size would do


def test_no_alpha_changes_nothing():
    before, after, _ = ran(alpha=0)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_alpha_scales_the_edit():
    start, once, _ = ran(alpha=0.5)
    _, twice, _ = ran(alpha=1.0)
    for name in start:
        torch.testing.assert_close(twice[name] - start[name], 2 * (once[name] - start[name]), atol=1e-6, rtol=0)


def test_imitation_is_learnt():
    _, _, ctx = ran(lr=1e-2, schedule="constant", distill=1.0, leak=0.3)
    losses = [point["distill"] for point in ctx.history if "distill" in point]
    assert losses[-1] < losses[0] - 0.02
    assert 0 < ctx.history[-1]["free_directions"] < 1


def test_the_budget_holds_everything():
    _, _, ctx = ran()
    assert ctx.samples == {"forget": 3 * 36 + 36, "retain": 24}
    _, _, ctx = ran(gain_rows=4, batch_size=10)
    assert ctx.samples == {"forget": 14 * 10 + 4, "retain": 24}


def test_retain_pairs_that_leave_nothing_free_are_an_error(monkeypatch):
    monkeypatch.setattr("salmu_vl_eraser.method.null_basis", lambda moment, leak: moment[:, :0])
    with pytest.raises(SalmuError, match="leave no direction") as found:
        ran(leak=0.0)
    assert "leak" in str(found.value)


def test_directions_that_nothing_reaches_do_not_blow_the_weights_up():
    """Behind a normalisation without weights the sum over channels is always 0: at no leak, adapters see only that."""
    before, after, _ = ran(layer="first", leak=0.0, tower="image")
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    assert (after[name] - before[name]).norm() <= 1.001 * before[name].norm()


def test_what_goes_wrong_in_training_leaves_the_model_as_it_was():
    class Broken(VLEraser):
        def loss_of(self, adapters):
            def loss(model, batch):
                raise ZeroDivisionError

            return loss

    with toy_context(method := Broken()) as ctx:
        before, names = ctx.model.fingerprint(), list(ctx.model.weights())
        with pytest.raises(ZeroDivisionError):
            method.unlearn(ctx)
        assert list(ctx.model.weights()) == names
        assert ctx.model.fingerprint() == before


class Killed(Exception):
    """The process ends here."""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    options = VLEraser.Options(lr=1e-2, batch_size=12)

    class Cut(VLEraser):
        def loss_of(self, adapters):
            whole, calls = super().loss_of(adapters), []

            def loss(model, batch):
                calls.append(1)
                if len(calls) > 4:
                    raise Killed
                return whole(model, batch)

            return loss

    _, expected, _ = ran(**options.model_dump())
    with toy_context(cut := Cut(options)) as ctx:
        ctx._checkpoints = Checkpoints(tmp_path, every_seconds=0)
        with pytest.raises(Killed):
            cut.unlearn(ctx)
    for _ in range(2):  # cut in the fit; then a fit that was finished
        with toy_context(again := VLEraser(options)) as ctx:
            ctx._checkpoints = Checkpoints(tmp_path, every_seconds=0)
            again.unlearn(ctx)
            for name, tensor in ctx.model.weights().items():
                assert torch.equal(tensor, expected[name]), name
