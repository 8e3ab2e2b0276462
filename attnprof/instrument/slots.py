"""One number per attention call, at its ``seq``: its kind, and the step and the layer it was made in."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnprof.instrument.journal import Journal

# From the lowest bit: the number of the kind, from 1, in 24 bits; the step, from 1, in 28; the layer, from 1,
# in 12. 0 is none. A run would need years for more steps and 8 GB for more kinds.
_STEP, _LAYER, _BITS = 24, 52, 64
MOST_KINDS = (1 << _STEP) - 1


def of_step(step: int) -> int:
    """The part of a slot that a step is; as none beyond what there is room for."""
    return step + 1 << _STEP if step + 1 < 1 << (_LAYER - _STEP) else 0


def of_layer(layer: int) -> int:
    """The part of a slot that a layer is; as ``of_step``."""
    return layer + 1 << _LAYER if layer + 1 < 1 << (_BITS - _LAYER) else 0


def layer_of(at: int) -> int | None:
    return (at >> _LAYER) - 1 if at >> _LAYER else None


def opened(slot: int) -> tuple[int, int | None, int | None]:
    """(kind, step, layer) of a slot; (0, None, None) of one that is empty."""
    step = slot >> _STEP & (1 << (_LAYER - _STEP)) - 1
    return slot & MOST_KINDS, step - 1 if step else None, layer_of(slot)


class Slots:
    """The slots of a process: in its journal's memory, where it has one with room for them, else its own.

    Who makes a call writes to ``memory[seq]``. That raises IndexError beyond the end and ValueError while it
    grows; ``put`` then writes it.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal, self._lock = journal, threading.Lock()
        self.memory: Any = array("Q") if journal is None else journal.slots

    def put(self, seq: int, slot: int) -> None:
        with self._lock:
            if seq >= len(self.memory):
                self._grow(seq + 1)
            self.memory[seq] = slot

    def _grow(self, wanted: int) -> None:
        if self._journal is not None:
            try:
                self.memory = self._journal.with_slots(wanted)
                return
            except OSError:
                self.memory = array("Q", self._journal.take_slots())
                self._journal = None
        self.memory.extend([0] * max(1024, wanted - len(self.memory), len(self.memory) // 4))

    def calls(self) -> Iterator[tuple[int, int, int | None, int | None]]:
        """(seq, kind, step, layer) of each call."""
        return ((seq, *opened(slot)) for seq, slot in enumerate(self.memory) if slot)

    def __len__(self) -> int:
        slots: list[int] = self.memory.tolist()
        return len(slots) - slots.count(0)
