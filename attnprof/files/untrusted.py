"""Files and values that anybody may have written: opened without waiting, checked before they are used."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

from attnprof.safety.printable import all_printable

INT32_MAX = (1 << 31) - 1

# A type, or a tuple of them; [shape] for a list of such, {key: shape} for an object, {"*": shape} for one
# whose keys are free. Keys may be missing, others are left alone; null is a key's value that is not there.
Shape = Any


def open_regular(path: Path) -> IO[bytes]:
    """A file opened to be read. Raises OSError, also for a pipe, which may never end, and for a device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> Any:
    """A JSON file, every string of it printable. Raises OSError and ValueError, nothing else."""
    with open_regular(path) as file:
        return parse_json(file.read())


def parse_json(text: bytes) -> Any:
    """The same of its bytes. Raises ValueError."""
    plain = text.isascii() and b"\\" not in text and b"\x7f" not in text
    try:
        value = json.loads(text, parse_constant=_no_constant)
        return value if plain else all_printable(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def require_shape(value: Any, shape: Shape, where: str) -> None:
    """Raises ValueError naming what is of another type, or a number beyond 32 bits, below ``where``."""
    if _fits(value, shape):
        return
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is {_told(value)}, not a list")
        for number, item in enumerate(value):
            if item is None:
                raise ValueError(f"{where}[{number}] is null")
            require_shape(item, shape[0], f"{where}[{number}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {_told(value)}, not an object")
        for key in value if "*" in shape else shape.keys() & value.keys():
            require_shape(value[key], shape.get(key, shape.get("*")), f"{where}.{key}")
    else:
        raise ValueError(f"{where} is {_told(value)}")


def _fits(value: Any, shape: Shape) -> bool:
    """Whether :func:`require_shape` has nothing to say, found without naming all that is looked at."""
    if value is None:
        return True
    if shape is int:
        return _is_count(value)
    if isinstance(shape, list):
        return isinstance(value, list) and all(item is not None and _fits(item, shape[0]) for item in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        keys = value if "*" in shape else shape.keys() & value.keys()
        return all(_fits(value[key], shape[key if key in shape else "*"]) for key in keys)
    return isinstance(value, shape)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= INT32_MAX


def _told(value: Any) -> str:
    """A value in few words."""
    shown = f"{type(value).__name__} of {len(value)}" if isinstance(value, (list, dict)) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
