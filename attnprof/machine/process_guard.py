"""Nothing outlives attnprof: a process that waits beside it ends what it started, should it be killed."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attnprof.machine.processes import carrying

MARK = "ATTNPROF_GUARDED"  # in the environment of all that is started in the block, to find it by
_LISTEN_S = 1.0  # to end when asked to, before being ended
_GIVES_UP_S = 30.0
_POLL_S = 0.02
_SILENT = 5  # looks that find nothing: a process in the midst of an exec shows no environment


@contextmanager
def guarded() -> Iterator[None]:
    """Where this process is killed in the block, every process that it has started there ends with it.

    One that is still running at the end of the block is left alone.
    """
    mark, before = uuid.uuid4().hex, os.environ.get(MARK)
    waits, lives = os.pipe()
    begins, begun = os.pipe()
    guard = os.fork()
    if guard == 0:
        os.close(lives)
        _guard(waits, f"{MARK}={mark}")
    os.close(waits)
    os.close(begun)
    os.read(begins, 1)  # ends when the guard has closed its copies of our descriptors, and of our locks
    os.close(begins)
    os.environ[MARK] = mark
    try:
        yield
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
        with suppress(BrokenPipeError):
            os.write(lives, b".")
        os.close(lives)
        os.waitpid(guard, 0)


def _guard(waits: int, variable: str) -> None:
    """Waits for a byte, or for the end of the process that would have written it. Never returns."""
    try:
        os.setsid()  # a terminal's signals, and one for the whole group, are for the others
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # who reads our output shall not wait for this process
            os.dup2(nowhere, descriptor)
        # Locks are held as long as any copy of their descriptors is open.
        for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
            if descriptor > 2 and descriptor != waits:
                with suppress(OSError):
                    os.close(descriptor)
        if not os.read(waits, 1):
            _end_carriers(variable)
    finally:
        os._exit(0)


def _end_carriers(variable: str) -> None:
    began, silent = time.monotonic(), 0
    asked: set[int] = set()
    while silent < _SILENT and (waited := time.monotonic() - began) < _GIVES_UP_S:
        left, patient = set(carrying(variable)), waited < _LISTEN_S
        for pid in left - asked if patient else left:
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM if patient else signal.SIGKILL)
        asked |= left
        silent = 0 if left else silent + 1
        time.sleep(_POLL_S)
