"""Where in the model a thread is, for what it records."""

from __future__ import annotations

import threading
from typing import Any

from attnprof.instrument.slots import layer_of, of_step

OUTSIDE = (None, "other", 0, 0)  # of any step: what ``Here.leave`` is given


class Here:
    """Where a thread is: the model forward (``step``) it is in, and its ``place``, as slots have it.

    ``step_place`` is that without the layer. ``stage`` is "warmup" or "capture" where an engine runs its
    model on nobody's tokens; ``in_tower`` is true in a part of the model whose layers do not count.
    """

    __slots__ = ("in_tower", "phase", "place", "stage", "step", "step_place")

    def __init__(self) -> None:
        self.step: int | None = None
        self.phase = "other"
        self.place = self.step_place = 0
        self.stage: str | None = None
        self.in_tower = False

    def enter(self, step: int, phase: str) -> tuple[Any, ...]:
        """A step begins here; returns what is to be left to."""
        outer = self.step, self.phase, self.place, self.step_place
        self.step, self.phase = step, phase
        self.place = self.step_place = of_step(step)
        return outer

    def leave(self, outer: tuple[Any, ...]) -> None:
        self.step, self.phase, self.place, self.step_place = outer

    @property
    def layer(self) -> int | None:
        return layer_of(self.place)


class Context(threading.local):
    """``here`` of this thread: looked up once, then read; what is thread-local costs at each look."""

    def __init__(self) -> None:
        self.here = Here()
