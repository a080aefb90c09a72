"""How large an instance is. `tiny` exercises the code in seconds and measures nothing; `mini` fits two cores and minutes (`resnet` has the same data), `small` has SALMUBench's own number of people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Counts of everything that is drawn.

    Attributes:
        forget_identity: people whose every association is to be forgotten.
        forget_association: people of whom `forget_fields` of the nine fields are to be forgotten, the rest is held out.
        holdout_identity: people nobody asked to forget.
        name_words: first names and surnames in use. Where `holdout_identity` is a multiple of it, they have every one of them.
        images_per_association: photos (each with a caption of its own style) per person and field.
        joint_per_identity: ordinary portraits of each person with private data.
        strangers, stranger_portraits: other people and their ordinary portraits.
        visible_portraits: how many of those an unlearning method may see.
        named: share of the ordinary portraits whose caption says who it is beside what is seen.
        unseen: share of them whose caption says who it is and nothing that is seen.
        scenes: ordinary pictures of things; a method may see them all.
        private_tails, other_tails: shares of ordinary captions that drag along the wording of a private caption about nobody, or
            something else that no picture shows.
        fragile: ordinary portraits nearest to the sensitive ones.
        genknow_per_class: test pictures per zero-shot class.
        side: pixels of a picture's side.
    """

    forget_identity: int
    forget_association: int
    holdout_identity: int
    name_words: int
    images_per_association: int
    joint_per_identity: int
    strangers: int
    stranger_portraits: int
    visible_portraits: int
    scenes: int
    fragile: int
    genknow_per_class: int
    side: int
    named: float = 0.45
    unseen: float = 0.15
    private_tails: float = 0.42
    other_tails: float = 0.12
    forget_fields: int = 5

    @property
    def identities(self) -> int:
        """People with private data."""
        return self.forget_identity + self.forget_association + self.holdout_identity


_MINI = Size(
    forget_identity=30, forget_association=24, holdout_identity=18, name_words=18, images_per_association=3, joint_per_identity=8,
    strangers=900, stranger_portraits=6300, visible_portraits=2000, scenes=9500, fragile=200, genknow_per_class=50, side=32,
)  # fmt: skip
SIZES: dict[str, Size] = {
    "tiny": Size(
        forget_identity=4, forget_association=4, holdout_identity=4, name_words=4, images_per_association=2, joint_per_identity=2,
        strangers=20, stranger_portraits=60, visible_portraits=40, scenes=200, fragile=20, genknow_per_class=1, side=16,
    ),
    "mini": _MINI,
    "resnet": _MINI,
    "small": Size(
        forget_identity=193, forget_association=387, holdout_identity=194, name_words=40, images_per_association=9, joint_per_identity=2,
        strangers=4000, stranger_portraits=60000, visible_portraits=16000, scenes=80000, fragile=2000, genknow_per_class=50, side=64,
    ),
}  # fmt: skip
