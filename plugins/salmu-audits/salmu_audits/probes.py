"""What frozen embeddings still hold: a linear map between the towers, a probe on pairs, and wordings that nobody trained on."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from salmu_audits.measures import area_under_curve, associations, distinct, mean_reciprocal_rank, strangers
from salmu_core import Audit, AuditContext, Field, Leak, Options
from salmu_core.metric import NotMeasurable


def ridge_map(source: Float[Tensor, "n a"], target: Float[Tensor, "n b"], strength: float) -> Float[Tensor, "a b"]:
    """`argmin_A sum |x A - y|^2 + strength n |A|^2`, in closed form and double precision."""
    x, y = source.double(), target.double()
    gram = x.T @ x + strength * len(x) * torch.eye(x.shape[1], dtype=torch.double)
    found: Tensor = torch.linalg.solve(gram, x.T @ y)
    return found.to(source.dtype)


class LinearMapOptions(Options):
    """Options of linear-map."""

    strength: float = Field(0.01, gt=0, description="ridge penalty for each row")


class LinearMap(Audit):
    """Learn a linear map from images to captions on half of each association's photos and test it on the other half."""

    name = "linear-map"
    summary = "A linear map between the towers from half of each association's photos; reciprocal rank on the other half."
    version = "2"
    Options = LinearMapOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """Photos and wordings of the test are other ones; the associations are the same."""
        forget = ctx.split("forget")
        of_row = associations(forget)
        rows: dict[tuple[str, str], list[int]] = {}
        for row in torch.randperm(len(forget), generator=ctx.generator("rows")).tolist():
            rows.setdefault(of_row[row], []).append(row)
        train = sorted(row for own in rows.values() for row in own[: len(own) // 2])
        test = sorted(row for own in rows.values() if len(own) > 1 for row in own[len(own) // 2 :])
        if not train:
            raise NotMeasurable("no association has two photos")
        images = ctx.images(forget)
        captions, own = distinct(forget.render(None))
        texts = ctx.texts(captions)
        learned = ridge_map(images[train], texts[own[train]], self.options.strength)
        tested, place = distinct([captions[number] for number in own[test].tolist()])
        gallery = texts[[captions.index(caption) for caption in tested]]
        mapped = F.normalize(images[test] @ learned, dim=1)
        return Leak(
            mean_reciprocal_rank(mapped, gallery, place),
            {"without a map": mean_reciprocal_rank(images[test], gallery, place)},
        )


class PairProbe(Audit):
    """Learn to tell true from mismatched pairs on some identities and test it on others."""

    name = "pair-probe"
    summary = (
        "A linear probe on products of embeddings tells true from mismatched pairs of other people; area under the curve."
    )
    bounds = (0.0, 1.0)

    def attack(self, ctx: AuditContext) -> Leak:
        """A trace that all forgotten pairs have in common shows here even where no single one can be retrieved."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        forget = ctx.split("forget")
        images = ctx.images(forget)
        captions, own = distinct(forget.render(None))
        texts = ctx.texts(captions)[own]
        rows, other = strangers(forget, ctx.generator("strangers"))
        features = torch.cat([images[rows] * texts[rows], images[rows] * texts[other]]).numpy()
        labels = np.repeat([1, 0], len(rows))
        people = sorted({str(value) for value in forget.columns["identity_id"]})
        order = torch.randperm(len(people), generator=ctx.generator("people")).tolist()
        learned_on = {people[i] for i in order[: len(people) // 2]}
        of_row = [str(forget.columns["identity_id"][row]) for row in rows.tolist()]
        train = np.array([person in learned_on for person in of_row] * 2)
        if len(set(labels[train])) < 2 or len(set(labels[~train])) < 2:
            raise NotMeasurable("there are too few identities to learn on some and test on others")
        scaler = StandardScaler().fit(features[train])
        probe = LogisticRegression(C=0.1, max_iter=500).fit(scaler.transform(features[train]), labels[train])
        scores = probe.decision_function(scaler.transform(features[~train]))
        return Leak(area_under_curve(scores[labels[~train] == 1], scores[labels[~train] == 0]))


class WordingOptions(Options):
    """Options of unseen-wordings."""

    wordings: tuple[str, ...] = Field(
        ("{name} {value}", "{value} {name}", "{name}: {value}", "{value} belongs to {name}", "it says {value} for {name}"),
        description="captions made of the columns name and value",
    )


class UnseenWordings(Audit):
    """Ask for what was forgotten in words that no caption used."""

    name = "unseen-wordings"
    summary = (
        "Forgotten associations in wordings and an order that no caption used; reciprocal rank, the best wording counts."
    )
    version = "2"
    Options = WordingOptions

    def attack(self, ctx: AuditContext) -> Leak:
        """Rows whose value is the name itself say nothing about an association."""
        forget = ctx.split("forget")
        if "name" not in forget.columns or "value" not in forget.columns:
            raise NotMeasurable("the forget split has no columns name and value")
        pairs = zip(forget.columns["name"], forget.columns["value"], strict=True)
        split = forget.take([row for row, (name, value) in enumerate(pairs) if name != value], "asked")
        images = ctx.images(split)
        found = {}
        for wording in self.options.wordings:
            captions, own = distinct(split.render(wording))
            found[wording] = mean_reciprocal_rank(images, ctx.texts(captions), own)
        return Leak(max(found.values()), found)
