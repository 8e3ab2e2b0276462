"""What splitting the keys cost: the split kernel and the combine that follows it, per call, as observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnprof.analysis.layer_kinds import LayerKind, kinds_of_observed
from attnprof.arrays import distinct_rows
from attnprof.check.observed_calls import ObservedCalls
from attnprof.trace.timeline import PHASE_NAMES, Timeline


@dataclass(frozen=True, slots=True)
class SplitCost:
    """The observed calls of a phase and kind of layer with one split count; times: medians in ns, per call.

    ``kind`` is the kind's number, -1 where all layers are of one or it is not known. ``rest_ns`` is what is
    launched around the main kernel: the combine, a scheduler; 0 without split.
    """

    phase: str
    kind: int
    num_splits: int
    calls: int
    main_ns: float
    rest_ns: float
    total_ns: float


def split_costs(
    timeline: Timeline, observed: ObservedCalls, kinds: Sequence[LayerKind] = ()
) -> list[SplitCost]:
    """A row per phase, kind of layer and split count, where some call was split; else nothing."""
    counts = np.array([shape.num_splits or 0 for shape in observed.shapes], np.int64)
    if not len(counts) or counts.max() < 2:
        return []
    kernels = timeline.trace.kernels
    num_splits = counts[observed.shape]
    main = kernels.end[observed.main] - kernels.start[observed.main]
    of_kind = kinds_of_observed(observed, kinds)
    groups, of_call = distinct_rows([observed.phase, of_kind, num_splits])
    rows = []
    for number, (phase, kind, count) in enumerate(zip(*(group.tolist() for group in groups), strict=True)):
        if not count:
            continue
        mine = of_call == number
        rows.append(
            SplitCost(
                phase=PHASE_NAMES[phase],
                kind=kind,
                num_splits=count,
                calls=int(mine.sum()),
                main_ns=float(np.median(main[mine])),
                rest_ns=float(np.median((observed.duration - main)[mine])),
                total_ns=float(np.median(observed.duration[mine])),
            )
        )
    return rows
