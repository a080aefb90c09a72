"""What an audit may use: a copy of the model, every split, the reference models, and the training loop without a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from salmu_core.benchmark import Benchmark
from salmu_core.data.cache import DataCache
from salmu_core.data.pairs import View
from salmu_core.data.pixels import PairStore
from salmu_core.data.splits import Split
from salmu_core.evaluation.embed import embed_views
from salmu_core.method import FitOptions
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.records.schema import Target
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.fit import fit
from salmu_core.runner.fit_job import AfterStep, Fit, Loss
from salmu_core.runner.gradients import OnGradients
from salmu_core.seeding import derive_seed


class AuditContext:
    """Handed to `Audit.attack`.

    Attributes:
        model: a copy that the attack may change, on the audit's device.
        benchmark: all of its splits can be read.
        samples: pairs that `train` handed to a loss so far.
    """

    def __init__(
        self,
        model: DualEncoder,
        benchmark: Benchmark,
        accelerator: Accelerator,
        seed: int,
        name: str,
        data: DataCache | None = None,
        tell: Callable[[str, int, int], None] = lambda stage, done, total: None,
        load_reference: Callable[[Target], DualEncoder] | None = None,
    ) -> None:
        self.model = model
        self.benchmark = benchmark
        self.accelerator = accelerator
        self._seed = seed
        self._name = name
        self._data = data
        self._tell = tell
        self._fits = 0
        self._load_reference = load_reference or benchmark.load_model
        self.samples = 0

    def split(self, name: str) -> Split:
        """A split of the benchmark."""
        return self.benchmark.split(name)

    def reference(self, which: Target) -> DualEncoder:
        """The Clean or the Compromised model, on the audit's device: not to be changed.

        An audit whose attacker needs it names it in `references`. As a yardstick it may be read by any.
        """
        model = self._load_reference(which).to(self.model.device)
        model.autocast = self.model.autocast
        return model

    def images(self, split: Split, model: DualEncoder | None = None) -> Float[Tensor, "n dim"]:
        """Unit-length image embeddings of a split's rows, fp32 on the CPU.

        Args:
            model: instead of the audited one.
        """
        return self._embed(split, View(split.name, "image"), model)

    def texts(self, captions: Sequence[str], model: DualEncoder | None = None) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of any captions, fp32 on the CPU."""
        return self._embed(Split("captions", texts=list(captions)), View("captions", "text"), model)

    def _embed(self, split: Split, view: View, model: DualEncoder | None) -> Tensor:
        found = embed_views(model or self.model, _OneSplit(split), [view], None, self._tell, data=self._data)  # type: ignore[arg-type]
        return found[view].vectors

    def train(
        self,
        split: Split,
        loss: Loss,
        options: FitOptions,
        *,
        steps: int | None = None,
        model: DualEncoder | None = None,
        params: Sequence[nn.Parameter] | None = None,
        on_gradients: OnGradients | None = None,
        after_step: AfterStep | None = None,
    ) -> None:
        """Train a model on a split, through salmu's one training loop; batches are `batch.forget`, whatever the split.

        Args:
            steps: optimiser steps in the place of the options' epochs.
            model: default: the audited one.
            params: what is trained; default: the tower of `options`.
            on_gradients: changes the gradients in place before they are used.
            after_step: called after every step with its number, counted from 1; True ends the training.
        """
        model = self.model if model is None else model
        store = PairStore(split, model.processor, model.device, self._data)
        meter = SampleMeter({}, self._name)
        job = Fit(
            accelerator=self.accelerator,
            model=model,
            loss=loss,
            stores={"forget": store},
            options=options,
            steps=meter.steps(options, {"forget": len(store)}, asked=steps),
            params=model.tower_parameters(options.tower) if params is None else params,
            meter=meter,
            seed=derive_seed(self._seed, "audit", self._name),
            number=self._fits,
            on_step=lambda step, steps, values: self._tell("attack", step, steps),
            on_gradients=on_gradients,
            after_step=after_step,
        )
        self._fits += 1
        self.samples += fit(job) * min(options.batch_size, len(store))

    def generator(self, *purpose: object) -> torch.Generator:
        """A CPU generator for one purpose, seeded from the audit's seed."""
        return torch.Generator().manual_seed(derive_seed(self._seed, "audit", self._name, *purpose))


class _OneSplit:
    """The part of a benchmark that the embedding pass needs, for rows that are not a split of one."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def split(self, name: str) -> Split:
        return self._split
