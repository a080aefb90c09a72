"""Was this pair in the training data? Attacks on membership, with pairs that nobody learned as the others."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from salmu_audits.measures import distinct, sample_rows, strangers, told_apart
from salmu_core import Audit, AuditContext, DualEncoder, Field, Leak, Options
from salmu_core.data import EncodedImages, Split

Scores = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


class MembershipOptions(Options):
    """Options of all membership attacks."""

    rows: int = Field(4096, ge=2, description="forget pairs that are tested, drawn at random where there are more")


class Membership(Audit):
    """Tell forgotten pairs from mismatched ones by a score."""

    bounds = (0.5, 1.0)
    Options = MembershipOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """The area under the curve in whichever direction tells more."""
        forget = ctx.split("forget")
        tested = forget.take(sample_rows(len(forget), self.options.rows, ctx.generator("rows")), "tested")
        members, others = self.scores(ctx, tested)
        return Leak(told_apart(members, others), {"members": float(members.mean()), "others": float(others.mean())})

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """A score for each pair, and for each mismatched pair."""
        raise NotImplementedError


def similarities(ctx: AuditContext, split: Split, model: DualEncoder | None = None) -> Scores:
    """Cosines of pairs, and of their images with captions of the same field about other people."""
    rows, other = strangers(split, ctx.generator("strangers"))
    captions, own = distinct(split.render(None))
    images, texts = ctx.images(split, model), ctx.texts(captions, model)[own]
    return (images[rows] * texts[rows]).sum(dim=1).numpy(), (images[rows] * texts[other]).sum(dim=1).numpy()


class SimilarityMembership(Membership):
    """The similarity itself is the score."""

    name = "membership-similarity"
    summary = "Tell forgotten pairs from mismatched ones by their similarity alone; area under the curve, either way."

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """Cosines."""
        return similarities(ctx, split)


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

    def scores(self, ctx: AuditContext, split: Split) -> Scores:
        """Cosines minus those of the Clean model: the attacker has a shadow model without the pairs."""
        clean = ctx.reference("clean")
        own, shadow = similarities(ctx, split), similarities(ctx, split, clean)
        return own[0] - shadow[0], own[1] - shadow[1]
