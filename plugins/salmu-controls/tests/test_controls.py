"""Controls: what they choose and change, in numbers; the contract; and that they cannot win."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from salmu_authors.testing import check_method, check_package, toy_context

# Shape annotations are checked while these tests run.
with install_import_hook("salmu_controls", "beartype.beartype"):
    from salmu_controls import CaptionCentroid, CleanOracle, MatchedNoise, NameShuffle, WordRemoval
    from salmu_controls.captions import centroids, ridge_map, text_projection
    from salmu_controls.weights import noise_like
    from salmu_controls.words import chosen_tokens, token_counts, token_table

METHODS = [WordRemoval, NameShuffle, CaptionCentroid, MatchedNoise, CleanOracle]


def test_card_and_entry_point_fit_the_code():
    check_package(Path(__file__).parents[1], METHODS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_keeps_the_contract(method):
    check_method(method)


def test_tokens_are_counted_without_what_frames_captions():
    # 8 starts, 9 ends (the largest id), 0 pads.
    tokens = torch.tensor([[8, 3, 3, 9, 0], [8, 3, 5, 6, 9]])
    assert token_counts([tokens], 10).tolist() == [0, 0, 0, 3, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("variant", "r", "k", "chosen"),
    [
        ("owned", 1.0, 1, [1]),
        ("unseen", 1.0, 1, [4]),
        # Shares in forget: 0, .4, .4, .2, 0; in retain: .5, 0, .1, .4, 0.
        ("rare", 3.0, 1, [1, 2]),
        ("rare", 4.0, 1, [1, 2]),
        ("rare", 4.1, 1, [1]),
        ("rare", 0.5, 1, [1, 2, 3]),
        ("rarest", 1.0, 2, [1, 2]),
        ("rarest", 1.0, 9, [1, 2, 3]),
    ],
)
def test_which_tokens_each_variant_takes(variant, r, k, chosen):
    forget, retain = torch.tensor([0, 4, 4, 2, 0]), torch.tensor([10, 0, 2, 8, 0])
    assert chosen_tokens(forget, retain, variant, r, k).tolist() == chosen


def test_word_removal_overwrites_the_chosen_rows_and_no_others():
    method = WordRemoval(WordRemoval.Options(variant="owned"))
    with toy_context(method) as ctx:
        table = token_table(ctx.model)
        before = table.detach().clone()
        counts = [token_counts([ctx.tokenize(ctx.captions(role))], len(table)) for role in ("forget", "retain")]
        method.unlearn(ctx)
        changed = (table != before).any(dim=1)
        assert changed.nonzero().flatten().tolist() == ((counts[0] > 0) & (counts[1] == 0)).nonzero().flatten().tolist()
        assert int(changed.sum()) > 0
        used = before[(counts[0] + counts[1]) > 0]
        assert torch.allclose(table[changed], used.mean(dim=0).expand(int(changed.sum()), -1))


def test_name_shuffle_gives_every_row_to_another_token():
    method = NameShuffle()
    with toy_context(method) as ctx:
        table = token_table(ctx.model)
        before = table.detach().clone()
        method.unlearn(ctx)
        changed = (table != before).any(dim=1).nonzero().flatten()
        assert len(changed) >= 2
        assert torch.equal(table[changed].sort(dim=0).values, before[changed].sort(dim=0).values)


def test_centroids_and_the_map_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
    assert centroids(vectors, torch.tensor([7, 7, 2])).tolist() == [[0.5, 0.5], [0.5, 0.5], [3.0, 3.0]]
    one = torch.tensor([[1.0]], dtype=torch.float64)
    # mean (m 1 - 3)^2 + 2 (m 1 - 1)^2 + 1 (m - 1)^2: m = (3 + 2 + 1) / 4.
    assert float(ridge_map(one, 3 * one, one, keep=2.0, ridge=1.0)) == pytest.approx(1.5)


def test_caption_centroid_brings_a_persons_captions_together():
    method = CaptionCentroid(CaptionCentroid.Options(keep=0.0, ridge=1e-6))
    with toy_context(method) as ctx, torch.no_grad():
        tokens = ctx.tokenize(ctx.captions("forget"))
        people = torch.unique(torch.tensor([int(i) for i in ctx.columns("forget")["identity_id"]]), return_inverse=True)[1]

        def spread():
            vectors = ctx.model.encode_text(tokens).double()
            return float((vectors - centroids(vectors, people)).norm(dim=1).mean())

        before, matrix = spread(), text_projection(ctx.model).detach().clone()
        method.unlearn(ctx)
        assert not torch.equal(text_projection(ctx.model), matrix)
        assert spread() < 0.8 * before


def test_noise_has_the_size_of_the_change_it_stands_for():
    change = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    noise = noise_like(change, torch.Generator().manual_seed(1))
    assert float(noise.norm()) == pytest.approx(5.0)
    assert float((noise * change).sum()) / 25 < 0.95
    assert not noise_like(torch.zeros(3), torch.Generator()).any()
    method = MatchedNoise(MatchedNoise.Options(size=0.1))
    with toy_context(method) as ctx:
        before = {name: parameter.detach().clone() for name, parameter in ctx.parameters().items()}
        method.unlearn(ctx)
        for name, parameter in ctx.parameters().items():
            assert float((parameter.detach() - before[name]).norm()) == pytest.approx(
                0.1 * float(before[name].norm()), abs=1e-6
            )


def test_the_oracle_is_clean():
    with toy_context(CleanOracle()) as ctx:
        CleanOracle().unlearn(ctx)
        assert ctx.model.fingerprint() == ctx.clean_model().fingerprint()
