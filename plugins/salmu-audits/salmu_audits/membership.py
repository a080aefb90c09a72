"""Was this pair in the training data? Attacks on membership, with pairs that nobody learned as the others.

Beside the area under the curve stand the shares of members that are found at 1 % and 0.1 % false alarms, and a control that sees the
captions alone: if it did better than chance, the two kinds of pair could be told apart without any model.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from torch import Tensor

from salmu_audits.forget_embeddings import forget_images, forget_texts
from salmu_audits.measures import area_under_curve, distinct, found_at, sample_rows, strangers
from salmu_audits.relative import usual_scale
from salmu_core import Audit, AuditContext, DualEncoder, Field, Leak, Options
from salmu_core.data.images import EncodedImages
from salmu_core.data.splits import Split

Scores = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


class MembershipOptions(Options):
    """Options of all membership attacks."""

    rows: int = Field(4096, ge=2, description="forget pairs that are tested, drawn at random where there are more")
    blind: bool = Field(True, description="also try to tell pairs apart by their captions alone")


class Membership(Audit):
    """Tell forgotten pairs from mismatched ones by a score."""

    bounds = (0.5, 1.0)
    version = "2"
    Options = MembershipOptions

    def rows(self, ctx: AuditContext) -> list[int]:
        """Of the forget split, those that are tested."""
        return list(sample_rows(len(ctx.split("forget")), self.options.rows, ctx.generator("rows")))

    def attack(self, ctx: AuditContext) -> Leak:
        """The area under the curve in whichever direction tells more."""
        tested = ctx.split("forget").take(self.rows(ctx), "tested")
        members, others = self.scores(ctx, tested)
        extras = {"members": float(members.mean()), "others": float(others.mean())}
        area = area_under_curve(members, others)
        if area < 0.5:  # similarity that is too low is a trace too
            members, others, area = -members, -others, 1 - area
        extras |= {f"found at {share:.1%} false alarms": found_at(members, others, share) for share in (0.01, 0.001)}
        if self.options.blind:
            rows, other = strangers(tested, ctx.generator("strangers"))
            captions = tested.render(None)
            extras["area by captions alone"] = blind_area(
                [captions[row] for row in rows.tolist()], [captions[row] for row in other.tolist()]
            )
        return Leak(area, extras)

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """A score for each pair, and for each mismatched pair."""
        raise NotImplementedError


def blind_area(members: Sequence[str], others: Sequence[str], folds: int = 5) -> float:
    """Area under the curve of a classifier that sees captions and no model: words and pairs of words, logistic regression, on
    the folds that it was not fitted on (Das et al. 2025, "Blind baselines beat membership inference attacks for foundation
    models"). 0.5 where both kinds have the same captions."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = np.array([*members, *others])
    labels = np.repeat([1, 0], [len(members), len(others)])
    # All rows of a caption are in one fold: otherwise the classifier is told the others' labels.
    _, fold = np.unique(texts, return_inverse=True)
    fold = fold % folds
    scores, truth = [], []
    for number in range(folds):
        train, test = fold != number, fold == number
        if len(set(labels[train])) < 2 or not test.any():
            continue
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
        probe = LogisticRegression(max_iter=200, class_weight="balanced").fit(
            words.fit_transform(texts[train]), labels[train]
        )
        scores.append(probe.decision_function(words.transform(texts[test])))
        truth.append(labels[test])
    found = [
        area_under_curve(score[label == 1], score[label == 0])
        for score, label in zip(scores, truth, strict=True)
        if 0 < label.sum() < len(label)
    ]
    return float(np.mean(found)) if found else 0.5


def similarities(
    ctx: AuditContext, split: Split, model: DualEncoder | None = None, rows: Sequence[int] | None = None
) -> Scores:
    """Cosines of pairs, and of their images with captions of the same field about other people; arguments as for `EmbeddedPairs`."""
    pairs = EmbeddedPairs(ctx, split, model, rows)
    return (pairs.images * pairs.own).sum(dim=1).numpy(), (pairs.images * pairs.other).sum(dim=1).numpy()


class EmbeddedPairs:
    """Images with their own captions, and with those of the same field about other people.

    Args:
        model: another one than the audited one.
        rows: which rows of the forget split these are, if the model is still as it was handed over: attacks share their embeddings.

    Attributes:
        images, own, other: float [n, dim], unit length.
        people: of every row.
    """

    def __init__(
        self, ctx: AuditContext, split: Split, model: DualEncoder | None = None, rows: Sequence[int] | None = None
    ) -> None:
        paired, other = strangers(split, ctx.generator("strangers"))
        if rows is None:
            captions, own = distinct(split.render(None))
            images, texts = ctx.images(split, model), ctx.texts(captions, model)[own]
        else:
            images, texts = forget_images(ctx, rows), forget_texts(ctx, rows)
        self.images, self.own, self.other = images[paired], texts[paired], texts[other]
        self.people = [str(split.columns["identity_id"][row]) for row in paired.tolist()]

    def known_and_tested(self, generator: torch.Generator) -> tuple[Int[Tensor, " known"], Int[Tensor, " tested"]]:
        """Rows of half of the people, which the attacker learns from, and of the other half."""
        known = sorted(set(self.people))
        order = torch.randperm(len(known), generator=generator).tolist()
        chosen = {known[place] for place in order[: max(1, len(known) // 2)]}
        mask = torch.tensor([person in chosen for person in self.people])
        return mask.nonzero().flatten(), (~mask).nonzero().flatten()


def embedded_pairs(ctx: AuditContext, split: Split, model: DualEncoder | None = None) -> EmbeddedPairs:
    """Embedded by the audited model, or by another one."""
    return EmbeddedPairs(ctx, split, model)


class SimilarityMembership(Membership):
    """The similarity itself is the score."""

    name = "membership-similarity"
    summary = "Tell forgotten pairs from mismatched ones by their similarity alone; area under the curve, either way."
    paper = "https://arxiv.org/abs/2310.00108"
    quick = {"rows": 1500, "blind": False}

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """Cosines."""
        return similarities(ctx, split, rows=self.rows(ctx))


def views(split: Split) -> list[Split]:
    """The split with its images mirrored, and cut by a tenth on each side: what training could have shown."""
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "mirrored": ImageOps.mirror,
        "cut": lambda image: ImageOps.crop(image, min(image.size) // 10),
    }
    assert split.images is not None
    changed = []
    for name, change in changes.items():
        encoded = []
        for row in range(len(split)):
            buffer = io.BytesIO()
            change(Image.open(io.BytesIO(split.images.read(row))).convert("RGB")).save(
                buffer, format="PNG", compress_level=1
            )
            encoded.append(buffer.getvalue())
        images = EncodedImages(encoded, [split.images.where(row) for row in range(len(split))], name)
        changed.append(Split(split.name, images, split.texts, split.columns))
    return changed


class AugmentedMembership(Membership):
    """The mean similarity over changed views of an image is the score."""

    name = "membership-augmented"
    summary = (
        "Tell forgotten pairs from mismatched ones by their similarity over mirrored and cut images; area under the curve."
    )

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """Mean cosine over the image as it is and its views."""
        found = [similarities(ctx, view) for view in (split, *views(split))]
        return np.mean([one[0] for one in found], axis=0), np.mean([one[1] for one in found], axis=0)


class CalibratedMembership(Membership):
    """The similarity beyond that of a model that never learned the pair is the score."""

    name = "membership-calibrated"
    summary = "Tell forgotten pairs from mismatched ones by their similarity beyond the Clean model's; area under the curve."
    paper = "https://arxiv.org/abs/2111.08440"
    references = ("clean",)

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """Cosines minus those of the Clean model: the attacker has a shadow model without the pairs."""
        clean = ctx.reference("clean")
        own, shadow = similarities(ctx, split), similarities(ctx, split, clean)
        return own[0] - shadow[0], own[1] - shadow[1]


def pseudo_members(scores: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"], above: float) -> np.ndarray:
    """Which of a mixed pool look learned: above the mean of known others by so many of their deviations (Ko et al. 2023, equation 2).

    >>> pseudo_members(np.array([0.0, 1.4, 1.6]), np.array([0.0, 2.0]), 0.5)
    array([False, False,  True])
    """
    return np.asarray(scores >= others.mean() + above * others.std())


class WeakOptions(MembershipOptions):
    """Options of membership-weakly-supervised."""

    above: float = Field(
        0.5, description="deviations above the mean of known mismatched pairs from which a pair counts as learned"
    )


class WeaklySupervisedMembership(Membership):
    """A classifier learned from pairs that are known to be mismatched, and from those of a mixed pool that look learned."""

    name = "membership-weakly-supervised"
    summary = "A classifier on [image, caption, cosine], taught by mismatched pairs and a mixed pool; area under the curve."
    paper = "https://arxiv.org/abs/2310.00108"
    version = "1"
    Options = WeakOptions

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """The classifier's, on people that it was not taught with. No pair is ever said to be a member."""
        pairs = embedded_pairs(ctx, split)
        known, tested = pairs.known_and_tested(ctx.generator("people"))
        others = _features(pairs.images[known], pairs.other[known])
        pool = np.concatenate([_features(pairs.images[known], pairs.own[known]), others])
        chosen = pool[pseudo_members(pool[:, -1], others[:, -1], self.options.above)]
        return _taught(
            others,
            chosen,
            _features(pairs.images[tested], pairs.own[tested]),
            _features(pairs.images[tested], pairs.other[tested]),
        )


def _features(images: Tensor, texts: Tensor) -> Float[np.ndarray, "n features"]:
    return torch.cat([images, texts, (images * texts).sum(dim=1, keepdim=True)], dim=1).double().numpy()


def _taught(others: np.ndarray, chosen: np.ndarray, members: np.ndarray, strangers: np.ndarray) -> Scores:
    """What a logistic regression that was taught `others` (0) and `chosen` (1) gives; the last feature where nothing was chosen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if not len(chosen):
        return members[:, -1], strangers[:, -1]
    scaler = StandardScaler().fit(np.concatenate([others, chosen]))
    labels = np.repeat([0, 1], [len(others), len(chosen)])
    probe = LogisticRegression(max_iter=500).fit(scaler.transform(np.concatenate([others, chosen])), labels)
    return probe.decision_function(scaler.transform(members)), probe.decision_function(scaler.transform(strangers))


def losses_and_gradients(
    images: Float[Tensor, "n dim"], texts: Float[Tensor, "n dim"], scale: float, batch: int = 64
) -> Float[np.ndarray, "n 2"]:
    """Of each pair, minus CLIP's loss among `batch` pairs, and minus the norm of its gradient by the pair's two embeddings."""
    found = []
    for start in range(0, len(images), batch):
        image = images[start : start + batch].clone().requires_grad_()
        text = texts[start : start + batch].clone().requires_grad_()
        logits = scale * image @ text.T
        losses = (logits.logsumexp(dim=1) + logits.logsumexp(dim=0)) / 2 - logits.diagonal()
        gradients = torch.autograd.grad(losses.sum(), [image, text])
        norms = torch.cat(gradients, dim=1).norm(dim=1)
        found.append(torch.stack([-losses.detach(), -norms], dim=1))
    return torch.cat(found).double().numpy()


class GradientMembership(Membership):
    """Loss and gradient of a pair among others of its kind are the score."""

    name = "membership-loss-gradient"
    summary = "Tell forgotten pairs from mismatched ones by their contrastive loss and its gradient; area under the curve."
    paper = "https://github.com/lluisgomez/CLIP-MIA-Bench"
    version = "2"

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """A classifier on loss and gradient norm, taught as the weakly supervised attack is, on other people."""
        pairs = embedded_pairs(ctx, split)
        order = torch.randperm(len(pairs.images), generator=ctx.generator("batches"))
        scale = usual_scale(ctx)
        place = order.argsort().numpy()
        own, other = (
            losses_and_gradients(pairs.images[order], texts[order], scale)[place] for texts in (pairs.own, pairs.other)
        )
        known, tested = (rows.numpy() for rows in pairs.known_and_tested(ctx.generator("people")))
        mean, deviation = other[known].mean(axis=0), other[known].std(axis=0) + 1e-12
        pool = np.concatenate([own[known], other[known]])
        chosen = pool[((pool - mean) / deviation).mean(axis=1) > 0]
        return _taught(other[known], chosen, own[tested], other[tested])
