"""A method, run on the toy benchmark under observation. Every run is done once, however many checks look at it."""

from __future__ import annotations

import copy
import io
import tempfile
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float, Int
from torch import Tensor

from salmu_authors.testing.contract import NotApplicable, NotReached
from salmu_authors.testing.registry import installed_method, registry_with
from salmu_authors.testing.watch import BenchmarkAccess, fixed_randomness, watched_benchmarks
from salmu_core.benchmark import evaluation_locked
from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import Pairs, Role
from salmu_core.data.pixels import PairStore
from salmu_core.errors import BudgetExceeded, Diverged, EvaluationLocked
from salmu_core.method import UnlearningMethod
from salmu_core.models.dual_encoder import DualEncoder
from salmu_core.models.processor import Processor, forget_tokenizers
from salmu_core.options import OneOf
from salmu_core.plugins.calls import plugin_code
from salmu_core.plugins.loading import Entry
from salmu_core.plugins.process_state import ProcessState
from salmu_core.records.schema import RunRecord
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.checkpoints import Checkpoints
from salmu_core.runner.context import UnlearnContext

ROLES: tuple[Role, ...] = ("forget", "retain")


@cache
def _toy_model() -> DualEncoder:
    return Toy().load_model("compromised")


@cache
def _read_once(role: Role) -> PairStore:
    store = PairStore(Toy().split_for(role), _toy_model().processor)
    rows = torch.arange(len(store))
    store.pixels(rows), store.tokens(rows)  # kept in the store from here on
    return store


class Meter(SampleMeter):
    """A meter that says when it moved: reading rows again after it did is another look at them."""

    events = 0

    def take(self, role: str, samples: int) -> None:
        super().take(role, samples)
        self.events += 1

    def check(self, role: str, samples: int) -> None:
        events = self.events
        super().check(role, samples)
        self.events = events


class WatchedStore(PairStore):
    """A split that notes whether it was read, and how often each row was looked at.

    One look may read pixels and tokens, for several models and several times, until the method is handed another batch or
    changes the model: then it is another.
    """

    def __init__(self, role: Role, model: DualEncoder, meter: Meter) -> None:
        # Read once for all runs; what a method could write into is this run's own.
        shared = vars(_read_once(role))
        own = {"captions": list(shared["captions"]), "codes": {n: c.clone() for n, c in shared["codes"].items()}}
        vars(self).update(shared, _tokens=shared["_tokens"].clone(), _ahead=deque(maxlen=2), **own)
        self._rows = len(own["captions"])
        self._model, self._meter = model, meter
        self._last: dict[int, tuple[int, int]] = {}
        self.looks = 0
        self.touched = False
        self.open = False  # set when the method begins

    def __len__(self) -> int:
        return self.__dict__.get("_rows") or super().__len__()

    def __getattribute__(self, name: str) -> Any:
        if name in ("captions", "codes") and object.__getattribute__(self, "__dict__").get("open"):
            self.touched = True
        return super().__getattribute__(name)

    def _look(self, index: Tensor) -> None:
        if not self.open:
            return
        self.touched = True
        now = self._meter.events, sum(parameter._version for parameter in self._model.parameters())
        for row in index.tolist():
            if self._last.get(row) != now:
                self.looks += 1
                self._last[row] = now

    def pixels(self, index: Int[Tensor, " rows"]) -> Float[Tensor, "rows 3 height width"]:
        self._look(index)
        return super().pixels(index)

    def tokens(self, index: Int[Tensor, " rows"]) -> Int[Tensor, "rows context"]:
        self._look(index)
        return super().tokens(index)

    def content(self) -> list[Any]:
        """What a method is handed, to be compared before and after."""
        rows = torch.arange(self._rows)
        closed, self.open = self.open, False
        found = [super().pixels(rows), super().tokens(rows), list(self.captions)]
        found += [codes.clone() for codes in self.codes.values()]
        self.open = closed
        return found


