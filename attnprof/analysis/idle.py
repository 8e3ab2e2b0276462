"""When a GPU ran no kernel, and whether it waited for the CPU. numpy throughout, linear in the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnprof.timeline import Timeline
from attnprof.trace.model import Int32, Int64


@dataclass(frozen=True, slots=True)
class Spans:
    """Disjoint intervals in order of time; ``before`` is the time covered before each. All in ns."""

    start: Int64
    end: Int64
    before: Int64

    def within(self, begin: Int64, end: Int64) -> Int64:
        """How much of each window [begin, end] the intervals cover."""
        return self._covered(end) - self._covered(begin)

    def _covered(self, moment: Int64) -> Int64:
        """How much they cover up to each moment."""
        if not len(self.start):
            return np.zeros(len(moment), np.int64)
        at = np.searchsorted(self.start, moment, side="right") - 1
        inside = np.minimum(moment, self.end[at]) - self.start[at]
        return np.where(at < 0, 0, self.before[at] + inside)


def spans(start: Int64, end: Int64) -> Spans:
    """The disjoint, ascending intervals as Spans."""
    covered = np.cumsum(end - start)
    return Spans(start, end, covered - (end - start))


@dataclass(frozen=True, slots=True)
class Activity:
    """One GPU over time: ``busy`` while any kernel ran on it; ``waiting`` while none ran and the kernel that
    ran next had not been launched yet, its launch call included.

    ``waiting`` is None where the trace holds no launch of the GPU's kernels.
    """

    busy: Spans
    waiting: Spans | None


def activities(timeline: Timeline, since: int) -> dict[int, Activity]:
    """The GPUs that ran kernels, by number. ``since`` (ns) is when the first idle time begins."""
    kernels, launch = timeline.trace.kernels, timeline.launch
    launched = np.append(timeline.trace.api_calls.end, 0)[launch]
    return {
        device: _activity(kernels.start[mine], kernels.end[mine], launched[mine], launch[mine], since)
        for device, mine in _by_device(kernels.device)
    }


def _by_device(device: Int32) -> list[tuple[int, slice | Int64]]:
    """The kernels of each GPU, in order; all of them as one slice where there is one GPU."""
    if not len(device) or np.all(device == device[0]):
        return [(int(one), slice(None)) for one in device[:1]]
    order = np.argsort(device, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(device[order])) + 1)
    return [(int(device[rows[0]]), rows) for rows in parts]


def _activity(start: Int64, end: Int64, launched: Int64, launch: Int32, since: int) -> Activity:
    """Of one GPU's kernels in order of start; ``launched`` is when the launch call returned."""
    reached = np.maximum.accumulate(end)
    first = np.flatnonzero(np.append(True, start[1:] > reached[:-1]))
    last = np.append(first[1:], len(start)) - 1
    busy = spans(start[first], reached[last])
    if np.all(launch < 0):
        return Activity(busy, None)
    idle_from = np.append(min(since, int(start[0])), busy.end[:-1])
    until = np.where(launch[first] >= 0, np.minimum(busy.start, launched[first]), idle_from)
    late = until > idle_from
    return Activity(busy, spans(idle_from[late], until[late]))
