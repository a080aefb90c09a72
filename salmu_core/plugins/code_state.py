"""Which functions and constants salmu, its plugins and the libraries under them consist of, to notice when one is replaced."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Collection, Iterator
from itertools import chain, repeat
from operator import attrgetter, getitem, is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from pydantic_core import SchemaValidator

#: Modules of libraries that scores rest on.
_LIBRARIES = {
    "accelerate.accelerator", "builtins", "copy", "copyreg", "ftfy", "functools", "hashlib", "io", "itertools", "json", "json.decoder",
    "json.encoder", "math", "numpy", "numpy.linalg", "numpy.random", "open_clip.model", "open_clip.transformer",
    "open_clip.tokenizer", "open_clip.transform", "os", "pathlib", "PIL.Image", "posixpath", "random", "safetensors.torch",
    "shutil", "statistics", "struct", "time", "torch", "torch._tensor", "torch.linalg", "torch.nn.functional",
    "torch.nn.init", "torch.nn.modules.activation", "torch.nn.modules.container", "torch.nn.modules.conv",
    "torch.nn.modules.dropout", "torch.nn.modules.linear", "torch.nn.modules.module", "torch.nn.modules.normalization",
    "torch.nn.modules.sparse", "torch.nn.parameter", "torch.nn.utils.clip_grad", "torch.optim.adam", "torch.optim.adamw",
    "torch.optim.optimizer", "torch.optim.sgd", "torchvision.transforms.functional", "torchvision.transforms.transforms",
    "xxhash",
}  # fmt: skip
#: NumPy's functions are not Python functions to Python: ufuncs, dispatchers and what Cython made.
_CODE = frozenset(
    {FunctionType, BuiltinFunctionType, MethodType, classmethod, staticmethod, property}
    | {type(functools.cache(len)), np.ufunc, type(np.mean), type(np.random.default_rng), type(np.random.rand)}
    | {SchemaValidator}  # what the defaults of options are compiled into
)
_CONSTANTS = frozenset({bool, int, float, complex, str, bytes, tuple, frozenset, type(None)})
#: What is compared in libraries: code, and constants that they do not use as switches of their own.
_THEIRS = _CODE | {float, tuple, torch.dtype}
#: What is compared in salmu's own modules and in plugins: which module a name stands for, too.
_OURS = _CODE | _CONSTANTS | {ModuleType}
_BUILTINS = frozenset(vars(builtins))
_MISSING = object()
_BODY = [attrgetter(name) for name in ("__code__", "__defaults__", "__kwdefaults__")]
#: Top-level modules whose code is compared: salmu's own, and those of every plugin that was registered.
watched = {"salmu_core"}


class _Held:
    """What one module or class held. Looking whether that is still so is many times quicker than taking it anew."""

    def __init__(self, owner: Any, ours: bool) -> None:
        self.owner, self.ours, self.now = owner, ours, vars(owner)
        self.names, self.types = [*self.now], [*map(type, self.now.values())]
        kinds = _OURS if ours else _THEIRS
        self.kept = {name: value for name, value in self.now.items() if _compared(name, value, kinds)}
        self.values = [*self.kept.values()]
        self.functions = [value for value in self.values if isinstance(value, FunctionType)]
        self.covered = ours or isinstance(owner, type)
        # Tables may grow, as caches do. What stands in them stays: in those of libraries, where all of it is code or types.
        tables = [(name, value) for name, value in self.now.items() if type(value) is dict and isinstance(owner, ModuleType)]
        theirs = {type, *_THEIRS}
        self.tables = [n for n, v in tables if (n.isupper() if ours else v and {*map(type, v.values())} <= theirs)]

    def unchanged(self) -> bool:
        """Is all that is compared what it was? By identity: no code of a plugin is asked."""
        return len(self.now) == len(self.names) and all(map(is_, map(self.now.get, self.kept), self.values))

    def current(self) -> bool:
        """Would another look find the same?"""
        return self.unchanged() and [*self.now] == self.names and [*map(type, self.now.values())] == self.types


#: What the last look found, which serves the next one where it still holds: few modules change between two runs.
_last: dict[str, list[_Held]] = {}


class CodeState:
    """What modules and classes held when this was made: those that are `watched`, and libraries."""

    def __init__(self) -> None:
        global _last
        found: dict[str, list[_Held]] = {}
        for name, module in list(sys.modules.items()):
            ours = name.partition(".")[0] in watched
            if isinstance(module, ModuleType) and (ours or name in _LIBRARIES):
                found[name] = _look(module, ours, _last.get(name))
        _last = found
        self._modules = {name: held[0].owner for name, held in found.items()}
        self._held = [item for held in found.values() for item in held]
        self._kept = (
            [*chain.from_iterable(repeat(item.now, len(item.kept)) for item in self._held)],
            [*chain.from_iterable(item.kept for item in self._held)],
            [*chain.from_iterable(item.values for item in self._held)],
        )
        self._functions = [function for item in self._held for function in item.functions]
        self._bodies = [[*map(read, self._functions)] for read in _BODY]
        self._tables = [(item.now, name, item.now[name], item.owner) for item in self._held for name in item.tables]
        self._entries = [dict(table) for _, _, table, _ in self._tables]

    def put_back(self, own: str = "") -> list[str]:
        """Put back what was replaced, deleted or covered by another of the same name.

        Args:
            own: a top-level module whose code may change itself.

        Returns:
            Its names.
        """
        found = []
        for name, module in self._modules.items():
            # One that was deleted would be made a second time, with classes that are not those of the first.
            if sys.modules.get(name) is not module and not _of(module, own):
                sys.modules[name] = module
                found.append(f"the module {name}")
        changed = [] if self._all_unchanged() else [item for item in self._held if not item.unchanged()]
        for item in changed:
            for name, value in item.kept.items():
                now = item.now.get(name, _MISSING)
                if now is not value and not _harmless(item.owner, value, now) and not _of(item.owner, own):
                    setattr(item.owner, name, value)
                    found.append(_called(item.owner, name))
        alike = [all(map(is_, map(read, self._functions), kept)) for read, kept in zip(_BODY, self._bodies, strict=True)]
        for function, *body in () if all(alike) else zip(self._functions, *self._bodies, strict=True):
            replaced = not all(map(is_, (read(function) for read in _BODY), body))
            if replaced and not _within(str(function.__module__), own):
                function.__code__, function.__defaults__, function.__kwdefaults__ = body
                found.append(f"{function.__module__}.{function.__qualname__}")
        for (held, name, table, module), entries in zip(self._tables, self._entries, strict=True):
            same = held.get(name) is table and all(map(is_, map(table.get, entries, repeat(_MISSING)), entries.values()))
            if not same and not _of(module, own):
                table.update(entries)
                setattr(module, name, table)
                found.append(_called(module, name))
        for item in changed:
            if item.covered and len(item.now) != len(item.names) and not _of(item.owner, own):
                for name in list(_covering(item.owner, frozenset(item.names))):
                    delattr(item.owner, name)
                    found.append(_called(item.owner, name))
        return found

    def _all_unchanged(self) -> bool:
        """`unchanged` of everything, in one go."""
        where, names, values = self._kept
        try:
            same = all(map(is_, map(getitem, where, names), values))
        except KeyError:  # one was deleted
            return False
        return same and all(len(item.now) == len(item.names) for item in self._held)


def _look(module: ModuleType, ours: bool, last: list[_Held] | None) -> list[_Held]:
    """A module and the classes that it defines; what an earlier look found, as far as it still holds."""
    if last is not None and last[0].owner is module and last[0].ours == ours and last[0].current():
        return [item if item.current() else _Held(item.owner, ours) for item in last]
    classes = [
        value
        for value in list(vars(module).values())
        if isinstance(value, type) and value.__module__ == module.__name__ and value.__module__ != "builtins"
    ]
    return [_Held(owner, ours) for owner in (module, *classes)]


def _of(owner: Any, top: str) -> bool:
    return _within(owner.__name__ if isinstance(owner, ModuleType) else owner.__module__, top)


def _within(module: str, top: str) -> bool:
    return bool(top) and top != "salmu_core" and module.partition(".")[0] == top


def _compared(name: str, value: Any, kinds: Collection[type]) -> bool:
    """Code, and constants but for those that Python itself keeps and changes when something is first looked at."""
    kind = type(value)
    if kind in kinds:
        return kind in _CODE or not name.startswith("__")
    return isinstance(value, type)


def _harmless(owner: Any, before: Any, now: Any) -> bool:
    """An equal constant; or a library that replaced its own code, as torch does when it first compiles."""
    if type(before) in _CONSTANTS:
        return type(before) is type(now) and bool(before == now)
    return now is not _MISSING and _of_its_library(owner, now)


def _of_its_library(owner: Any, value: Any) -> bool:
    """Is this code of the library whose module or class holds it?"""
    library = _called(owner, "").partition(".")[0]
    home = str(getattr(sys.modules.get(library), "__path__", [""])[0])
    file = str(getattr(getattr(value, "__code__", None), "co_filename", ""))
    return library not in watched and bool(home) and file.startswith(home)


def _covering(owner: Any, before: frozenset[str]) -> Iterator[str]:
    """New names that hide others: of a builtin in a module, of a base class in a class."""
    for name, value in list(vars(owner).items()):
        if name in before or not (callable(value) or isinstance(value, property | classmethod | staticmethod)):
            continue
        if _of_its_library(owner, value):
            continue
        if isinstance(owner, ModuleType):
            if name in _BUILTINS:
                yield name
        elif not name.startswith(("__pydantic", "_abc_", "__abstract")) and any(
            name in vars(base) for base in owner.__mro__[1:] if base is not object
        ):
            yield name


def _called(owner: Any, name: str) -> str:
    home = owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
    return f"{home}.{name}" if name else home
