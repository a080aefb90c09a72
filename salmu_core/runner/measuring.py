"""What a method may look at, and what it measures there: forget and retain pairs within the budget. Nothing here leads to evaluation
data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor, nn

from salmu_core.data.pairs import NotedColumns, Pairs, Role
from salmu_core.data.pixels import PairStore
from salmu_core.errors import SalmuError
from salmu_core.losses import mismatched_cosine, pair_cosine
from salmu_core.method import UnlearningMethod
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.gradients import gradients_of
from salmu_core.seeding import derive_seed

#: Shows that a stage moves: stage, done, total, values.
Tell = Callable[[str, int, int, Mapping[str, float]], None]


def silent(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
    """Nobody watches."""


class Measuring:
    """The part of `UnlearnContext` that reads the splits. Every sample that it hands out counts."""

    def __init__(
        self,
        model: DualEncoder,
        stores: Mapping[Role, PairStore],
        meter: SampleMeter,
        accelerator: Accelerator,
        seed: int,
        method: UnlearningMethod,
        tell: Tell = silent,
    ) -> None:
        self.model = model
        self.accelerator = accelerator
        self.seed = seed
        self._stores = dict(stores)
        self._meter = meter
        self._method = method
        self._tell = tell
        self._captions: dict[str, int] = {}
        self._declared = set(method.columns)

    # ------------------------------------------------------------------ the splits

    def rows(self, split: Role) -> int:
        """Rows of a split."""
        return len(self._store(split))

    def captions(self, split: Role) -> Sequence[str]:
        """Captions in the order of `Pairs.index`. Noted in the record: every row once, however often they are asked for."""
        captions = tuple(self._store(split).captions)
        self._captions[split] = len(captions)
        return captions

    def columns(self, split: Role) -> Mapping[str, Sequence[Any]]:
        """Metadata columns (identity_id, data_field, name, value, ...) in the order of `Pairs.index`. Those that are read are noted
        in the record; a method declares them in `columns`."""
        store = self._store(split)
        return NotedColumns(store.split.columns, store.columns_read)

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "batch context"]:
        """Token ids on the run's device."""
        return self.model.processor.tokenize(captions).to(self.model.device)

    @property
    def samples(self) -> Mapping[str, int]:
        """Samples seen so far, per role."""
        return dict(self._meter.seen)

    @property
    def captions_read(self) -> Mapping[str, int]:
        """Rows of a role whose captions were read without their pictures, outside of batches."""
        return dict(self._captions)

    @property
    def columns_read(self) -> Mapping[str, tuple[str, ...]]:
        """Metadata columns that were read, per role."""
        return {role: tuple(sorted(store.columns_read)) for role, store in self._stores.items() if store.columns_read}

    @property
    def undeclared_columns(self) -> tuple[str, ...]:
        """Columns that were read and that the method does not declare."""
        return tuple(sorted({name for names in self.columns_read.values() for name in names} - self._declared))

    def budget_left(self, split: Role) -> int | None:
        """Samples of a role that may still be seen."""
        return self._meter.left(split)

    def affordable_rows(self, split: Role, wanted: int | None = None, *, parts: int = 1, least: int = 1) -> int:
        """How many rows of a split to measure: as many as wanted, but no more than there are, and no more than a share of the
        samples that are left.

        Args:
            wanted: default: all rows.
            parts: the share is one part of so many.
            least: measure so many, where there are as many, even when the share is smaller.
        """
        rows = self.rows(split) if wanted is None else min(wanted, self.rows(split))
        left = self.budget_left(split)
        return rows if left is None else min(rows, max(least, left // parts))

    def generator(self, *purpose: object) -> torch.Generator:
        """A CPU generator for one purpose, seeded from the run's seed."""
        return torch.Generator().manual_seed(derive_seed(self.seed, self._method.name, *purpose))

    def _store(self, split: Role) -> PairStore:
        if split not in self._method.reads() or split not in self._stores:
            raise SalmuError(
                f"{self._method.name} asks for the {split} split and has not declared it.",
                f"It declares data = {self._method.data} and reads {self._method.reads()} with these options.",
            )
        return self._stores[split]

    # ------------------------------------------------------------------ statistics

    def batches(self, split: Role, batch_size: int, *, rows: int | None = None, shuffle: bool = False) -> Iterator[Pairs]:
        """The split once. Every process sees all of it. Counts.

        Args:
            rows: no more than this many; default: all.
            shuffle: in an order drawn from the run's seed instead of row order, in which neighbours are photos of one
                person: what a contrastive loss over a batch needs.
        """
        store = self._store(split)
        total = len(store) if rows is None else min(rows, len(store))
        self._meter.check(split, total)
        order = torch.arange(len(store))
        if shuffle:
            order = torch.randperm(len(store), generator=self.generator("batches", split))
        for start in range(0, total, batch_size):
            index = order[start : min(start + batch_size, total)]
            self._meter.take(split, len(index))
            yield Pairs(store, index)
            self._tell(f"measure {split}", start + len(index), total, {})

    def accumulate(
        self,
        measure: Callable[[Pairs], Mapping[str, Tensor]],
        split: Role,
        batch_size: int = 64,
        *,
        rows: int | None = None,
        shuffle: bool = False,
    ) -> dict[str, Tensor]:
        """Sums of what `measure` returns, over `batches`. Runs without gradients.

        Inside `measure`, call `model.encode_image(pairs.image)` or `model.encode_text(pairs.text)` where hooks watch the
        model: those compute the whole batch on every process, so each has the same sums.
        """
        sums: dict[str, Tensor] = {}
        with torch.no_grad():
            for pairs in self.batches(split, batch_size, rows=rows, shuffle=shuffle):
                for name, value in measure(pairs).items():
                    sums[name] = sums[name] + value if name in sums else value.clone()
        return sums

    def gradients(
        self,
        loss: Callable[[DualEncoder, Pairs], Tensor],
        split: Role,
        batch_size: int = 64,
        *,
        params: Mapping[str, nn.Parameter] | None = None,
        rows: int | None = None,
        shuffle: bool = True,
    ) -> Iterator[dict[str, Tensor]]:
        """The gradient of `loss(model, pairs)` for each batch of `batches`, by parameter name; zeros where the loss does
        not depend on a parameter. The same on every process. No weight is changed.
        """
        named = dict(params) if params is not None else self.parameters()
        for pairs in self.batches(split, batch_size, rows=rows, shuffle=shuffle):
            yield gradients_of(loss(self.model, pairs), named, self.accelerator.num_processes)

    def mean_gradients(
        self,
        loss: Callable[[DualEncoder, Pairs], Tensor],
        split: Role,
        batch_size: int = 64,
        *,
        params: Mapping[str, nn.Parameter] | None = None,
        rows: int | None = None,
        squared: bool = False,
    ) -> dict[str, Tensor]:
        """The mean over batches of what `gradients` hands out, by parameter name; no weight is changed.

        Args:
            squared: square each batch's gradient first, entry by entry: the diagonal of an empirical Fisher information matrix
                with a batch in the place of a sample.
        """
        named = dict(params) if params is not None else self.parameters()
        sums = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
        batches = 0
        for gradients in self.gradients(loss, split, batch_size, params=named, rows=rows):
            batches += 1
            for name, gradient in gradients.items():
                sums[name] += gradient.square() if squared else gradient
        return {name: total / batches for name, total in sums.items()}

    def forget_similarity(self, rows: int) -> float:
        """Mean cosine of so many forget pairs, drawn from the run's seed: the same ones whenever it is asked for. Counts."""
        found = [pair_cosine(image, text) for _, image, text in self._embedded_forget(rows)]
        return float(torch.cat(found).double().mean())

    def unrelated_similarity(self, rows: int) -> float:
        """Mean cosine of so many forget images with captions of other identities: what they have in common anyway, and a goal for
        forgetting that needs no Clean model. The captions are those of the other forget rows; where all of these are of one
        identity, as in a request of one person, those of retain. Counts, and reads `identity_id`.

        Raises:
            SalmuError: all of them are of one identity, and the method does not see retain.
        """
        parts = self._embedded_forget(rows)
        identity = torch.cat([pairs.columns["identity"] for pairs, _, _ in parts])
        image = torch.cat([part[1] for part in parts])
        found = mismatched_cosine(image, torch.cat([part[2] for part in parts]), identity)
        return float(found) if torch.isfinite(found) else self.similarity_to_retain(image)

    @torch.no_grad()
    def similarity_to_retain(self, image: Float[Tensor, "n dim"]) -> float:
        """Mean cosine of image embeddings with captions of retain, none of which is theirs: at most 64 of them, and at most a tenth
        of what is left of the budget. Counts.

        Raises:
            SalmuError: the method does not see retain.
        """
        if "retain" not in self._method.reads():
            raise SalmuError(
                f"{self._method.name} cannot measure what unrelated pairs have in common: all forget pairs that it looks at are of"
                " one identity, and it sees no others.",
                "Give its goal where it has that option, or choose a method that sees retain.",
            )
        rows = self.affordable_rows("retain", 64, parts=10)
        texts = [self.model.encode_text(pairs.text).cpu() for pairs in self.batches("retain", rows, rows=rows, shuffle=True)]
        return float((image.double() @ torch.cat(texts).double().T).mean())

    @torch.no_grad()
    def _embedded_forget(self, rows: int) -> list[tuple[Pairs, Tensor, Tensor]]:
        found = []
        for pairs in self.batches("forget", 256, rows=rows, shuffle=True):
            image, text, _ = self.model(pairs)
            found.append((pairs, image.cpu(), text.cpu()))
        return found

    def parameters(self, tower: Literal["both", "image", "text"] = "both") -> dict[str, nn.Parameter]:
        """Parameters of one or both towers by name, without logit scale and bias."""
        ids = {id(parameter) for parameter in self.model.tower_parameters(tower)}
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in ids}
