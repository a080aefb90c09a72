"""GenKnow: is ordinary knowledge intact?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from salmu_core import Embedded, Metric, NotMeasurable, Score, View
from salmu_core.errors import BadData
from salmu_metrics.rows import check_rows, column_of
from salmu_metrics.zero_shot import class_vectors, nearest_class


class GenKnow(Metric):
    """General Knowledge: zero-shot top-1 accuracy on pictures that have nothing to do with the forgotten people."""

    name = "GenKnow"
    summary = "Zero-shot top-1 accuracy on ordinary pictures."
    paper = "https://arxiv.org/abs/2603.26316"
    target = "compromised"
    aspect = "general"
    primary = True
    bounds = (0.0, 1.0)

    def needs(self) -> Mapping[str, View]:
        return {"image": View("genknow", "image"), "prompts": View("genknow_prompts", "text")}

    def compute(self, image: Embedded, prompts: Embedded) -> Score:
        """The share of pictures whose own class is nearest; rows are 0 or 1, clustered by class.

        Raises:
            NotMeasurable: no pictures, or fewer than two classes.
            BadData: a picture or prompt without a label, or a picture of a class that has no prompt.
        """
        check_rows(self.name, image=image)
        prompt_labels = [int(label) for label in column_of(self.name, prompts, "label")]
        image_labels = [int(label) for label in column_of(self.name, image, "label")]
        classes = sorted(set(prompt_labels))
        if len(classes) < 2:
            raise NotMeasurable(f"there is nothing to tell apart: {len(classes)} zero-shot classes")
        position = {label: index for index, label in enumerate(classes)}
        unknown = sorted(set(image_labels) - set(classes))
        if unknown:
            raise BadData(f"GenKnow has pictures of classes without a prompt: labels {', '.join(map(str, unknown[:5]))}.")
        codes = torch.tensor([position[label] for label in prompt_labels])
        nearest = nearest_class(image.vectors, class_vectors(prompts.vectors, codes, len(classes)))
        predicted = np.asarray(classes)[nearest.numpy()]
        rows = (predicted == np.asarray(image_labels)).astype(np.float64)
        return Score(
            float(rows.mean()), rows, clusters=image_labels, details={"predicted": predicted}, chance=1 / len(classes)
        )
