"""When a GPU ran no kernel, and whether it waited for the CPU. numpy throughout, linear in the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attnprof.arrays import Narrow, blocks
from attnprof.trace.tables import Int64
from attnprof.trace.timeline import Timeline

_NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Covered:
    """How much time disjoint intervals cover up to each of some ``moments``, which ascend. All in ns."""

    moments: Int64
    time: Int64

    def within(self, begin: Int64, end: Int64) -> Int64:
        """How much of each window [begin, end] they cover; its edges must be among the moments."""
        return self._until(end) - self._until(begin)

    def _until(self, edges: Int64) -> Int64:
        return self.time[np.searchsorted(self.moments, edges)]

    def add(self, start: Int64, end: Int64) -> None:
        """Adds further intervals, disjoint and ascending."""
        if not len(start):
            return
        spent = np.cumsum(end - start)
        first, last = np.searchsorted(self.moments, (start[0], end[-1]))
        here = self.moments[first:last]
        at = np.searchsorted(start, here, side="right") - 1
        self.time[first:last] += spent[at] - np.maximum(end[at] - here, 0)
        self.time[last:] += spent[-1]


@dataclass(frozen=True, slots=True)
class Activity:
    """One GPU over time: ``busy`` while any kernel ran on it; ``waiting`` while none ran and the kernel that
    ran next had not been launched yet, its launch call included.

    ``waiting`` is None where the trace holds no launch of the GPU's kernels.
    """

    busy: Covered
    waiting: Covered | None


def activities(timeline: Timeline, since: int, edges: Int64) -> Iterator[tuple[int, Activity]]:
    """Each GPU that ran kernels, by number, for windows that begin and end at ``edges`` (ns).

    ``since`` (ns) is when the first idle time begins.
    """
    kernels, moments = timeline.trace.kernels, np.unique(edges)
    for device, mine in _by_device(kernels.device):
        gpu = _Gpu(moments, since)
        for block in blocks(len(kernels) if mine is None else len(mine)):
            rows = block if mine is None else mine[block]
            gpu.add(kernels.start[rows], kernels.end[rows], _launched(timeline, rows))
        yield device, gpu.activity()


def _by_device(device: Narrow) -> Iterator[tuple[int, Int64 | None]]:
    """The kernels of each GPU, in order; None, for all of them, where there is one GPU."""
    if not len(device) or np.all(device == device[0]):
        yield from ((int(one), None) for one in device[:1])
        return
    order = np.argsort(device, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(device[order])) + 1):
        yield int(device[rows[0]]), rows


def _launched(timeline: Timeline, rows: slice | Int64) -> Int64:
    """When the launch call of each kernel returned; _NEVER for none."""
    at, calls = timeline.launch[rows], timeline.trace.api_calls
    if not len(calls):
        return np.full(len(at), _NEVER)
    return np.where(at >= 0, calls.end[at], _NEVER)


class _Gpu:
    """What one GPU did, from its kernels block by block in order of start."""

    def __init__(self, moments: Int64, since: int) -> None:
        self._busy = Covered(moments, np.zeros(len(moments), np.int64))
        self._waiting = Covered(moments, np.zeros(len(moments), np.int64))
        self._since, self._launches = since, False
        self._open: tuple[int, int] | None = None  # the busy interval that the next block may go on with

    def add(self, start: Int64, end: Int64, launched: Int64) -> None:
        """``launched`` is when each kernel's launch call returned."""
        self._launches = self._launches or bool(np.any(launched != _NEVER))
        if self._open is None:
            self._wait(np.array([min(self._since, int(start[0]))]), start[:1], launched[:1])
            self._open = int(start[0]), int(end[0])
        begin, reached = self._open
        before = np.maximum.accumulate(np.append(reached, end))
        first = np.flatnonzero(start > before[:-1])  # those that end an idle time
        self._busy.add(np.append(begin, start[first])[:-1], before[first])
        self._wait(before[first], start[first], launched[first])
        self._open = int(start[first[-1]]) if len(first) else begin, int(before[-1])

    def _wait(self, idle: Int64, until: Int64, launched: Int64) -> None:
        """Idle times, until kernels that were launched at these moments."""
        late = np.minimum(until, launched)
        waited = late > idle
        self._waiting.add(idle[waited], late[waited])

    def activity(self) -> Activity:
        assert self._open is not None
        self._busy.add(*(np.array([edge]) for edge in self._open))
        return Activity(self._busy, self._waiting if self._launches else None)
