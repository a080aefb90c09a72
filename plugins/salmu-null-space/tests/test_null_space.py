"""Caption null space: projections in numbers, where they are folded in, what they leave alone, and their cards."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import install_import_hook
from torch import Tensor, nn

from salmu_authors.testing import check_method, check_package, toy_context
from salmu_core import DualEncoder, ModelConfig, SalmuError

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_null_space", "beartype.beartype"):
    from salmu_null_space import (
        CaptionNullSpace,
        CaptionNullSpaceRetain,
        Projection,
        caption_moments,
        covariance,
        final_projection,
        project_out,
        top_directions,
        without,
    )

METHODS = [CaptionNullSpace, CaptionNullSpaceRetain]
FOLDER = Path(__file__).parents[1]


def test_card_and_entry_point_fit_the_code():
    check_package(FOLDER, METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


# ---------------------------------------------------------------- formulas


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def basis_of(seed: int, dim: int, rank: int) -> Tensor:
    return torch.linalg.qr(draw(seed, dim, rank)).Q


def test_covariance_against_numpy():
    rows = draw(0, 40, 5) + 3
    found = covariance(rows.T @ rows, rows.sum(dim=0), torch.tensor(40.0, dtype=torch.double))
    np.testing.assert_allclose(found, np.cov(rows.numpy().T, bias=True), rtol=1e-9, atol=1e-12)


def test_top_directions_by_hand():
    symmetric = torch.diag(torch.tensor([1.0, 9.0, 4.0], dtype=torch.double))
    expected = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.double)
    torch.testing.assert_close(top_directions(symmetric, 2).abs(), expected)
    assert top_directions(symmetric, 0).shape == (3, 0)


def test_top_directions_are_the_singular_vectors_of_centred_rows():
    rows = draw(1, 30, 6) * torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5]) + 7
    found = top_directions(torch.from_numpy(np.cov(rows.numpy().T, bias=True)), 3)
    _, _, right = np.linalg.svd(rows.numpy() - rows.numpy().mean(axis=0))
    np.testing.assert_allclose(np.abs(right[:3] @ found.numpy()), np.eye(3), atol=1e-8)


def test_project_out_by_hand():
    rows, basis = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(project_out(rows, basis, 1.0), torch.tensor([[0.0, 4.0], [0.0, 0.0]]))
    torch.testing.assert_close(project_out(rows, basis, 0.25), torch.tensor([[2.25, 4.0], [0.75, 0.0]]))
    assert torch.equal(project_out(rows, basis, 0.0), rows)


def test_project_out_against_the_matrix():
    rows, basis = draw(2, 9, 6), basis_of(3, 6, 2)
    matrix = np.eye(6) - 0.7 * basis.numpy() @ basis.numpy().T
    np.testing.assert_allclose(project_out(rows, basis, 0.7), rows.numpy() @ matrix, atol=1e-12)
    once = project_out(rows, basis, 1.0)
    torch.testing.assert_close(project_out(once, basis, 1.0), once)  # a projection
    torch.testing.assert_close(once @ basis, torch.zeros(9, 2, dtype=torch.double))


def test_directions_without_a_basis_are_orthogonal_to_it():
    rows = draw(4, 30, 6)
    symmetric, kept = rows.T @ rows, basis_of(5, 6, 2)
    rest = without(symmetric, kept)
    projector = np.eye(6) - kept.numpy() @ kept.numpy().T
    np.testing.assert_allclose(rest, projector @ symmetric.numpy() @ projector, atol=1e-10)
    torch.testing.assert_close(kept.T @ top_directions(rest, 3), torch.zeros(2, 3, dtype=torch.double), atol=1e-10, rtol=0)


# ---------------------------------------------------------------- folding


@pytest.mark.parametrize("bias", [True, False])
def test_folding_into_a_layer_projects_its_results(bias):
    layer, inputs, basis = nn.Linear(7, 6, bias=bias).double(), draw(6, 11, 7), basis_of(7, 6, 2)
    expected = project_out(layer(inputs).detach(), basis, 0.6)
    Projection(layer.weight, layer.bias, outputs_first=True).fold(basis, 0.6)
    torch.testing.assert_close(layer(inputs).detach(), expected)


def test_folding_into_a_matrix_projects_its_results():
    matrix, inputs, basis = nn.Parameter(draw(8, 7, 6)), draw(9, 11, 7), basis_of(10, 6, 2)
    expected = project_out(inputs @ matrix.detach(), basis, 0.6)
    Projection(matrix).fold(basis, 0.6)
    torch.testing.assert_close(inputs @ matrix.detach(), expected)


TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TRANSFORMER = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}


@pytest.mark.parametrize(
    ("vision", "text", "more"),
    [
        (TRANSFORMER, TEXT, {}),
        (RESNET, TEXT, {}),
        (TRANSFORMER, {**TEXT, "proj_bias": True}, {}),
        (TRANSFORMER, TEXT, {"custom_text": True}),
    ],
    ids=["transformer", "resnet", "text layer with bias", "custom text"],
)
def test_the_embeddings_of_every_architecture_lose_the_directions(vision, text, more):
    """Embeddings from the folded weights against the old ones, projected and normalised."""
    model = DualEncoder.create(ModelConfig({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, **more}), seed=0).eval()
    side = vision["image_size"]
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    tokens = model.processor.tokenize(["a red square", "Person 1 lives in c001", "nothing"])
    if text.get("proj_bias"):
        nn.init.normal_(model.clip.text_projection.bias, generator=torch.Generator().manual_seed(1))
    basis = basis_of(11, 16, 3)
    with torch.no_grad():
        before = model.encode_image(images), model.encode_text(tokens)
        for tower in ("image", "text"):
            final_projection(model, tower).fold(basis, 0.8)
        after = model.encode_image(images), model.encode_text(tokens)
    for old, new in zip(before, after, strict=True):
        expected = F.normalize(project_out(old.double(), basis, 0.8), dim=1).float()
        torch.testing.assert_close(new, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(new, old, atol=1e-2)


def test_an_encoder_without_projection_is_refused_with_a_way_out():
    settings = {"embed_dim": 16, "vision_cfg": TRANSFORMER, "text_cfg": {**TEXT, "proj_type": "none"}}
    model = DualEncoder.create(ModelConfig(settings), seed=0)
    assert final_projection(model, "image").matrix is model.clip.visual.proj
    with pytest.raises(SalmuError, match="text encoder") as found:
        final_projection(model, "text")
    assert "tower=image" in str(found.value)


# ---------------------------------------------------------------- on the toy benchmark


def ran(method, **options):
    given = method(method.Options(**options))
    with toy_context(given) as ctx:
        before = {name: tensor.clone() for name, tensor in ctx.model.weights().items()}
        given.unlearn(ctx)
        return before, {name: tensor.clone() for name, tensor in ctx.model.weights().items()}, ctx


def captions(ctx, split: str = "forget") -> Tensor:
    with torch.no_grad():
        return ctx.model.encode_text(ctx.tokenize(ctx.captions(split))).double()


def test_moments_are_those_of_all_captions_and_count():
    with toy_context(CaptionNullSpace()) as ctx:
        products, total, rows = caption_moments(ctx, "forget", 10)
        vectors = captions(ctx)
        assert ctx.samples == {"forget": 36, "retain": 0}
    assert rows.item() == 36
    torch.testing.assert_close(products, vectors.T @ vectors, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, vectors.sum(dim=0), atol=1e-5, rtol=1e-5)


def test_images_lose_the_principal_directions_of_forget_captions():
    given = CaptionNullSpace(CaptionNullSpace.Options(rank=4))
    with toy_context(given) as ctx, torch.no_grad():
        vectors = captions(ctx).numpy()
        _, values, right = np.linalg.svd(vectors - vectors.mean(axis=0))
        before, _, _ = ctx.model(pairs := next(ctx.batches("forget", 36)))
        given.unlearn(ctx)
        after, _, _ = ctx.model(pairs)
        explained = ctx.history[-1]["explained"]
    assert np.abs(before.numpy() @ right[:4].T).max() > 0.1
    np.testing.assert_allclose(after.numpy() @ right[:4].T, 0, atol=1e-5)
    rest = before.numpy() - before.numpy() @ right[:4].T @ right[:4]
    np.testing.assert_allclose(after, rest / np.linalg.norm(rest, axis=1, keepdims=True), atol=1e-4)
    assert explained == pytest.approx((values[:4] ** 2).sum() / (values**2).sum(), abs=1e-5)


def test_only_the_projections_asked_for_are_edited():
    for tower, expected in (
        ("image", {"visual.proj"}),
        ("text", {"text_projection"}),
        ("both", {"visual.proj", "text_projection"}),
    ):
        before, after, _ = ran(CaptionNullSpace, tower=tower)
        assert {name for name in before if not torch.equal(before[name], after[name])} == expected


@pytest.mark.parametrize("options", [{"rank": 0}, {"alpha": 0.0}])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_nothing_to_take_out_changes_nothing(method, options):
    before, after, _ = ran(method, **{"rank": 4, "tower": "both", **options})
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_retain_captions_mainly_use_stays():
    given = CaptionNullSpaceRetain(CaptionNullSpaceRetain.Options(rank=4, protect=3))
    with toy_context(given) as ctx:
        _, _, right = np.linalg.svd(captions(ctx, "retain").numpy())
        before = ctx.model.clip.visual.proj.detach().double().numpy()
        given.unlearn(ctx)
        after = ctx.model.clip.visual.proj.detach().double().numpy()
        assert ctx.samples == {"forget": 36, "retain": 24}
    # What the projection writes along the protected directions is as before, along others it is not.
    np.testing.assert_allclose(after @ right[:3].T, before @ right[:3].T, atol=1e-5)
    assert np.abs((after - before) @ right[3:].T).max() > 0.05


def test_protecting_nothing_is_the_plain_method():
    _, plain, _ = ran(CaptionNullSpace, rank=5)
    _, protected, _ = ran(CaptionNullSpaceRetain, rank=5, protect=0)
    assert all(torch.equal(plain[name], protected[name]) for name in plain)


def test_more_directions_than_there_are_cannot_be_taken_out():
    with pytest.raises(SalmuError, match="16 directions: 16 cannot"):
        ran(CaptionNullSpace, rank=16)
    with pytest.raises(SalmuError, match="10 cannot be taken out and 6 protected"):
        ran(CaptionNullSpaceRetain, rank=10, protect=6)
    ran(CaptionNullSpace, rank=15)


def test_a_small_budget_measures_fewer_rows():
    method = CaptionNullSpaceRetain(CaptionNullSpaceRetain.Options(rank=2))
    with toy_context(method, budget=0.1) as ctx:
        method.unlearn(ctx)
        assert ctx.samples == {"forget": 14, "retain": 14}
