"""Stands for compilers and binary extensions that a machine without a GPU does not have, so that the Python
modules above them import. Whatever is taken from them is a class that takes anything and computes nothing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and "mlir" not in name:
            raise AttributeError(name)
        return _thing(name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]  # as a decorator
        if len(args) == 3 and isinstance(args[0], str):
            return type.__call__(cls, *args)
        return _thing("made")

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    def __ror__(cls, other: Any) -> Any:
        return cls

    def __mul__(cls, other: Any) -> Any:
        return cls

    def __rmul__(cls, other: Any) -> Any:
        return cls

    def __gt__(cls, other: Any) -> bool:
        return False

    __lt__ = __ge__ = __le__ = __gt__

    def __int__(cls) -> int:
        return 0

    def __index__(cls) -> int:
        return 0

    def __iter__(cls) -> Any:
        return iter(())


def _thing(name: str) -> Any:
    return type.__new__(_Anything, name, (), {"__module__": __name__})


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        made = _thing(name)
        setattr(self, name, made)
        return made


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of these packages, or of these names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name in self._names or name.partition(".")[0] in self._names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in_for(*names: str) -> None:
    """Makes these importable."""
    sys.meta_path.insert(0, Absent(*names))
