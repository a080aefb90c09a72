"""ACS: the shuffle, the features, the parting, the classifier."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
import torch

from salmu_core import NotMeasurable
from salmu_metrics import ACS, held_out_verdicts, pair_features, shuffled_captions

FEATURES = ["product", "concat", "abs_difference", "cosine", "concat_product", "all"]


def associated(embed, n: int, dim: int, noise: float, seed: int, people: int | None = None):
    """Pairs whose image and caption share a direction; with infinite noise they share nothing."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(people or n, dim))[np.arange(n) % (people or n)]
    if np.isinf(noise):
        shared, noise = 0 * shared, 1.0
    columns = {"identity_id": [row % (people or n) for row in range(n)]}
    image = embed(shared + noise * generator.normal(size=(n, dim)), columns=columns)
    text = embed(shared + noise * generator.normal(size=(n, dim)), [f"caption {row}" for row in range(n)], columns)
    return image, text


def plain_logits(fitted: np.ndarray, labels: np.ndarray, unseen: np.ndarray, inverse_penalty: float) -> np.ndarray:
    """L2-penalised logistic regression by Newton's method, on standardised features; the intercept is not penalised."""
    centre, spread = fitted.mean(axis=0), fitted.std(axis=0)
    design = np.c_[(fitted - centre) / spread, np.ones(len(fitted))]
    penalty = np.eye(design.shape[1]) / inverse_penalty
    penalty[-1, -1] = 0.0
    weights = np.zeros(design.shape[1])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - labels) + penalty @ weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + penalty
        weights = weights - np.linalg.solve(curvature, gradient)
    return np.c_[(unseen - centre) / spread, np.ones(len(unseen))] @ weights


def plain_shuffle(texts: list[str], rng: np.random.RandomState) -> list[int]:
    """The documented shuffle with plain lists."""
    given = rng.permutation(len(texts)).tolist()
    for row in [row for row in range(len(texts)) if texts[given[row]] == texts[row]]:
        if texts[given[row]] != texts[row]:
            continue
        able = [o for o in range(len(texts)) if texts[o] != texts[row] and texts[given[o]] != texts[row]]
        other = able[rng.randint(len(able))]
        given[row], given[other] = given[other], given[row]
    return given


@pytest.mark.parametrize("kinds", [2, 3, 10, 200])
def test_no_row_is_given_its_own_caption_and_every_caption_is_used_once(kinds: int) -> None:
    for seed in range(20):
        texts = [f"text {row % kinds}" for row in range(200)]
        given = shuffled_captions(texts, np.random.RandomState(seed))
        assert sorted(given.tolist()) == list(range(200))
        assert all(texts[other] != texts[row] for row, other in enumerate(given))


def test_the_shuffle_works_up_to_one_half_of_equal_captions() -> None:
    half = ["same"] * 5 + list("abcde")
    for seed in range(50):
        given = shuffled_captions(half, np.random.RandomState(seed))
        assert all(half[other] != half[row] for row, other in enumerate(given))
    with pytest.raises(NotMeasurable, match="more than half"):
        shuffled_captions(["same"] * 6 + list("abcd"), np.random.RandomState(0))


def test_the_shuffle_is_random_not_a_shift() -> None:
    """Each other row is about equally likely, so no neighbour is favoured."""
    counts = np.zeros((5, 5))
    for seed in range(4000):
        given = shuffled_captions(list("abcde"), np.random.RandomState(seed))
        counts[np.arange(5), given] += 1
    assert counts.diagonal().tolist() == [0.0] * 5
    others = counts[~np.eye(5, dtype=bool)]
    assert others.min() > 850
    assert others.max() < 1150


def test_features_by_hand() -> None:
    u, v = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([[3.0, -1.0], [4.0, 0.0]])
    assert pair_features(u, v, "product").tolist() == [[3.0, -2.0], [2.0, 0.0]]
    assert pair_features(u, v, "concat").tolist() == [[1.0, 2.0, 3.0, -1.0], [0.5, -1.0, 4.0, 0.0]]
    assert pair_features(u, v, "abs_difference").tolist() == [[2.0, 3.0], [3.5, 1.0]]
    assert pair_features(u, v, "cosine").tolist() == [[1.0], [2.0]]
    assert pair_features(u[:1], v[:1], "concat_product").tolist() == [[1.0, 2.0, 3.0, -1.0, 3.0, -2.0]]
    assert pair_features(u[:1], v[:1], "all").tolist() == [[1.0, 2.0, 3.0, -1.0, 2.0, 3.0, 3.0, -2.0]]


