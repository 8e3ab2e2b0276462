"""Attention calls as they are made, in memory that outlives the process: kept whatever ends it.

Two shared files: "calls" holds a slot per call, at its ``seq``; "texts" holds JSON lines, one per distinct
arguments, step and fact. A call whose arguments equal the last one's, as those of all layers in a decode
step, costs a comparison and a slot. ``attnprof.capture.saved_calls`` reads it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Describe = Callable[[tuple[Any, ...]], dict[str, Any]]

FORKED = struct.Struct("<q")  # heads "calls": forked processes that made attention calls
SLOT = struct.Struct("<Iii")  # number of the arguments, from 1; step; layer; -1 for none
_CHUNK = 1 << 20  # bytes had at a time, before they are written: a page that cannot be had would be a SIGBUS
_HEAD, _SIZE, _pack = FORKED.size, SLOT.size, SLOT.pack_into
_encode = json.JSONEncoder(default=str, check_circular=False).encode
_NEVER: tuple[Any, ...] = (object(),)


def create() -> tuple[int, int] | None:
    """The descriptors of an empty journal; None where the system has no memory for one."""
    made: list[int] = []
    try:
        for name in ("attnprof-calls", "attnprof-texts"):
            made.append(os.memfd_create(name))
            os.posix_fallocate(made[-1], 0, _CHUNK)
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        return None
    return made[0], made[1]


def create_files(stem: str) -> tuple[int, int]:
    """The descriptors of an empty journal in the files STEM.calls and STEM.texts. Raises OSError."""
    made: list[int] = []
    try:
        for ending in (".calls", ".texts"):
            made.append(os.open(stem + ending, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.posix_fallocate(made[-1], 0, _CHUNK)
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    return made[0], made[1]


def has_calls(calls: int) -> bool:
    """Whether any call has been made."""
    return any(os.pread(calls, SLOT.size, FORKED.size))


class Journal:
    """The writing end. Its methods raise OSError where there is no memory for more."""

    def __init__(self, calls: int, texts: int) -> None:
        self._calls, self._texts = _Region(calls), _Region(texts)
        self._last: tuple[Describe | None, tuple[Any, ...], int] = (None, _NEVER, 0)
        self._lock = threading.RLock()
        self._count = self._end = 0

    def call(
        self, seq: int, step: int | None, layer: int | None, describe: Describe, arguments: tuple[Any, ...]
    ) -> None:
        """One call. ``arguments`` must compare and print without asking a device."""
        same, last, number = self._last
        if arguments != last or describe is not same:
            number = self._number(describe, arguments)
        start, calls = _HEAD + seq * _SIZE, self._calls
        if start + _SIZE > calls.size:
            calls.grow(start + _SIZE)
        _pack(calls.memory, start, number, -1 if step is None else step, -1 if layer is None else layer)

    def raised(self, seq: int, error: str) -> None:
        """That a call ended by an exception of this name."""
        self._write({"raised": [seq, error]})

    def step(self, step: dict[str, Any]) -> None:
        self._write({"step": step})

    def fact(self, name: str, value: Any) -> None:
        """Something about the program; the last of a name counts, of notes each."""
        self._write({"fact": [name, value]})

    def forked(self) -> None:
        """Counts a forked process that makes attention calls; it writes nothing else."""
        with suppress(ValueError):
            (count,) = FORKED.unpack_from(self._calls.memory)
            FORKED.pack_into(self._calls.memory, 0, count + 1)

    def _number(self, describe: Describe, arguments: tuple[Any, ...]) -> int:
        with self._lock:
            self._write({"describe": describe.__module__, "arguments": arguments})
            self._count += 1
            self._last = (describe, arguments, self._count)
            return self._count

    def _write(self, line: dict[str, Any]) -> None:
        text = f"{_encode(line)}\n".encode()
        with self._lock:
            end = self._end + len(text)
            if end > self._texts.size:
                self._texts.grow(end)
            self._texts.memory[self._end : end] = text
            self._end = end


class _Region:
    """A file in memory, mapped and growing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self.size = os.fstat(descriptor).st_size
        self.memory = mmap.mmap(descriptor, self.size)

    def grow(self, needed: int) -> None:
        with self._lock:
            if needed > self.size:
                wanted = -(-needed // _CHUNK) * _CHUNK
                os.posix_fallocate(self._descriptor, self.size, wanted - self.size)
                self.memory.resize(wanted)
                self.size = wanted
