"""Which ranges lie around a moment on a thread, for all moments at once.

Ranges of one thread that nest (each two are disjoint or one holds the other) form a *lane*. Sorted by
(start, -end) a lane is a tree in preorder, and everything is a binary search. Most threads are one lane;
where domains interleave or start/end ranges overlap there are several, each with its own innermost range, but
at most MOST_LANES of one kind on one thread: what overlaps still more ranges without nesting is in none.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from attnprof.arrays import Narrow, narrowest
from attnprof.trace.tables import Bool, Int32, Int64, Ranges

MOST_LANES = 256
_DEEP = 64  # levels from which on ancestors are looked up by leaps
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Lane:
    """Nesting ranges of one thread: their indices in the trace's table and their tree.

    ``parent`` (index within the lane, -1 for none) and ``level`` are per member.
    """

    thread: int
    members: Int32
    start: Int64
    end: Int64
    parent: Int32
    level: Int32

    def innermost(self, start: Int64, end: Int64, before: Int32 | None = None) -> Int64:
        """The innermost member holding each interval [start, end], ends included; -1 for none.

        ``before`` are indices in the trace's table: only ranges that sort before them count.
        """
        found = _last_begun(self.start, start)
        moving = np.flatnonzero((found >= 0) & self._misses(found, slice(None), end, before))
        while len(moving):
            for leap in self._leaps:
                above = leap[found[moving]]
                far = np.flatnonzero(above >= 0)
                far = far[self._misses(above[far], moving[far], end, before)]
                found[moving[far]] = above[far]
            found[moving] = self.parent[found[moving]]
            moving = moving[found[moving] >= 0]
            moving = moving[self._misses(found[moving], moving, end, before)]
        return found

    def _misses(self, at: Narrow, query: Int64 | slice, end: Int64, before: Int32 | None) -> Bool:
        """Whether each member ``at`` does not hold its query; if so, nor does what lies inside the member."""
        misses: Bool = self.end[at] < end[query]
        if before is not None:
            misses |= self.members[at] >= before[query]
        return misses

    @cached_property
    def _leaps(self) -> list[Int32]:
        """Each member's ancestors 2^k levels up, the farthest first; none where walking is quick enough."""
        depth, leaps = int(self.level.max(initial=0)), []
        if depth >= _DEEP:
            leap = self.parent
            for _ in range(depth.bit_length()):
                leaps.append(leap)
                leap = np.where(leap >= 0, leap[leap], np.int32(-1))
        return leaps[::-1]

    @cached_property
    def by_level(self) -> list[Int32]:
        """The members of each level, from the outermost on."""
        return _by_level(self.level)

    def nearest(self, known: Bool) -> Int32:
        """Each member's nearest among itself and what holds it that is ``known``; -1 for none."""
        found = np.where(known, np.arange(len(known), dtype=np.int32), np.int32(-1))
        for here in self.by_level[1:]:
            unknown = here[~known[here]]
            found[unknown] = found[self.parent[unknown]]
        return found


def _last_begun(starts: Int64, moments: Int64) -> Int64:
    """The last of the ascending ``starts`` that is not after each moment, -1 for none."""
    if not len(moments) or np.any(moments[1:] < moments[:-1]):
        return np.searchsorted(starts, moments, side="right") - 1
    # Ranges hold several launches each: fewer searches tell at which moment each of them begins.
    first, last = np.searchsorted(starts, moments[[0, -1]], side="right")
    begins = np.searchsorted(moments, starts[first:last], side="left")
    return np.repeat(np.arange(first - 1, last), np.diff(begins, prepend=0, append=len(moments)))


def lanes(ranges: Ranges) -> list[Lane]:
    """The lanes of every thread: one where all its ranges nest, else one or more per domain and kind."""
    found = []
    for thread, rows in _groups(ranges.thread):
        whole = _lane(ranges, thread, rows)
        if whole is not None:
            found.append(whole)
            continue
        kind = ranges.domain[rows].astype(np.int64) << 1 | ranges.nested[rows]
        for _, part in _groups(kind):
            lane = _lane(ranges, thread, rows[part])
            found += [lane] if lane is not None else _sweep(ranges, thread, rows[part])
    return found


def _groups(key: Int64) -> list[tuple[int, Int64]]:
    """The rows of each distinct key, in order."""
    if not len(key):
        return []
    if key.strides == (0,) or np.all(key == key[0]):
        return [(int(key[0]), np.arange(len(key)))]
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    return [(int(key[rows[0]]), rows) for rows in np.split(order, edges)]


def _lane(ranges: Ranges, thread: int, rows: Int64) -> Lane | None:
    """The rows as a lane, or None when two of them overlap without nesting.

    A range's level is how many ranges before it are still open at its start. If the last range one level up
    holds each range, the open ones are its ancestors, and all is nested.
    """
    whole = len(rows) == len(ranges)
    start, end = (ranges.start, ranges.end) if whole else (ranges.start[rows], ranges.end[rows])
    closed = _closed(start, end)
    level = np.arange(len(rows)) - np.searchsorted(np.sort(closed), start, side="right")
    level = level.astype(np.int32)
    parent = _last_one_up(level)
    inner = np.flatnonzero(level)
    if np.any(closed[inner] > closed[parent[inner]]):
        return None
    return Lane(thread, rows.astype(np.int32), start, end, parent, level)


def _closed(start: Int64, end: Int64) -> Int64:
    """The ends, a range without length being open for its own moment."""
    return np.maximum(end, start + 1)


def _by_level(level: Int32) -> list[Int32]:
    """The elements of each level, in order."""
    narrow = level.astype(narrowest(0, int(level.max(initial=0))))  # numbers of 16 bits sort fastest
    order = np.argsort(narrow, kind="stable").astype(np.int32)
    return np.split(order, np.flatnonzero(np.diff(level[order])) + 1)


def _last_one_up(level: Int32) -> Int32:
    """For each element, the nearest before it whose level is one lower; -1 for level 0."""
    parent = np.full(len(level), -1, np.int32)
    for above, here in pairwise(_by_level(level)):
        parent[here] = above[np.searchsorted(above, here) - 1]
    return parent


def _sweep(ranges: Ranges, thread: int, rows: Int64) -> list[Lane]:
    """Overlapping ranges shared out to lanes: each to the one whose open range ends soonest after it."""
    start, closed = ranges.start[rows], _closed(ranges.start[rows], ranges.end[rows])
    stacks: list[list[int]] = []  # the ends still open in each lane, below them one that never comes
    tops: list[tuple[int, int]] = []  # the last of each stack, and the lane, in order
    chosen = np.full(len(rows), -1)
    for i, (opens, closes) in enumerate(zip(start.tolist(), closed.tolist(), strict=True)):
        while tops and tops[0][0] <= opens:
            _, lane = tops.pop(0)
            while stacks[lane][-1] <= opens:
                stacks[lane].pop()
            insort(tops, (stacks[lane][-1], lane))
        at = bisect_left(tops, (closes, -1))
        if at < len(tops):
            _, lane = tops.pop(at)
        elif len(stacks) < MOST_LANES:
            lane = len(stacks)
            stacks.append([_NEVER])
        else:
            continue
        stacks[lane].append(closes)
        insort(tops, (closes, lane))
        chosen[i] = lane
    parts = [_lane(ranges, thread, part) for lane in range(len(stacks)) if len(part := rows[chosen == lane])]
    return [part for part in parts if part is not None]