@pytest.mark.parametrize("features", ["product", "abs_difference", "cosine"])
@pytest.mark.parametrize("penalty", [0.05, 1.0])
def test_verdicts_agree_with_newtons_method_on_literally_redrawn_pairs(features, penalty, embed) -> None:
    n, holdout, seed = 200, 0.25, 7
    image, text = associated(embed, n, 6, 1.0, seed=1)
    captions = [f"caption {row % 70}" for row in range(n)]  # with duplicates, so that exchanges happen
    held = held_out_verdicts(
        image.vectors, text.vectors, captions, features=features, holdout=holdout, inverse_penalty=penalty, seed=seed
    )

    rng = np.random.RandomState(seed)
    order = rng.permutation(n).tolist()
    unseen_rows, fitted_rows = sorted(order[:50]), sorted(order[50:])
    sides = []
    for rows in (fitted_rows, unseen_rows):
        given = plain_shuffle([captions[row] for row in rows], rng)
        pairs = [(row, row) for row in rows] + [(row, rows[other]) for row, other in zip(rows, given, strict=True)]
        u = np.array([image.vectors[i].double().numpy() for i, _ in pairs])
        v = np.array([text.vectors[j].double().numpy() for _, j in pairs])
        by_hand = {"product": u * v, "abs_difference": abs(u - v), "cosine": (u * v).sum(axis=1, keepdims=True)}
        sides.append((by_hand[features], np.array([1.0] * len(rows) + [0.0] * len(rows))))
    (fitted, labels), (unseen, truth) = sides
    logits = plain_logits(fitted, labels, unseen, penalty)

    assert held.row.tolist() == unseen_rows * 2
    assert held.true_pair.tolist() == truth.astype(bool).tolist()
    sure = np.abs(logits) > 1e-5  # rounding may turn what lies on the border
    assert sure.all()
    assert np.array_equal(held.correct[sure], ((logits > 0) == truth)[sure])
    assert 0.55 < held.correct.mean() < 0.95  # neither trivial nor hopeless


@pytest.mark.parametrize("standardise", [True, False])
def test_pairs_can_be_parted_after_shuffling_as_scikit_learn_users_write_it(standardise: bool, embed) -> None:
    """Against the few lines that the definition suggests: shuffle all captions, stack, split stratified, fit, score."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import scale

    image, text = associated(embed, 300, 6, 1.0, seed=11)
    u, v = image.vectors.double().numpy(), text.vectors.double().numpy()
    given = np.random.RandomState(42).permutation(300)
    stacked = np.concatenate([np.hstack([u, v, u * v]), np.hstack([u, v[given], u * v[given]])])
    labels = np.array([1] * 300 + [0] * 300)
    fitted, unseen, fitted_labels, unseen_labels = train_test_split(
        stacked, labels, test_size=0.2, stratify=labels, random_state=42
    )
    if standardise:
        centre, spread = fitted.mean(axis=0), fitted.std(axis=0)
        assert np.allclose(scale(fitted), (fitted - centre) / spread)
        fitted, unseen = (fitted - centre) / spread, (unseen - centre) / spread
    model = LogisticRegression(max_iter=5000, tol=1e-8).fit(fitted, fitted_labels)
    options = ACS.Options(
        features="concat_product", parting="pairs", shuffle="permutation", standardise=standardise, holdout=0.2
    )
    score = ACS(options).compute(image=image, text=text)
    assert score.value == pytest.approx(model.score(unseen, unseen_labels))
    assert 0.55 < score.value < 0.95
    assert len(score.rows) == 120
    assert score.details["true_pair"].sum() == 60
    held = list(zip(~score.details["true_pair"], score.details["row"], strict=True))
    assert held == sorted(held)  # true pairs in row order, then shuffled pairs in row order


def test_a_permutation_hands_out_true_pairs_as_shuffled_ones_and_a_derangement_does_not(embed) -> None:
    """Four captions and a perfect model: a quarter of a permutation's shuffled pairs, an eighth of all, cannot be told."""
    kinds = [row % 4 for row in range(800)]
    image = embed(np.eye(4)[kinds])
    text = embed(np.eye(4)[kinds], texts=[f"caption {kind}" for kind in kinds])
    assert ACS().compute(image=image, text=text).value == 1.0
    assert ACS(ACS.Options(shuffle="permutation")).compute(image=image, text=text).value == pytest.approx(7 / 8, abs=0.03)


