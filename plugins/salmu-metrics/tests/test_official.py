"""The official protocol against a second implementation, written from what is known of the official evaluator and from nothing of ours."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from salmu_core import NotMeasurable
from salmu_core.errors import BadOptions
from salmu_core.plugins.loading import Plugins, add_plugin, new_manager
from salmu_core.records.schema import Package, RunSpec
from salmu_core.spec.resolve import make_metrics
from salmu_metrics import ACS, AssocStr, CoreAssoc, IdZSC, PrivPref, RetFail, held_out_verdicts, official_shuffle
from salmu_metrics.rows import rounded

FORGET, RETAIN, DIM = 1300, 1150, 12  # more than the 1,000 that are drawn of each


def official(precision: str = "no") -> dict[str, object]:
    """The installed metrics as an official evaluation makes them."""
    import salmu_metrics

    plugins = Plugins(new_manager())
    add_plugin(plugins, salmu_metrics, Package(name="salmu-metrics", version="0"), "metrics")
    spec = RunSpec(method="none", benchmark="toy", protocol="official", precision=precision)  # type: ignore[arg-type]
    return {metric.name: metric for metric in make_metrics(plugins, None, None, spec)}


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(5)
    shared = generator.normal(size=(FORGET, DIM))
    image = shared + 1.2 * generator.normal(size=(FORGET, DIM))
    text = shared + 1.2 * generator.normal(size=(FORGET, DIM))
    retain = generator.normal(size=(RETAIN, DIM))
    captions = [f"caption {row if row % 50 else 0}" for row in range(FORGET)]  # a few are equal
    for row in range(0, FORGET, 50):
        text[row] = text[0]  # equal captions have equal embeddings
    return image, text, captions, retain, [f"ordinary {row % 1100}" for row in range(RETAIN)]


# ------------------------------------------------------------------ the second implementation


def global_state_draws(forget_texts: list[str], retain_texts: list[str]) -> tuple[list[str], list[str]]:
    """As the evaluator does it: one global seed, RetFail's gallery first, then the captions shuffled for ACS."""
    state = np.random.get_state()
    try:
        np.random.seed(42)
        gallery = list(np.random.choice(forget_texts, 1000, replace=False))
        gallery += list(np.random.choice(retain_texts, 1000, replace=False))
        shuffled = list(np.random.permutation(forget_texts))
    finally:
        np.random.set_state(state)
    return gallery, shuffled


def plain_ranks(image, vector_of, captions, gallery, half: bool) -> tuple[list[int], list[int]]:
    """Rank of every true caption, one picture and one caption at a time: by strictly larger cosines, and with ties against it."""
    best, worst = [], []
    for row, own in enumerate(captions):

        def cosine(caption, row=row):
            value = np.float32(np.dot(image[row].astype(np.float64), vector_of[caption].astype(np.float64)))
            return np.float16(value) if half else value

        mine = cosine(own)
        others = [cosine(caption) for caption in gallery if caption != own]
        best.append(1 + sum(other > mine for other in others))
        worst.append(1 + sum(other >= mine for other in others))
    return best, worst


