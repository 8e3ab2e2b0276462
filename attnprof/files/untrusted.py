"""Files and values that anybody may have written: opened without waiting, checked before they are used."""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from attnprof.safety.printable import all_printable

if TYPE_CHECKING:
    import json

INT32_MAX = (1 << 31) - 1
_LARGEST = 1 << 26  # bytes of a file that is read at once
_CHUNK = 1 << 20
_WRITTEN = re.compile(rb"\S[^\n]*")

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


def read_whole(path: Path, largest: int = _LARGEST) -> bytes:
    """A file's content. Raises OSError, also for more than ``largest`` bytes: a hole of gigabytes costs
    nothing to make.
    """
    with open_regular(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it has more than {largest:,} bytes", str(path))
    return content


def written_lines(read: Callable[[int], bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """(number, content) of each line that is not blank; of blank ones any number take no time to speak of.

    ``read`` gives some of the next bytes. Raises ValueError naming a line of more than ``longest`` bytes.
    """
    left, number = b"", 1
    while True:
        part = read(_CHUNK)
        block, at, begins = left + part, 0, -1
        size = len(block)
        for found in _WRITTEN.finditer(block):
            begins, end = found.span()
            if begins != at:
                number += block.count(b"\n", at, begins)
            if end == size:
                break
            yield number, found[0]
            number, at, begins = number + 1, end + 1, -1
        if begins < 0:
            begins = size
            number += block.count(b"\n", at)
        left = block[begins:]
        if len(left) > longest:
            raise ValueError(f"{number}: a line of more than {longest:,} bytes")
        if not part:
            if left:
                yield number, left
            return


def read_json(path: Path) -> Any:
    """A JSON file, every string of it printable. Raises OSError and ValueError, nothing else."""
    return parse_json(read_whole(path))


def parse_json(text: bytes) -> Any:
    """The same of its bytes. Raises ValueError."""
    plain = text.isascii() and b"\\" not in text and b"\x7f" not in text
    import json

    try:
        encoding = "ascii" if plain and b"\0" not in text else json.detect_encoding(text)
        value = _decoder().decode(text.decode(encoding, "surrogatepass"))
        return value if plain else all_printable(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@cache
def _decoder() -> json.JSONDecoder:
    """What json.loads would make for each text anew."""
    import json

    return json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is beyond what a number can be")
    return value


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
