"""Which ranges lie around a moment on a thread, for all moments at once.

Ranges of one thread that nest (each two are disjoint or one holds the other) form a *lane*. Sorted by
(start, -end) a lane is a tree in preorder, and everything is a binary search. Most threads are one lane;
where domains interleave or start/end ranges overlap there are several, each with its own innermost range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnprof.trace.model import Bool, Int64, Ranges


@dataclass(frozen=True, slots=True)
class Lane:
    """Nesting ranges of one thread: their indices in the trace's table and their tree.

    ``parent`` (index within the lane, -1 for none) and ``level`` are per member.
    """

    thread: int
    members: Int64
    start: Int64
    end: Int64
    parent: Int64
    level: Int64

    def innermost(self, start: Int64, end: Int64, before: Int64 | None = None) -> Int64:
        """The innermost member holding each interval [start, end], ends included; -1 for none.

        ``before`` are indices in the trace's table: only ranges that sort before them count.
        """
        found = np.searchsorted(self.start, start, side="right") - 1
        moving = np.arange(len(found))
        while len(moving := moving[found[moving] >= 0]):
            at = found[moving]
            misses = self.end[at] < end[moving]
            if before is not None:
                misses |= self.members[at] >= before[moving]
            moving = moving[misses]
            found[moving] = self.parent[found[moving]]
        return found

    def nearest(self, known: Bool) -> Int64:
        """Each member's nearest among itself and what holds it that is ``known``; -1 for none."""
        found = np.where(known, np.arange(len(known)), -1)
        for depth in range(1, int(self.level.max(initial=0)) + 1):
            here = np.flatnonzero((self.level == depth) & ~known)
            found[here] = found[self.parent[here]]
        return found


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
    start, end = ranges.start[rows], ranges.end[rows]
    closed = _closed(start, end)
    level = np.arange(len(rows)) - np.searchsorted(np.sort(closed), start, side="right")
    parent = _last_one_up(level)
    inner = np.flatnonzero(level)
    if np.any(closed[inner] > closed[parent[inner]]):
        return None
    return Lane(thread, rows, start, end, parent, level)


def _closed(start: Int64, end: Int64) -> Int64:
    """The ends, a range without length being open for its own moment."""
    return np.maximum(end, start + 1)


def _last_one_up(level: Int64) -> Int64:
    """For each element, the nearest before it whose level is one lower; -1 for level 0."""
    parent = np.full(len(level), -1)
    above = np.flatnonzero(level == 0)
    for depth in range(1, int(level.max(initial=0)) + 1):
        here = np.flatnonzero(level == depth)
        parent[here] = above[np.searchsorted(above, here) - 1]
        above = here
    return parent


def _sweep(ranges: Ranges, thread: int, rows: Int64) -> list[Lane]:
    """Overlapping ranges shared out to lanes, each range to the first one it nests in."""
    start, closed = ranges.start[rows], _closed(ranges.start[rows], ranges.end[rows])
    stacks: list[list[int]] = []  # the ends still open in each lane
    chosen = np.empty(len(rows), np.int64)
    for i, (opens, closes) in enumerate(zip(start.tolist(), closed.tolist(), strict=True)):
        for stack in stacks:
            while stack and stack[-1] <= opens:
                stack.pop()
        fits = (lane for lane, stack in enumerate(stacks) if not stack or closes <= stack[-1])
        lane = next(fits, len(stacks))
        if lane == len(stacks):
            stacks.append([])
        stacks[lane].append(closes)
        chosen[i] = lane
    parts = [_lane(ranges, thread, rows[chosen == lane]) for lane in range(len(stacks))]
    return [part for part in parts if part is not None]
