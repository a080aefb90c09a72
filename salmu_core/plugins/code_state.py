"""Which functions and constants salmu, its plugins and the libraries under them consist of, to notice when one is replaced."""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Collection, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from pydantic_core import SchemaValidator

#: Modules of libraries that scores rest on.
_LIBRARIES = (
    "accelerate.accelerator",
    "builtins",
    "copy",
    "ftfy",
    "functools",
    "hashlib",
    "io",
    "itertools",
    "json",
    "json.decoder",
    "json.encoder",
    "math",
    "numpy",
    "numpy.linalg",
    "numpy.random",
    "open_clip.model",
    "open_clip.transformer",
    "open_clip.tokenizer",
    "open_clip.transform",
    "os",
    "pathlib",
    "PIL.Image",
    "posixpath",
    "random",
    "safetensors.torch",
    "shutil",
    "statistics",
    "struct",
    "time",
    "torch",
    "torch._tensor",
    "torch.linalg",
    "torch.nn.functional",
    "torch.nn.init",
    "torch.nn.modules.activation",
    "torch.nn.modules.container",
    "torch.nn.modules.conv",
    "torch.nn.modules.dropout",
    "torch.nn.modules.linear",
    "torch.nn.modules.module",
    "torch.nn.modules.normalization",
    "torch.nn.modules.sparse",
    "torch.nn.parameter",
    "torch.nn.utils.clip_grad",
    "torch.optim.adam",
    "torch.optim.adamw",
    "torch.optim.optimizer",
    "torch.optim.sgd",
    "torchvision.transforms.functional",
    "torchvision.transforms.transforms",
    "xxhash",
)
#: NumPy's functions are not Python functions to Python: ufuncs, dispatchers and what Cython made.
_CODE = frozenset(
    {FunctionType, BuiltinFunctionType, MethodType, classmethod, staticmethod, property}
    | {type(functools.cache(len)), np.ufunc, type(np.mean), type(np.random.default_rng), type(np.random.rand)}
    | {SchemaValidator}  # what the defaults of options are compiled into
)
_CONSTANTS = frozenset({bool, int, float, complex, str, bytes, tuple, frozenset, type(None)})
#: What is compared in salmu's own modules and in plugins: which module a name stands for, too.
_OURS = _CODE | _CONSTANTS | {ModuleType}
_BUILTINS = frozenset(vars(builtins))
_MISSING = object()
#: Top-level modules whose code is compared: salmu's own, and those of every plugin that was registered.
watched = {"salmu_core"}


class CodeState:
    """What modules and classes held when this was made: those that are `watched`, and libraries."""

    def __init__(self) -> None:
        self._kept: list[tuple[Any, dict[str, Any]]] = []
        self._bodies: list[tuple[FunctionType, Any, Any, Any]] = []
        self._names: list[tuple[Any, frozenset[str]]] = []
        self._tables: list[tuple[ModuleType, str, dict[Any, Any], dict[Any, Any]]] = []
        self._modules: dict[str, ModuleType] = {}
        for name, module in list(sys.modules.items()):
            ours = name.partition(".")[0] in watched
            if isinstance(module, ModuleType) and (ours or name in _LIBRARIES):
                self._modules[name] = module
                self._take(module, ours)

    def _take(self, module: ModuleType, ours: bool) -> None:
        owners: list[Any] = [module]
        owners += [
            value
            for value in list(vars(module).values())
            if isinstance(value, type) and value.__module__ == module.__name__ and value.__module__ != "builtins"
        ]
        for owner in owners:
            held = vars(owner)
            if ours or isinstance(owner, type):
                self._names.append((owner, frozenset(held)))
            kinds = _OURS if ours else _CODE
            self._kept.append((owner, {name: value for name, value in held.items() if _compared(name, value, kinds)}))
            if ours and owner is module:
                # Tables may grow, as caches do. What stands in them stays.
                self._tables += [
                    (module, name, value, dict(value))
                    for name, value in held.items()
                    if type(value) is dict and name.isupper()
                ]
            self._bodies += [
                (value, value.__code__, value.__defaults__, value.__kwdefaults__)
                for value in held.values()
                if isinstance(value, FunctionType)
            ]

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
        for owner, kept in self._kept:
            held = vars(owner)
            for name, value in kept.items():
                now = held.get(name, _MISSING)
                if now is not value and not _harmless(owner, value, now) and not _of(owner, own):
                    setattr(owner, name, value)
                    found.append(_called(owner, name))
        for function, code, defaults, named in self._bodies:
            same = function.__code__ is code and function.__defaults__ is defaults and function.__kwdefaults__ is named
            if not same and not _within(str(function.__module__), own):
                function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, named
                found.append(f"{function.__module__}.{function.__qualname__}")
        for module, name, table, entries in self._tables:
            same = vars(module).get(name) is table and all(table.get(key, _MISSING) is entries[key] for key in entries)
            if not same and not _of(module, own):
                table.update(entries)
                setattr(module, name, table)
                found.append(_called(module, name))
        for owner, before in self._names:
            if len(vars(owner)) == len(before) or _of(owner, own):
                continue
            for name in list(_covering(owner, before)):
                delattr(owner, name)
                found.append(_called(owner, name))
        return found


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