class WatchedContext(UnlearnContext):
    """A context that notes which splits are asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.undeclared: list[str] = []
        self.asked_clean = False

    def _store(self, split: Role) -> PairStore:
        if split not in self._method.reads() and split not in self.undeclared:
            self.undeclared.append(split)
        return super()._store(split)

    def _touch(self, split: Role) -> None:
        store = self._store(split)
        if isinstance(store, WatchedStore):
            store.touched = True

    def captions(self, split: Role) -> Any:
        self._touch(split)
        return super().captions(split)

    def columns(self, split: Role) -> Any:
        self._touch(split)
        return super().columns(split)

    def clean_model(self) -> DualEncoder:
        self.asked_clean = True
        return super().clean_model()


@dataclass
class Observed:
    """One run of a method and everything that was seen of it."""

    method: UnlearningMethod
    model: DualEncoder
    weights: dict[str, Tensor] = field(default_factory=dict)  # the model's, after the method
    grads_required: dict[str, bool] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    allowed: dict[str, int] = field(default_factory=dict)
    looks: dict[str, int] = field(default_factory=dict)
    touched: dict[str, bool] = field(default_factory=dict)
    undeclared_columns: tuple[str, ...] = ()
    undeclared: list[str] = field(default_factory=list)
    asked_clean: bool = False
    access: BenchmarkAccess = field(default_factory=BenchmarkAccess)
    drawn: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    printed: str = ""
    changed_inputs: list[str] = field(default_factory=list)
    replaced_model: bool = False
    options_changed: bool = False
    steps: int = 0
    error: Exception | None = None
    where: str = ""  # the line of the plugin that raised


class _Killed(BaseException):
    """Stands for `kill -9` in the middle of a fit."""


class _OneCheckpoint(Checkpoints):
    """Writes a checkpoint when told to."""

    now = False

    def due(self) -> bool:
        return self.now


class MethodTrial:
    """Runs of one method with the same options.

    Args:
        cls: the class.
        options: other than the defaults.
        entry: where it is registered, when it is.
    """

    def __init__(self, cls: type[UnlearningMethod], options: Mapping[str, Any], entry: Entry[Any] | None = None) -> None:
        self.kind = "method"
        self.cls: Any = cls
        self.options = dict(options)
        self.entry = entry

    def new(self, **more: Any) -> UnlearningMethod:
        """A fresh method object.

        Raises:
            NotReached: its options or its constructor do not work.
        """
        try:
            made: UnlearningMethod = self.cls(self.cls.Options(**{**self.options, **more}))
        except Exception as error:
            raise NotReached("The method cannot be made: see `class` and `constructor`.") from error
        return made

    def options_that_read(self, role: Role) -> dict[str, Any] | None:
        """The first value of one option in `search` with which the method reads that split; none: there is no such value."""
        for name, candidates in self.cls.search.items():
            values = candidates.values if isinstance(candidates, OneOf) else (candidates.low, candidates.high)
            for value in values:
                if role in self.new(**{name: value}).reads():
                    return {name: value}
        return None

    @cached_property
    def start(self) -> dict[str, Tensor]:
        """The weights that every run starts from."""
        return {name: tensor.clone() for name, tensor in _toy_model().weights().items()}

    @cached_property
    def first(self) -> Observed:
        """A run, whether it ended well or not."""
        return self.observe(self.new())

    @property
    def finished(self) -> Observed:
        """A run that ended well.

        Raises:
            NotReached: it did not.
        """
        if self.first.error is not None:
            raise NotReached("The method did not finish.")
        return self.first

    @cached_property
    def again(self) -> Observed:
        """The same run once more."""
        _ = self.finished
        return self.observe(self.new())

    def observe(self, method: UnlearningMethod, checkpoints: Checkpoints | None = None, kill_at: int = 0) -> Observed:
        """Run a method on a fresh toy model.

        Args:
            kill_at: raise in the middle, at this report of a training step; 0: never.
        """
        model = copy.deepcopy(_toy_model())
        model.processor = Processor(model.config)  # copies share it, and a method may spoil it
        meter = Meter(Toy().budget().times(1), self.cls.name)
        watched = {role: WatchedStore(role, model, meter) for role in ROLES}
        stores: dict[Role, PairStore] = {role: store for role, store in watched.items() if role in method.reads()}
        content = {role: store.content() for role, store in watched.items()}
        options = method.options.model_dump()
        seen = Observed(method, model, allowed=dict(meter.allowed))

        def tell(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
            seen.steps += stage == "unlearn"
            if isinstance(checkpoints, _OneCheckpoint):
                checkpoints.now = seen.steps == kill_at - 1
            if kill_at and seen.steps == kill_at:
                raise _Killed

        with (
            open_accelerator(cpu=True) as accelerator,
            fixed_randomness(),
            watched_benchmarks() as access,
            _watched_pairs() as handed,
            evaluation_locked(),
        ):
            ctx = WatchedContext(
                model,
                stores,
                meter,
                accelerator,
                0,
                method,
                checkpoints,
                tell,
                clean=(lambda: _clean_model(access)) if self.cls.oracle else None,
                make_method=installed_method,
            )
            for store in watched.values():
                store.open = True
                store.columns_read.clear()  # stores are kept from one trial to the next
            before, printed = ProcessState(), io.StringIO()
            own = self.cls.__module__.partition(".")[0]
            try:
                with plugin_code("It", seen.settings.append, before, own, passing=(_Killed,)), redirect_stdout(printed):
                    try:
                        method.unlearn(ctx)
                    finally:
                        seen.drawn = before.drawn()
            except _Killed:
                pass
            except Exception as error:  # the plugin's own code
                seen.error, seen.where = error, _where(error)
        for store in watched.values():
            store.open = False
        seen.access, seen.printed = access, printed.getvalue()
        try:
            seen.weights = {name: tensor.detach().clone() for name, tensor in model.weights().items()}
        except Exception as error:  # no model any more
            seen.error = seen.error or error
        seen.grads_required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        seen.samples, seen.undeclared, seen.asked_clean = dict(meter.seen), ctx.undeclared, ctx.asked_clean
        seen.undeclared_columns = ctx.undeclared_columns
        seen.looks = {role: store.looks for role, store in watched.items()}
        seen.touched = {role: store.touched for role, store in watched.items()}
        seen.replaced_model = ctx.model is not model
        seen.options_changed = method.options.model_dump() != options
        seen.changed_inputs = [role for role, store in watched.items() if not _same(content[role], store.content())]
        if any(not torch.equal(index, copy) for index, copy in handed):
            seen.changed_inputs.append("the row numbers of a batch")
        return seen

    @cached_property
    def resumed(self) -> Observed:
        """A run that was killed in the middle of its training and went on from its checkpoint.

        Raises:
            NotApplicable: it does not train.
        """
        steps = self.finished.steps
        if steps < 2:
            raise NotApplicable("It takes fewer than two training steps, so there is nothing to resume.")
        with tempfile.TemporaryDirectory() as folder:
            self.observe(self.new(), _OneCheckpoint(Path(folder)), kill_at=steps // 2 + 1)
            return self.observe(self.new(), Checkpoints(Path(folder), 1e9))

    @cached_property
    def record(self) -> RunRecord:
        """The record of a whole run through the runner, evaluation included.

        Raises:
            NotReached: the method did not finish.
        """
        from salmu_core.runner.run import Settings, run

        _ = self.finished
        forget_tokenizers()  # the runs before this one were not watched, and may have written into one
        with tempfile.TemporaryDirectory() as folder, fixed_randomness():
            settings = Settings(cache=Path(folder) / "cache", cpu=True, keep_pixels=False)
            plugins = registry_with("method", self.cls, self.entry)
            out = Path(folder) / "run"
            return run(
                self.cls.name,
                benchmark="toy",
                options=self.options,
                preset="none",
                out=out,
                settings=settings,
                plugins=plugins,
            )

    @property
    def blame(self) -> str | None:
        """The check that a run's failure belongs to, where it is not simply a bug."""
        first = self.first
        if isinstance(first.error, BudgetExceeded):
            return "budget-respected"
        if isinstance(first.error, Diverged):
            return "stays-finite"
        if isinstance(first.error, EvaluationLocked):
            return "evaluation-out-of-reach"
        if first.error is not None and first.undeclared:
            return "undeclared-data"
        if first.error is not None and first.asked_clean and not self.cls.oracle:
            return "clean-out-of-reach"
        return None


def _clean_model(access: BenchmarkAccess) -> DualEncoder:
    model = Toy().load_model("clean")
    access.clean -= 1  # through the context, as it should be
    return model


@contextmanager
def _watched_pairs() -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Row numbers of every batch that is made while this is open, and a copy of them."""
    handed: list[tuple[Tensor, Tensor]] = []
    original = Pairs.__init__

    def init(self: Pairs, store: PairStore, index: Tensor) -> None:
        original(self, store, index)
        handed.append((index, index.clone()))

    with mock.patch.object(Pairs, "__init__", init):
        yield handed


def _same(before: list[Any], after: list[Any]) -> bool:
    return all(
        torch.equal(old, new) if isinstance(old, Tensor) else old == new for old, new in zip(before, after, strict=True)
    )


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "salmu_core" not in Path(frame.filename).parts]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
