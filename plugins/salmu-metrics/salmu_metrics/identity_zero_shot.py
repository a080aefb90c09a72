"""IdZSC: can the model still put a name to a face?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from salmu_core import Embedded, Field, Metric, NotMeasurable, Score, View
from salmu_core.errors import BadData
from salmu_metrics.rows import HALF, CosineOptions, check_rows, column_of, identity_clusters, texts_of
from salmu_metrics.zero_shot import nearest_class


class IdZSCOptions(CosineOptions):
    """Options of IdZSC."""

    prompt: str = Field("{name}", description="text of an identity, from columns that are the same in all its rows")
    candidates: Literal["forget_identity", "forget"] = Field(
        "forget_identity", description="whose names a portrait is compared with: the people of the split, or all of forget"
    )


class IdZSC(Metric):
    """Identity Zero-Shot Classification: top-1 over the names of the people who are forgotten whole."""

    name = "IdZSC"
    summary = "Share of portraits of wholly forgotten people that are nearest to their own name."
    paper = "https://arxiv.org/abs/2603.26316"
    target = "clean"
    aspect = "forgetting"
    bounds = (0.0, 1.0)
    #: The official prompt is not known; published values are whole numbers of 15,342ths, the rows of forget_identity.
    conventions = {**HALF, "official": {"prompt": "{name}", "candidates": "forget_identity"}}
    Options = IdZSCOptions

    def needs(self) -> Mapping[str, View]:
        views = {
            "image": View("forget_identity", "image"),
            "text": View("forget_identity", "text", template=self.options.prompt),
        }
        if self.options.candidates != "forget_identity":
            views["others"] = View(self.options.candidates, "text", template=self.options.prompt)
        return views

    def compute(self, image: Embedded, text: Embedded, others: Embedded | None = None) -> Score:
        """The share of portraits whose own name is nearest; rows are 0 or 1, clustered by identity.

        Candidates are the split's identities in order of first appearance, then those of `others`. Namesakes are one
        candidate: nothing could tell them apart. Of names that are equally near, as happens among cosines in float16, the first
        counts.

        Args:
            others: texts of further people, where the option `candidates` asks for them.

        Raises:
            NotMeasurable: no rows, or a single identity.
            BadData: a row without identity, or a prompt that gives one identity several texts.
        """
        check_rows(self.name, image=image, text=text)
        called: dict[str, str] = {}  # identity -> its text
        vector_of: dict[str, Tensor] = {}  # text -> its embedding
        for view, columns in ((text, image), *([(others, others)] if others is not None else [])):
            people = column_of(self.name, columns, "identity_id")
            for row, (person, words) in enumerate(zip(people, texts_of(self.name, view), strict=True)):
                if called.setdefault(person, words) != words:
                    raise BadData(
                        f"IdZSC's prompt '{self.options.prompt}' gives identity {person} several texts: '{called[person]}'"
                        f" and '{words}'.",
                        "Name only columns that are the same in all rows of an identity, such as {name}.",
                    )
                if words not in vector_of:
                    vector_of[words] = view.vectors[row]
        if len(called) < 2:
            raise NotMeasurable("there is nothing to tell apart: a single identity")
        names = {words: index for index, words in enumerate(vector_of)}
        own = np.asarray([names[words] for words in texts_of(self.name, text)])
        predicted = nearest_class(image.vectors, torch.stack(list(vector_of.values())), self.options.cosines).numpy()
        rows = (predicted == own).astype(np.float64)
        return Score(
            float(rows.mean()),
            rows,
            identity_clusters(image.columns),
            details={"predicted": predicted},
            chance=1 / len(called),
        )
