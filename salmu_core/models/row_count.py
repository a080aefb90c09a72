"""How much goes through the encoders while a method runs: counted, and limited."""

from __future__ import annotations

from typing import Any

from salmu_core.errors import RAISE_BUDGET, BudgetExceeded


class RowCount:
    """Rows that went through the encoders of a model and of its copies, which share the count: a method's teacher is work as well.

    Args:
        limit: rows that each encoder may be given; None: as many as one likes.
        owner: who is counted, for the error message.

    Attributes:
        image, text: rows since the count began.
    """

    def __init__(self, limit: int | None = None, owner: str = "The method") -> None:
        self.image = self.text = 0
        self.limit, self.owner = limit, owner

    def take(self, image: int = 0, text: int = 0) -> None:
        """Count rows that are about to be encoded.

        Raises:
            BudgetExceeded: they are more than the limit allows.
        """
        for side, rows, before in (("pictures", image, self.image), ("captions", text, self.text)):
            if rows and self.limit is not None and before + rows > self.limit:
                raise BudgetExceeded(
                    f"{self.owner} puts {before + rows:,} {side} through an encoder, and its budget allows {self.limit:,}.",
                    f"Train on fewer {side}, keep the embeddings of those that do not change, or {RAISE_BUDGET}.",
                )
        self.image += image
        self.text += text

    def __deepcopy__(self, memo: dict[int, Any]) -> RowCount:
        return self
