"""Where in the model a thread is, for what it records."""

from __future__ import annotations

import threading


class Here:
    """Where a thread is: the model forward (step) and the layer it is in.

    ``stage`` is "warmup" or "capture" where an engine runs its model on nobody's tokens; ``in_tower`` is
    true in a part of the model whose layers are not those that count.
    """

    __slots__ = ("in_tower", "layer", "phase", "stage", "step")

    def __init__(self) -> None:
        self.step: int | None = None
        self.phase = "other"
        self.layer: int | None = None
        self.stage: str | None = None
        self.in_tower = False


class Context(threading.local):
    """``here`` of this thread: looked up once, then read; what is thread-local costs at each look."""

    def __init__(self) -> None:
        self.here = Here()
