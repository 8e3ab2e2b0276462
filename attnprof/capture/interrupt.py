"""Signals that ask a recording to end: gently the first time, at once the second."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from attnprof.errors import CaptureError

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_S = 0.5  # timeout(1) and some shells send one request twice


class InterruptError(CaptureError):
    """A recording was ended on a signal; exit code 128 + signal."""

    def __init__(self, number: signal.Signals, when: str) -> None:
        super().__init__(f"interrupted {when}: nothing was kept", exit_code=128 + number)


class Interruption:
    """Whether this process was asked to end: ``number`` is the first signal's, None as long as there is none.

    ``gently``: the first request is only noted. A second one, or any where not gentle, raises InterruptError.
    """

    def __init__(self, *, gently: bool = False) -> None:
        self.number: signal.Signals | None = None
        self._gently = gently
        self._since = 0.0

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """The signal handler."""
        if self.number is not None and time.monotonic() - self._since < _SAME_S:
            return
        again, self._since = self.number is not None, time.monotonic()
        self.number = signal.Signals(number)
        if again or not self._gently:
            for heard in _HEARD:  # nothing more may stop the tidying up
                signal.signal(heard, signal.SIG_IGN)
            raise InterruptError(self.number, f"{'again ' if again else ''}by {self.number.name}")


@contextmanager
def interruptible(*, gently: bool = False) -> Iterator[Interruption]:
    """Hears the signals inside the block, but those that were ignored; only the main thread can."""
    interruption = Interruption(gently=gently)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    heard = [number for number in _HEARD if signal.getsignal(number) != signal.SIG_IGN]  # nohup, and `&`
    before = {number: signal.signal(number, interruption.hear) for number in heard}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
