"""What splitting the keys cost: the split kernel and the combine that follows it, per call, as observed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnprof.check.observed_calls import ObservedCalls
from attnprof.trace.timeline import PHASE_NAMES, Timeline


@dataclass(frozen=True, slots=True)
class SplitCost:
    """The observed calls of one phase with one split count; times are medians in ns, per call.

    ``rest_ns`` is what is launched around the main kernel: the combine, a scheduler; 0 without split.
    """

    phase: str
    num_splits: int
    calls: int
    main_ns: float
    rest_ns: float
    total_ns: float


def split_costs(timeline: Timeline, observed: ObservedCalls) -> list[SplitCost]:
    """A row per phase and split count, where some call was split; else nothing."""
    counts = np.array([shape.num_splits or 0 for shape in observed.shapes], np.int64)
    if not len(counts) or counts.max() < 2:
        return []
    kernels = timeline.trace.kernels
    num_splits = counts[observed.shape]
    main = kernels.end[observed.main] - kernels.start[observed.main]
    rows = []
    for phase, name in sorted(PHASE_NAMES.items()):
        for count in np.unique(num_splits[(observed.phase == phase) & (num_splits > 0)]).tolist():
            mine = (observed.phase == phase) & (num_splits == count)
            rows.append(
                SplitCost(
                    phase=name,
                    num_splits=count,
                    calls=int(mine.sum()),
                    main_ns=float(np.median(main[mine])),
                    rest_ns=float(np.median((observed.duration - main)[mine])),
                    total_ns=float(np.median(observed.duration[mine])),
                )
            )
    return rows
