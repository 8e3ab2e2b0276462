"""Layers without attention in a step, where the rest of its generation says that they have some.

Not every step has every layer: a trace begins and ends inside one, and a shorter model may run by itself, or
in turns with a longer one whose candidates it makes. Its layers end sooner, so the last layers of a step are
missed only where they attend in all other steps of the generation, or until this one.
"""

from __future__ import annotations

import numpy as np

from attnprof.check.observed_calls import Bool, Int64
from attnprof.trace.range_names import PREFILL


def find_missing(present: Bool, layer: int, phase: Int64) -> list[int]:
    """The steps in which a layer misses its attention; ``present``: by step and layer, where it has some."""
    has = present[:, layer]
    begins = (phase == PREFILL) & np.append(True, phase[:-1] != PREFILL)
    generation = np.cumsum(begins)
    found = []
    for step in np.flatnonzero(~has).tolist():
        others = np.flatnonzero(present[step])
        if step == 0 and layer < others[0]:
            continue  # the trace begins inside it
        inside, last = bool(others[0] < layer < others[-1]), layer > others[-1]
        if last and step == len(phase) - 1:
            continue  # the trace ends inside it
        mine = generation == generation[step]
        mine[step] = False
        if not mine.any():  # a prompt alone: as others of its phase
            mine = (phase == phase[step]) & (np.arange(len(phase)) != step)
            others_of_phase = np.count_nonzero(mine)
            if inside or (others_of_phase > 1 and 2 * np.count_nonzero(has[mine]) > others_of_phase):
                found.append(step)
        elif has[mine].any():
            before = mine & (np.arange(len(phase)) < step)
            kept = has[mine].all() or (
                before.any() and has[: step + 1][before[: step + 1]].all() and not has[mine & ~before].any()
            )
            if not last or kept:
                found.append(step)
    return found
