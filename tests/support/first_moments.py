"""The first moments of a command, in which nobody hears a signal but Python."""

from __future__ import annotations

import itertools

# Lines of attnprof/__main__.py: when the last of them is done, signals are heard.
_FIRST = ("import sys", "from attnprof.machine import stop_signals", "stop_signals.hear()")


def before_signals_are_heard(said: str) -> bool:
    """Whether a command ended with Python's own traceback of a Ctrl-C, from before attnprof heard signals."""
    lines = said.rstrip().splitlines()
    if not lines or lines[-1] != "KeyboardInterrupt":
        return False
    ours = [after for before, after in itertools.pairwise(lines) if "/attnprof/__main__.py" in before]
    return not ours or ours[-1].strip() in _FIRST
