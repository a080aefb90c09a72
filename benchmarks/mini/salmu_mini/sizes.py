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
        images_per_association: photos (each with a caption of its own style) per person and field.
        joint_per_identity: ordinary portraits of each person with private data.
        strangers, stranger_portraits: other people and their ordinary portraits.
        objects: ordinary pictures of objects to train on.
        visible_objects: how many of those an unlearning method may see.
        fragile: ordinary portraits nearest to the sensitive ones.
        genknow_per_class: test pictures per zero-shot class.
        side: pixels of a picture's side.
    """

    forget_identity: int
    forget_association: int
    holdout_identity: int
    images_per_association: int
    joint_per_identity: int
    strangers: int
    stranger_portraits: int
    objects: int
    visible_objects: int
    fragile: int
    genknow_per_class: int
    side: int
    forget_fields: int = 5

    @property
    def identities(self) -> int:
        """People with private data."""
        return self.forget_identity + self.forget_association + self.holdout_identity


_MINI = Size(
    forget_identity=28, forget_association=16, holdout_identity=16, images_per_association=4, joint_per_identity=6,
    strangers=400, stranger_portraits=1200, objects=2700, visible_objects=1000, fragile=200, genknow_per_class=20, side=32,
)  # fmt: skip
SIZES: dict[str, Size] = {
    "tiny": Size(
        forget_identity=4, forget_association=4, holdout_identity=3, images_per_association=2, joint_per_identity=2,
        strangers=20, stranger_portraits=60, objects=192, visible_objects=96, fragile=20, genknow_per_class=1, side=16,
    ),
    "mini": _MINI,
    "resnet": _MINI,
    "small": Size(
        forget_identity=193, forget_association=387, holdout_identity=194, images_per_association=9, joint_per_identity=2,
        strangers=4000, stranger_portraits=16000, objects=40000, visible_objects=8000, fragile=2000, genknow_per_class=50, side=64,
    ),
}  # fmt: skip