def plain_newton(design: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    """L2-penalised logistic regression with an intercept that is not penalised."""
    matrix = np.c_[design, np.ones(len(design))]
    ridge = np.eye(matrix.shape[1]) / penalty
    ridge[-1, -1] = 0
    weights = np.zeros(matrix.shape[1])
    for _ in range(40):
        chance = 1 / (1 + np.exp(-matrix @ weights))
        gradient = matrix.T @ (chance - labels) + ridge @ weights
        weights -= np.linalg.solve((matrix * (chance * (1 - chance))[:, None]).T @ matrix + ridge, gradient)
    return weights


# ------------------------------------------------------------------ draws


def test_the_shuffle_is_what_the_global_state_leaves_after_both_draws(data) -> None:
    _, _, captions, _, ordinary = data
    _, shuffled = global_state_draws(captions, ordinary)
    given = official_shuffle(FORGET, RETAIN)
    assert [captions[row] for row in given] == shuffled
    assert sorted(given.tolist()) == list(range(FORGET))
    # Leaving out the draws gives another permutation, and so does another number of captions in the other split. (Not each: the
    # generator rejects some numbers, so streams that began apart often meet again.)
    assert [captions[row] for row in np.random.RandomState(42).permutation(FORGET)] != shuffled
    assert len({tuple(official_shuffle(FORGET, count).tolist()) for count in (10, 300, RETAIN)}) == 3


def test_the_draws_leave_the_global_state_alone_and_do_not_read_it() -> None:
    np.random.seed(7)
    random.seed(7)
    before = np.random.get_state()[1].tolist()
    first = official_shuffle(50, 40)
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(8)
    assert official_shuffle(50, 40).tolist() == first.tolist()


def test_splits_with_fewer_captions_than_are_drawn_are_drawn_whole() -> None:
    rng = np.random.RandomState(42)
    rng.choice(30, 30, replace=False)
    rng.choice(20, 20, replace=False)
    assert official_shuffle(30, 20).tolist() == rng.permutation(30).tolist()


# ------------------------------------------------------------------ metrics to the digit


@pytest.mark.parametrize("half", [False, True])
def test_retrieval_failure_agrees_to_the_digit(embed, data, half: bool) -> None:
    image, text, captions, retain, ordinary = data
    views = embed(image), embed(text, captions), embed(retain, ordinary)
    metric = official("fp16" if half else "no")["RetFail"]
    score = metric.compute(*views)

    gallery, _ = global_state_draws(captions, ordinary)
    vector_of = {caption: views[2].vectors[row].numpy() for row, caption in reversed(list(enumerate(ordinary)))}
    vector_of |= {caption: views[1].vectors[row].numpy() for row, caption in reversed(list(enumerate(captions)))}
    rows = range(0, FORGET, 13)  # a hundred of them, one comparison at a time
    chosen = [captions[row] for row in rows]
    best, worst = plain_ranks(views[0].vectors.numpy()[list(rows)], vector_of, chosen, gallery, half)
    found = score.details["rank"][list(rows)].tolist()
    if half:
        # The plain cosine is rounded once from double precision, ours from fp32: at a boundary they may fall on both sides.
        assert sum(a != b for a, b in zip(found, best, strict=True)) <= 2
        assert sum(a + b != c for a, b, c in zip(found, score.details["ties"][list(rows)], worst, strict=True)) <= 2
        assert sum(worst) > sum(best)  # there are ties at all
        assert score.extras["MRR, ties against"] < score.value
        assert score.extras["images with ties"] == (score.details["ties"] > 0).mean()
    else:
        assert found == best
        assert "MRR, ties against" not in score.extras


def test_association_consistency_agrees_to_the_digit(embed, data) -> None:
    from sklearn.model_selection import train_test_split

    image, text, captions, retain, ordinary = data
    u, v = embed(image), embed(text, captions)
    score = official()["ACS"].compute(u, v, embed(retain, ordinary))

    _, shuffled = global_state_draws(captions, ordinary)
    vector_of = {caption: v.vectors[row].double().numpy() for row, caption in reversed(list(enumerate(captions)))}
    pictures = u.vectors.double().numpy()
    true = np.stack([vector_of[caption] for caption in captions])
    false = np.stack([vector_of[caption] for caption in shuffled])
    design = np.r_[
        np.c_[pictures, true, (pictures * true).sum(1)],
        np.c_[pictures, false, (pictures * false).sum(1)],
    ]
    labels = np.r_[np.ones(FORGET), np.zeros(FORGET)]
    fitted, tried, fitted_labels, tried_labels = train_test_split(
        design, labels, test_size=0.5, stratify=labels, random_state=42
    )
    weights = plain_newton(fitted, fitted_labels, 1.0)
    right = ((np.c_[tried, np.ones(len(tried))] @ weights > 0) == tried_labels).sum()
    assert len(tried) == FORGET  # one half of all pairs
    assert round(score.value * FORGET) == right
    assert score.value == right / FORGET
    assert len(score.rows) == FORGET
    assert 0.6 < score.value < 0.95  # a value that could have been another


def test_the_official_shuffle_needs_pairs_to_be_parted(embed, data) -> None:
    image, text, captions, *_ = data
    with pytest.raises(BadOptions, match="parting=pairs"):
        held_out_verdicts(embed(image).vectors, embed(text).vectors, captions, shuffle="official", retain_captions=9)
    with pytest.raises(BadOptions, match="retain_disjoint"):
        held_out_verdicts(embed(image).vectors, embed(text).vectors, captions, shuffle="official", parting="pairs")
    assert "retain_text" not in ACS().needs()
    assert "retain_text" in ACS(ACS.Options(shuffle="official")).needs()


def test_both_protocols_draw_the_same_gallery_and_other_shuffles() -> None:
    metrics = official()
    assert metrics["RetFail"].options == RetFail.Options()
    assert metrics["IdZSC"].options == IdZSC.Options()
    assert metrics["ACS"].options != ACS.Options()
    assert metrics["ACS"].options.holdout == 0.5


def test_what_somebody_sets_wins_over_the_protocol() -> None:
    import salmu_metrics

    plugins = Plugins(new_manager())
    add_plugin(plugins, salmu_metrics, Package(name="salmu-metrics", version="0"), "metrics")
    spec = RunSpec(method="none", benchmark="toy", protocol="official")
    metrics = {m.name: m for m in make_metrics(plugins, {"ACS": {"features": "all"}}, None, spec)}
    assert (metrics["ACS"].options.features, metrics["ACS"].options.shuffle) == ("all", "official")


# ------------------------------------------------------------------ half precision


def test_cosines_are_rounded_to_the_nearest_half_of_two_the_even_one() -> None:
    step = 2.0**-12  # between 1/4 and 1/2
    values = [0.25, 0.25 + 0.5 * step, 0.25 + 1.5 * step, 0.25 + 0.4 * step, 0.3215]
    expected = [0.25, 0.25, 0.25 + 2 * step, 0.25, 1317 * step]
    assert rounded(torch.tensor(values), "float16").tolist() == expected
    assert rounded(torch.tensor(values), "float32").tolist() == torch.tensor(values).tolist()
    assert rounded(torch.tensor([-0.25 - 0.5 * step]), "float16").tolist() == [-0.25]


def test_means_in_half_precision_are_whole_multiples_of_its_steps(embed, data) -> None:
    image, text, captions, *_ = data
    metric = official("fp16")["AssocStr"]
    half = metric.compute(embed(image), embed(text, captions))
    full = AssocStr().compute(embed(image), embed(text, captions))
    assert half.rows.tolist() == [float(np.float16(value)) for value in full.rows]
    assert (half.value * FORGET * 2**26).is_integer()
    assert 0 < abs(half.value - full.value) < 1e-4
    assert official("no")["AssocStr"].options.cosines == "float32"
    assert official("fp16")["CoreAssoc"].options == CoreAssoc.Options(cosines="float16")


def test_a_name_that_ties_in_half_precision_goes_to_the_first(embed) -> None:
    """Two names a third of a step apart: fp32 tells them apart, float16 does not."""
    angle = 1.2
    one, two = [np.cos(angle), np.sin(angle)], [np.cos(angle - 1e-5), np.sin(angle - 1e-5)]
    columns = {"identity_id": ["a", "b"]}
    image = embed([[1.0, 0.0], [1.0, 0.0]], columns=columns)
    text = embed([one, two], ["Ann", "Bea"], columns)
    assert IdZSC().compute(image, text).rows.tolist() == [0.0, 1.0]
    half = IdZSC(IdZSC.Options(cosines="float16")).compute(image, text)
    assert half.rows.tolist() == [1.0, 0.0]


# ------------------------------------------------------------------ private or generic


def test_preference_counts_private_captions_that_are_strictly_closer(embed) -> None:
    image = embed(np.eye(4), columns={"identity_id": ["a", "a", "b", "b"]})
    private = embed([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], ["p"] * 4)
    given = {"generic_caption": ["g", "g", "g", None]}
    generic = embed([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], ["g"] * 4, given)
    nobody = embed(np.eye(4)[:0].reshape(0, 4), [])
    views = {}
    for split, rows in (("forget", (image, private, generic)), ("holdout_identity", (image, generic, private))):
        views |= {f"{split}_{which}": view for which, view in zip(("image", "private", "generic"), rows, strict=True)}
    views |= {f"holdout_association_{which}": nobody for which in ("image", "private", "generic")}
    views["holdout_identity_generic"] = embed(private.vectors, ["p"] * 4, {"generic_caption": ["p"] * 4})
    score = PrivPref().compute(**views)
    assert score.rows.tolist() == [1.0, 0.0, 0.0]  # closer; equal; farther; the fourth has no generic caption
    assert score.details["row"].tolist() == [0, 1, 2]
    assert score.clusters == ["identity a", "identity a", "identity b"]
    assert score.extras == {"holdout_identity": 0.25}  # rows 1, 0, 0, 0 with captions exchanged
    views["forget_generic"] = embed(generic.vectors, ["g"] * 4, {"generic_caption": [None] * 4})
    with pytest.raises(NotMeasurable, match="generic"):
        PrivPref().compute(**views)
