"""Signals that ask a command to stop: it says so in one line and ends with 128 + the signal's number.

``_signal`` is what ``signal`` wraps into enumerations: it is there at once, and until signals are heard each
millisecond is one in which a Ctrl-C prints Python's traceback.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import NoReturn
else:
    import _signal as signal

_SAID: dict[int, bytes] = {
    signal.SIGINT: b"interrupted\n",
    signal.SIGTERM: b"terminated\n",
    signal.SIGHUP: b"hung up\n",
}
_SOON_S = 0.02
stopped_by: list[int] = []  # the signal that was heard first


def hear() -> dict[int, object]:
    """Hears each but those that are ignored, as after nohup; returns the handlers from before."""
    heard = [number for number in _SAID if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, _unwind) for number in heard}


def heard() -> int:
    """The exit code of the signal that was heard, 0 for none: errors that follow it are only its echo."""
    return 128 + stopped_by[0] if stopped_by else 0


def insist() -> None:
    """Where a signal comes in a callback that nothing can be raised through, it is heard a moment later."""
    shown = sys.unraisablehook

    def hook(what: sys.UnraisableHookArgs) -> None:
        if not (stopped_by and isinstance(what.exc_value, SystemExit)):
            shown(what)
            return
        signal.signal(signal.SIGALRM, _again)
        signal.setitimer(signal.ITIMER_REAL, _SOON_S)

    sys.unraisablehook = hook


def _again(signum: int, frame: FrameType | None) -> NoReturn:
    sys.exit(heard())


def at_the_end() -> None:
    """From now on there is nothing left to put in order: a signal ends the process at once."""
    for number in _SAID:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _unwind(signum: int, frame: FrameType | None) -> NoReturn:
    """So that what is half made is put in order, and no library takes it for an error of its own."""
    _say(signum)
    stopped_by.append(signum)
    sys.exit(128 + signum)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    _say(signum)
    os._exit(128 + signum)


def _say(signum: int) -> None:
    try:  # noqa: SIM105 - contextlib takes longer to import than all of this
        os.write(2, _SAID[signum])  # print may be what was interrupted
    except OSError:
        pass
