"""What a trial capture of a tiny program with one NVTX range showed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrialCapture:
    """``ranges`` is how many of the one range arrived. ``error`` says why there is no export at all, ``fix``
    what to do about it where that is known.

    ``timed_out``: the recorder was ended because it had not finished in time.
    """

    ranges: int
    seconds: float
    error: str = ""
    fix: str = ""
    timed_out: bool = False
    notes: tuple[str, ...] = ()


TryCapture = Callable[[Path], TrialCapture]  # with the nsys of this path
