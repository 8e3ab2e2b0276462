"""What each range holds: the calls and the ranges inside it, lane by lane."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from attnprof.trace.range_nesting import Lane
from attnprof.trace.tables import ApiCalls, GraphNodes, Int32, Int64, Ranges


@dataclass(frozen=True, slots=True)
class Held:
    """Rows of a table and, for each, the innermost member of a lane that holds it, as index in the lane."""

    lane: Lane
    rows: Int64 | Int32
    within: Int64 | Int32

    @property
    def ranges(self) -> Int32:
        """The holding ranges, as indices into the trace's table."""
        return self.lane.members[self.within]


def calls_inside(nested: list[Lane], calls: ApiCalls | GraphNodes, launching: Int64) -> list[Held]:
    """The launching calls, or captured nodes, inside ranges of each lane."""
    held = moments_inside(nested, calls.thread[launching], calls.start[launching], calls.end[launching])
    return [Held(one.lane, launching[one.rows], one.within) for one in held]


def moments_inside(nested: list[Lane], thread: Int64, start: Int64, end: Int64) -> list[Held]:
    """The intervals on threads that are inside ranges of each lane, by their place in the arrays."""
    held = []
    for one, group in groupby(nested, key=lambda lane: lane.thread):
        mine = np.flatnonzero(thread == one)
        begin, close = (start, end) if len(mine) == len(thread) else (start[mine], end[mine])
        held += [_hold(lane, mine, begin, close) for lane in group]
    return held


def ranges_inside(nested: list[Lane]) -> list[Held]:
    """The ranges inside other ranges of their thread, once per lane that holds them."""
    held = []
    for _, group in groupby(nested, key=lambda lane: lane.thread):
        same = list(group)
        for outer in same:
            inside = np.flatnonzero(outer.parent >= 0)
            held.append(Held(outer, outer.members[inside], outer.parent[inside]))
        if len(same) == 1:
            continue
        members, start, end = (
            np.concatenate([getattr(lane, name) for lane in same]) for name in ("members", "start", "end")
        )
        of = np.repeat(np.arange(len(same)), [len(lane.members) for lane in same])
        for number, outer in enumerate(same):
            others = of != number
            held.append(_hold(outer, members[others], start[others], end[others], members[others]))
    return held


def _hold(lane: Lane, rows: Int64 | Int32, start: Int64, end: Int64, before: Int32 | None = None) -> Held:
    within = lane.innermost(start, end, before)
    inside = within >= 0
    return Held(lane, rows[inside], within[inside])


def latest(held: list[Held], rows: int, instead: Int32 | None = None) -> Int32:
    """The range that started last among those around each row, -1 for none.

    ``instead`` gives, per range, the one that counts in its stead.
    """
    found = np.full(rows, -1, np.int32)
    for one in held:
        ranges = one.ranges if instead is None else instead[one.ranges]
        found[one.rows] = ranges if len(held) == 1 else np.maximum(found[one.rows], ranges)
    return found


def tightest(held: list[Held], ranges: Ranges) -> Int32:
    """Of the ranges inside others, the shortest range around each, -1 for none."""
    found = np.full(len(ranges), -1, np.int32)
    length = np.full(len(ranges), np.iinfo(np.int64).max)
    for one in held:
        around = one.ranges
        spans = ranges.end[around] - ranges.start[around]
        better = spans < length[one.rows]
        rows = one.rows[better]
        found[rows], length[rows] = around[better], spans[better]
    return found


def gathered(held: list[Held], num_ranges: int, rule: np.ufunc, per_call: Int64, empty: int) -> Int64:
    """The calls' values brought together by ``rule`` in every range that holds them."""
    gathered = np.full(num_ranges, empty, np.int64)
    for one in held:
        lane = one.lane
        values = np.full(len(lane.members), empty, np.int64)
        rule.at(values, one.within, per_call[one.rows])
        for here in lane.by_level[:0:-1]:
            rule.at(values, lane.parent[here], values[here])
        gathered[lane.members] = values
    return gathered
