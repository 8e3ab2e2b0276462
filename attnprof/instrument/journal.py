"""Attention calls as they are made, in memory that outlives the process: kept whatever ends it.

Two shared files: "calls" holds a slot per call (``slots``), at its ``seq``; "texts" holds JSON lines, one per
kind of call, step and fact. A call of a known kind, as those of all layers in a decode step, costs a slot.
``attnprof.capture.saved_calls`` reads it.
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
SLOT = struct.Struct("<Q")
_CHUNK = 1 << 20  # bytes had at a time, before they are written: a page that cannot be had would be a SIGBUS
_encode = json.JSONEncoder(default=str, check_circular=False).encode


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
        self.slots = self._viewed()
        self._last: tuple[Describe, tuple[Any, ...]] | None = None
        self._lock = threading.RLock()
        self._end = 0

    def kind(self, describe: Describe, arguments: tuple[Any, ...]) -> None:
        """One more kind of call: they count from 1. It must compare and print without asking a device."""
        kind = describe, arguments
        with self._lock:
            alike = kind == self._last
            named = {"describe": describe.__module__, "arguments": arguments}
            self._write({"alike": True} if alike else named)
            self._last = kind

    def _viewed(self) -> memoryview[int]:
        return memoryview(self._calls.memory)[FORKED.size :].cast("Q")

    def with_slots(self, wanted: int) -> memoryview[int]:
        """``slots``, at least so many. Who writes to those of before raises ValueError from now on."""
        self.slots.release()  # what is looked at cannot grow
        try:
            self._calls.grow(FORKED.size + wanted * SLOT.size)
        finally:
            self.slots = self._viewed()
        return self.slots

    def take_slots(self) -> list[int]:
        """What they hold, for who goes on without; nobody writes to them any more."""
        self.slots.release()
        return self._viewed().tolist()

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
