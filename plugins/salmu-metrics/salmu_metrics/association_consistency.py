"""ACS: can a classifier still tell true pairs from shuffled ones?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from salmu_core import Embedded, Field, Metric, NotMeasurable, Options, Score, View
from salmu_metrics.rows import check_rows, identity_clusters, texts_of

PairFeatures = Literal["product", "concat", "abs_difference", "cosine"]
_MAX_ITERATIONS = 2000  # standardised features converge in a few dozen


def shuffled_captions(texts: Sequence[str], rng: np.random.RandomState) -> Int[np.ndarray, " n"]:
    """A permutation of the rows that gives no row a caption equal to its own.

    Every caption is used once, so captions are equally frequent in true and in shuffled pairs, and a classifier cannot tell
    those apart by the caption alone.

    Args:
        texts: n captions; equal ones count as one caption.
        rng: advanced.

    Raises:
        NotMeasurable: more than half of the rows share a caption, so there is no such permutation.
    """
    codes = np.unique(np.asarray(texts, dtype=object), return_inverse=True)[1]
    n = len(codes)
    if n == 0 or 2 * int(np.bincount(codes).max()) > n:
        raise NotMeasurable("more than half of the captions are one and the same: there is no other to shuffle in")
    given = rng.permutation(n)
    for row in np.flatnonzero(codes[given] == codes):
        if codes[given[row]] != codes[row]:
            continue  # already put right by an exchange with an earlier row
        # Exchange with a row that neither has this caption nor was given it: at most n - 1 rows do, counting this one.
        able = np.flatnonzero((codes != codes[row]) & (codes[given] != codes[row]))
        other = able[rng.randint(len(able))]
        given[[row, other]] = given[[other, row]]
    return given


def pair_features(
    image: Float[np.ndarray, "n dim"], text: Float[np.ndarray, "n dim"], kind: PairFeatures
) -> Float[np.ndarray, "n features"]:
    """What the classifier sees of each pair (u, v).

    `product`: u * v by element; `concat`: u and v side by side; `abs_difference`: |u - v| by element; `cosine`: u . v, one
    number.
    """
    features: np.ndarray
    match kind:
        case "product":
            features = image * text
        case "concat":
            features = np.concatenate([image, text], axis=1)
        case "abs_difference":
            features = np.abs(image - text)
        case "cosine":
            features = np.einsum("nd,nd->n", image, text)[:, None]
    return features


class HeldOut(NamedTuple):
    """Pairs that the classifier was not fitted on: the true ones in row order, then the shuffled ones in row order.

    Attributes:
        row: the row whose image the pair shows.
        true_pair: is the caption the image's own?
        correct: did the classifier say so?
    """

    row: Int[np.ndarray, " m"]
    true_pair: Bool[np.ndarray, " m"]
    correct: Bool[np.ndarray, " m"]


def held_out_verdicts(
    image: Float[Tensor, "n dim"],
    text: Float[Tensor, "n dim"],
    captions: Sequence[str],
    *,
    features: PairFeatures = "product",
    holdout: float = 0.3,
    inverse_penalty: float = 1.0,
    seed: int = 42,
) -> HeldOut:
    """Fit a logistic regression on true and shuffled pairs of some rows and try it on those of the others.

    Rows are parted first and captions are shuffled within each part, so no picture and no row's caption is on both sides,
    and both sides hold as many true as shuffled pairs. (Shuffling first and parting afterwards puts the true pair of a
    picture on one side and its shuffled pair on the other; what is learnt of the first is then wrong for the second, and a
    model without any association scores below one half.)

    Args:
        image, text: fp32 rows of unit length, computed on in double precision.
        captions: the texts, to see which are equal.
        features: see `pair_features`.
        holdout: share of the rows that the classifier is tried on.
        inverse_penalty: C of scikit-learn: inverse strength of the L2 penalty, on features of unit variance.
        seed: 0 to 2**32 - 1; of the one generator behind all draws.

    Raises:
        NotMeasurable: fewer than two rows on a side, or no way to shuffle.
    """
    # Imported here: scikit-learn takes a second to import, and commands that only list metrics should not wait for it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n = len(image)
    rng = np.random.RandomState(seed)
    tried = round(holdout * n)
    if min(tried, n - tried) < 2:
        raise NotMeasurable(f"{n} rows are too few to fit a classifier on some and try it on others")
    order = rng.permutation(n)
    u, v = image.numpy().astype(np.float64), text.numpy().astype(np.float64)

    def examples(rows: Int[np.ndarray, " part"]) -> tuple[Float[np.ndarray, "pairs features"], Bool[np.ndarray, " pairs"]]:
        shuffled = rows[shuffled_captions([captions[row] for row in rows], rng)]
        true_pairs = pair_features(u[rows], v[rows], features)
        shuffled_pairs = pair_features(u[rows], v[shuffled], features)
        return np.concatenate([true_pairs, shuffled_pairs]), np.repeat([True, False], len(rows))

    held = np.sort(order[:tried])
    fitted, fitted_labels = examples(np.sort(order[tried:]))
    unseen, unseen_labels = examples(held)
    classifier = make_pipeline(StandardScaler(copy=False), LogisticRegression(C=inverse_penalty, max_iter=_MAX_ITERATIONS))
    classifier.fit(fitted, fitted_labels)
    correct = np.asarray(classifier.predict(unseen) == unseen_labels)
    return HeldOut(np.concatenate([held, held]), unseen_labels, correct)


class ACSOptions(Options):
    """Options of ACS."""

    seed: int = Field(42, ge=0, lt=2**32, description="seed of the parting into fitted and held-out rows and of the shuffle")
    features: PairFeatures = Field("product", description="what the classifier sees of a pair")
    holdout: float = Field(0.3, gt=0, lt=1, description="share of the rows that the classifier is tried on")
    inverse_penalty: float = Field(1.0, gt=0, description="C of scikit-learn's logistic regression")


class ACS(Metric):
    """Association Consistency Score: accuracy of a logistic regression that tells true from shuffled pairs."""

    name = "ACS"
    summary = "Accuracy of a classifier that tells true forget pairs from shuffled ones."
    paper = "https://arxiv.org/abs/2603.26316"
    target = "clean"
    aspect = "forgetting"
    bounds = (0.0, 1.0)
    chance = 0.5
    Options = ACSOptions

    def needs(self) -> Mapping[str, View]:
        return {"image": View("forget", "image"), "text": View("forget", "text")}

    def compute(self, image: Embedded, text: Embedded) -> Score:
        """The share of held-out pairs that are told right; rows are 0 or 1, clustered by the identity in the picture.

        Raises:
            NotMeasurable: too few rows, or more than half of them share a caption.
        """
        check_rows(self.name, image=image, text=text)
        held = held_out_verdicts(
            image.vectors,
            text.vectors,
            texts_of(self.name, text),
            features=self.options.features,
            holdout=self.options.holdout,
            inverse_penalty=self.options.inverse_penalty,
            seed=self.options.seed,
        )
        rows = held.correct.astype(np.float64)
        clusters = identity_clusters(image.columns)
        return Score(
            float(rows.mean()),
            rows,
            None if clusters is None else [clusters[row] for row in held.row],
            details={"row": held.row, "true_pair": held.true_pair},
        )