def test_both_sides_are_stratified_and_share_no_row(embed) -> None:
    image, text = associated(embed, 101, 4, 1.0, seed=2)
    held = held_out_verdicts(image.vectors, text.vectors, text.texts, holdout=0.3, seed=0)
    assert held.true_pair.sum() == (~held.true_pair).sum() == 30
    assert len(set(held.row.tolist())) == 30
    assert np.array_equal(held.row[held.true_pair], held.row[~held.true_pair])


def test_the_score_is_the_mean_of_its_rows_and_clusters_belong_to_the_pictures(embed) -> None:
    image, text = associated(embed, 120, 8, 1.0, seed=3, people=15)
    score = ACS().compute(image=image, text=text)
    assert len(score.rows) == len(score.clusters) == 2 * 36
    assert score.value == float(score.rows.mean())
    assert list(score.clusters) == [f"identity {row % 15}" for row in score.details["row"]]
    assert set(np.unique(score.rows)) <= {0.0, 1.0}


def test_two_evaluations_of_one_model_are_identical_and_other_draws_leave_them_so(embed) -> None:
    image, text = associated(embed, 300, 16, 2.0, seed=4)
    metric = ACS()
    first = metric.compute(image=image, text=text)
    np.random.seed(0)
    np.random.rand(100)
    torch.manual_seed(1)
    for again in (metric.compute(image=image, text=text), ACS().compute(image=image, text=text)):
        assert np.array_equal(first.rows, again.rows)
        assert np.array_equal(first.details["row"], again.details["row"])
    other = ACS(ACS.Options(seed=43)).compute(image=image, text=text)
    assert not np.array_equal(first.details["row"], other.details["row"])


@pytest.mark.parametrize("features", ["product", "abs_difference", "cosine"])
def test_a_perfect_model_is_told_and_an_uninformative_one_is_not(features, embed) -> None:
    options = ACS.Options(features=features)
    perfect = ACS(options).compute(**dict(zip(("image", "text"), associated(embed, 400, 16, 0.0, seed=5), strict=True)))
    assert perfect.value > 0.98
    values = []
    for seed in range(10):
        image, text = associated(embed, 400, 16, float("inf"), seed=seed)
        values.append(ACS(options).compute(image=image, text=text).value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.025)


def test_features_side_by_side_cannot_see_any_association(embed) -> None:
    image, text = associated(embed, 400, 16, 0.0, seed=5)
    assert ACS(ACS.Options(features="concat")).compute(image=image, text=text).value == pytest.approx(0.5, abs=0.06)


def test_pairs_pushed_below_shuffled_ones_are_told_as_well(embed) -> None:
    image, text = associated(embed, 400, 16, 0.5, seed=6)
    turned = embed(-text.vectors.numpy(), text.texts, text.columns)
    assert ACS().compute(image=image, text=turned).value > 0.9


def test_collapsed_embeddings_score_one_half(embed) -> None:
    flat = embed(np.ones((60, 5)), texts=[f"caption {row}" for row in range(60)])
    assert ACS().compute(image=flat, text=flat).value == 0.5


def test_too_few_rows_and_one_caption_are_not_measurable(embed) -> None:
    few = embed(np.eye(4)[:3], texts=list("abc"))
    with pytest.raises(NotMeasurable, match="3 rows are too few"):
        ACS().compute(image=few, text=few)
    same = embed(np.random.default_rng(0).normal(size=(40, 4)), texts=["same"] * 40)
    with pytest.raises(NotMeasurable, match="more than half"):
        ACS().compute(image=same, text=same)


@pytest.mark.parametrize("features", FEATURES)
def test_it_converges_without_a_warning_within_half_a_second(features, embed) -> None:
    image, text = associated(embed, 1200, 64, 0.8, seed=8, people=60)
    metric = ACS(ACS.Options(features=features))
    metric.compute(image=image, text=text)  # scikit-learn is imported when first used
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started = time.process_time()
        metric.compute(image=image, text=text)
        assert time.process_time() - started < 0.5


def test_every_option_reaches_the_classifier(embed) -> None:
    image, text = associated(embed, 200, 12, 1.6, seed=9)
    views = {"image": image, "text": text}
    assert len(ACS(ACS.Options(holdout=0.5)).compute(**views).rows) == 200
    assert len(ACS().compute(**views).rows) == 120
    # With as many features as pairs the penalty decides what is learnt.
    wide = dict(zip(("image", "text"), associated(embed, 60, 48, 2.0, seed=9), strict=True))
    loose = ACS(ACS.Options(inverse_penalty=1e4)).compute(**wide)
    tight = ACS(ACS.Options(inverse_penalty=1e-4)).compute(**wide)
    assert not np.array_equal(loose.rows, tight.rows)
