"""What was tried on this machine: a capture of a tiny program with one NVTX range, a tiny generation."""

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


@dataclass(frozen=True, slots=True)
class TrialGeneration:
    """``found``: how its steps were labelled. ``error``: why that is wrong, or why there are none."""

    found: str
    error: str = ""


TryGeneration = Callable[[], TrialGeneration]
TryCapture = Callable[[Path], TrialCapture]  # with the nsys of this path
