"""ACS: can a classifier still tell true pairs from shuffled ones?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from salmu_core import Embedded, Field, Metric, NotMeasurable, Options, Score, View
from salmu_core.errors import BadOptions
from salmu_metrics.rows import check_rows, identity_clusters, texts_of

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

PairFeatures = Literal["product", "concat", "abs_difference", "cosine", "concat_product", "concat_cosine", "all"]
Shuffle = Literal["derangement", "permutation", "official"]
Parting = Literal["rows", "pairs"]
_FIRST_STEPS = 30  # of lbfgs, which are cheap, before Newton's, which reach the optimum
_TOLERANCE, _MAX_ITERATIONS = 1e-6, 200


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
    number; `concat_product`: u, v and u * v; `concat_cosine`: u, v and u . v; `all`: u, v, |u - v| and u * v.
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
        case "concat_product":
            features = np.concatenate([image, text, image * text], axis=1)
        case "concat_cosine":
            features = np.concatenate([image, text, np.einsum("nd,nd->n", image, text)[:, None]], axis=1)
        case "all":
            features = np.concatenate([image, text, np.abs(image - text), image * text], axis=1)
    return features


def official_shuffle(forget: int, retain: int, seed: int = 42, distractors: int = 1000) -> Int[np.ndarray, " {forget}"]:
    """The permutation of the forget captions that the official evaluator gets when its metrics run in order on one model.

    NumPy's global state is seeded once; RetFail draws its distractors from it, twice, and ACS then shuffles the captions: published
    values show so. The draws are those of `numpy.random.RandomState(seed)`: choice without replacement of 1,000 of the forget
    captions, then of the captions of retain_disjoint, then permutation. Now and then a row is given its own caption.

    Args:
        forget, retain: number of captions of `forget` and of `retain_disjoint`: choice uses up as many numbers.
    """
    rng = np.random.RandomState(seed)
    rng.choice(forget, min(distractors, forget), replace=False)
    rng.choice(retain, min(distractors, retain), replace=False)
    return rng.permutation(forget)


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


class _Pairs(NamedTuple):
    """Pairs to fit on or to try: row of the image, row of the caption. True pairs come first."""

    image: Int[np.ndarray, " pairs"]
    caption: Int[np.ndarray, " pairs"]
    true_pair: Bool[np.ndarray, " pairs"]


def held_out_verdicts(
    image: Float[Tensor, "n dim"],
    text: Float[Tensor, "n dim"],
    captions: Sequence[str],
    *,
    features: PairFeatures = "product",
    holdout: float = 0.3,
    inverse_penalty: float = 1.0,
    seed: int = 42,
    parting: Parting = "rows",
    shuffle: Shuffle = "derangement",
    standardise: bool = True,
    retain_captions: int | None = None,
) -> HeldOut:
    """Fit a logistic regression on some true and shuffled pairs and try it on the others.

    With parting by rows, rows are parted first and captions are shuffled within each part, so no picture and no row's caption
    is on both sides, and both sides hold as many true as shuffled pairs. With parting by pairs, all captions are shuffled
    first and the 2n pairs are then parted, stratified. (That puts the true pair of a picture on one side and its shuffled
    pair on the other; what is learnt of the first is then wrong for the second, and a model without any association scores
    below one half.)

    Args:
        image, text: fp32 rows of unit length, computed on in double precision.
        captions: the texts, to see which are equal.
        features: see `pair_features`.
        holdout: share of the rows (or pairs) that the classifier is tried on.
        inverse_penalty: C of scikit-learn: inverse strength of the L2 penalty, on features of unit variance.
        seed: 0 to 2**32 - 1; of the one NumPy generator behind all draws, and of scikit-learn's stratified split of pairs.
        parting: what is parted into fitted and held-out ones.
        shuffle: `derangement`: see `shuffled_captions`; `permutation`: any permutation, which now and then gives a row its
            own caption as a shuffled one; `official`: see `official_shuffle`, of all captions, so pairs have to be parted.
        retain_captions: number of captions of `retain_disjoint`, for the official shuffle.
        standardise: give features the mean 0 and the variance 1 of the fitted part.

    Raises:
        NotMeasurable: fewer than two rows on a side, or no way to shuffle.
        BadOptions: the official shuffle, with parting by rows or without the number of captions it draws from.
    """
    from sklearn.preprocessing import StandardScaler

    rng = np.random.RandomState(seed)
    if parting == "rows":
        if shuffle == "official":
            raise BadOptions("ACS: shuffle=official shuffles all captions at once.", "Set parting=pairs beside it.")
        fit_on, try_on = _part_rows(captions, holdout, shuffle, rng, seed)
    else:
        if shuffle == "official":
            if retain_captions is None:
                raise BadOptions("ACS: shuffle=official needs the number of captions in retain_disjoint.")
            given = official_shuffle(len(captions), retain_captions, seed)
        else:
            given = _shuffled(captions, shuffle, rng)
        fit_on, try_on = _part_pairs(given, holdout, seed)
    u, v = image.numpy(), text.numpy()

    def examples(pairs: _Pairs) -> Float[np.ndarray, "pairs features"]:
        return pair_features(u[pairs.image].astype(np.float64), v[pairs.caption].astype(np.float64), features)

    scaler = StandardScaler(copy=False, with_mean=standardise, with_std=standardise)
    classifier = fit_regression(scaler.fit_transform(examples(fit_on)), fit_on.true_pair, inverse_penalty)
    correct = np.asarray(classifier.predict(scaler.transform(examples(try_on))) == try_on.true_pair)
    return HeldOut(try_on.image, try_on.true_pair, correct)


def fit_regression(
    features: Float[np.ndarray, "pairs features"], labels: Bool[np.ndarray, " pairs"], inverse_penalty: float
) -> LogisticRegression:
    """scikit-learn's L2-penalised logistic regression at its optimum.

    lbfgs alone stops where its tolerance lets it: a few pairs in ten thousand are then left to chance, and features that are
    correlated take hundreds of steps. Newton's method needs about ten steps of its own, or two or three from where a few of
    lbfgs lead.
    """
    # Imported here: scikit-learn takes a second to import, and commands that only list metrics should not wait for it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=inverse_penalty, solver="lbfgs", max_iter=_FIRST_STEPS, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(features, labels)
    regression.set_params(solver="newton-cholesky", tol=_TOLERANCE, max_iter=_MAX_ITERATIONS)
    regression.fit(features, labels)
    return regression


def _part_rows(
    captions: Sequence[str], holdout: float, shuffle: Shuffle, rng: np.random.RandomState, seed: int
) -> tuple[_Pairs, _Pairs]:
    n = len(captions)
    tried = round(holdout * n)
    _enough(n, tried)
    order = rng.permutation(n)

    def side(rows: Int[np.ndarray, " part"]) -> _Pairs:
        given = rows[_shuffled([captions[row] for row in rows], shuffle, rng)]
        return _Pairs(np.concatenate([rows, rows]), np.concatenate([rows, given]), np.repeat([True, False], len(rows)))

    fit_on = side(np.sort(order[tried:]))
    return fit_on, side(np.sort(order[:tried]))


def _part_pairs(given: Int[np.ndarray, " n"], holdout: float, seed: int) -> tuple[_Pairs, _Pairs]:
    from sklearn.model_selection import train_test_split

    n = len(given)
    _enough(n, round(holdout * n))
    rows = np.arange(n)
    image = np.concatenate([rows, rows])
    caption = np.concatenate([rows, given])
    true_pair = np.repeat([True, False], n)
    parts = train_test_split(np.arange(2 * n), test_size=holdout, stratify=true_pair, random_state=seed)
    fit_on, try_on = (np.sort(part) for part in parts)
    return (
        _Pairs(image[fit_on], caption[fit_on], true_pair[fit_on]),
        _Pairs(image[try_on], caption[try_on], true_pair[try_on]),
    )


def _enough(n: int, tried: int) -> None:
    if min(tried, n - tried) < 2:
        raise NotMeasurable(f"{n} rows are too few to fit a classifier on some and try it on others")


def _shuffled(captions: Sequence[str], shuffle: Shuffle, rng: np.random.RandomState) -> Int[np.ndarray, " n"]:
    return shuffled_captions(captions, rng) if shuffle == "derangement" else rng.permutation(len(captions))


class ACSOptions(Options):
    """Options of ACS."""

    seed: int = Field(42, ge=0, lt=2**32, description="seed of the parting into fitted and held-out rows and of the shuffle")
    features: PairFeatures = Field("product", description="what the classifier sees of a pair")
    holdout: float = Field(0.3, gt=0, lt=1, description="share of the rows or pairs that the classifier is tried on")
    inverse_penalty: float = Field(1.0, gt=0, description="C of scikit-learn's logistic regression")
    parting: Parting = Field(
        "rows", description="part rows, then shuffle inside each part; or shuffle, then part the pairs, stratified"
    )
    shuffle: Shuffle = Field(
        "derangement",
        description="may a row get its own caption as a shuffled one? permutation: yes; official: likewise, with the draws that the"
        " official evaluator is left with after RetFail (parting=pairs)",
    )
    standardise: bool = Field(True, description="scale features to mean 0 and variance 1")


class ACS(Metric):
    """Association Consistency Score: accuracy of a logistic regression that tells true from shuffled pairs."""

    name = "ACS"
    summary = "Accuracy of a classifier that tells true forget pairs from shuffled ones."
    paper = "https://arxiv.org/abs/2603.26316"
    target = "clean"
    aspect = "forgetting"
    bounds = (0.0, 1.0)
    chance = 0.5
    #: Held-out share and draws are known from published values; features, scaling and penalty are not: these are our guess.
    conventions = {
        "official": {
            "seed": 42,
            "holdout": 0.5,
            "parting": "pairs",
            "shuffle": "official",
            "features": "concat_cosine",
            "standardise": False,
        }
    }
    Options = ACSOptions

    def needs(self) -> Mapping[str, View]:
        views = {"image": View("forget", "image"), "text": View("forget", "text")}
        if self.options.shuffle == "official":  # draws from it come before ACS's own
            views["retain_text"] = View("retain_disjoint", "text")
        return views

    def compute(self, image: Embedded, text: Embedded, retain_text: Embedded | None = None) -> Score:
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
            parting=self.options.parting,
            shuffle=self.options.shuffle,
            standardise=self.options.standardise,
            retain_captions=None if retain_text is None else len(retain_text),
        )
        rows = held.correct.astype(np.float64)
        clusters = identity_clusters(image.columns)
        return Score(
            float(rows.mean()),
            rows,
            None if clusters is None else [clusters[row] for row in held.row],
            details={"row": held.row, "true_pair": held.true_pair},
        )
