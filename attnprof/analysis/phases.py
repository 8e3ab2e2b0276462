"""Where GPU time goes, prefill and decode apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnprof.observe import attention_names
from attnprof.timeline import NO_PHASE, PHASE_NAMES, Timeline
from attnprof.trace.range_names import DECODE, PREFILL


@dataclass(frozen=True, slots=True)
class PhaseTotal:
    """One phase: GPU time of all its kernels and of its attention kernels, in ns.

    ``wall_ns`` sums the CPU time of its step ranges, 0 where the trace has none. ``steps`` likewise.
    """

    phase: str
    steps: int
    kernels: int
    gpu_ns: int
    attention_kernels: int
    attention_ns: int
    wall_ns: int

    @property
    def attention_share(self) -> float | None:
        """Attention's share of the phase's GPU time, 0 to 1; None without GPU time."""
        return self.attention_ns / self.gpu_ns if self.gpu_ns else None


def phase_totals(timeline: Timeline) -> list[PhaseTotal]:
    """The phases that have kernels or step ranges: prefill, decode, then what lies outside both."""
    trace = timeline.trace
    kernels, ranges = trace.kernels, trace.ranges
    names = attention_names(trace.strings, kernels.name)
    is_attention = np.isin(kernels.name, np.fromiter(names, dtype=np.int64, count=len(names)))
    duration = kernels.end - kernels.start
    rows = []
    for code in (PREFILL, DECODE, NO_PHASE):
        mine = timeline.phase == code
        steps = _step_ranges(timeline, code)
        if not mine.any() and not len(steps):
            continue
        attention = mine & is_attention
        rows.append(
            PhaseTotal(
                phase=PHASE_NAMES[code],
                steps=len(steps),
                kernels=int(mine.sum()),
                gpu_ns=int(duration[mine].sum()),
                attention_kernels=int(attention.sum()),
                attention_ns=int(duration[attention].sum()),
                wall_ns=int((ranges.end[steps] - ranges.start[steps]).sum()),
            )
        )
    return rows


def _step_ranges(timeline: Timeline, phase: int) -> npt.NDArray[np.int64]:
    """The ranges that open a step of the phase: those whose parent is of another phase or step."""
    if phase == NO_PHASE:
        return np.zeros(0, dtype=np.int64)
    mine, step = timeline.of_range.phase, timeline.of_range.step
    parent = timeline.parent
    inside = (parent >= 0) & (mine[parent] == phase) & (step[parent] == step)
    return np.flatnonzero((mine == phase) & ~inside)
