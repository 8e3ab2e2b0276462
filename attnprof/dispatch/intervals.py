"""Sets of whole numbers as intervals: the KV lengths that what ran allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter


@dataclass(frozen=True, slots=True)
class Interval:
    """Integers from ``low`` to ``high``, both included; ``high`` is None where there is no upper bound."""

    low: int
    high: int | None

    def __contains__(self, value: int) -> bool:
        return self.low <= value and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"≥{self.low}"
        return str(self.low) if self.low == self.high else f"{self.low}–{self.high}"


Intervals = tuple[Interval, ...]
_LOW = attrgetter("low")


@dataclass(frozen=True, slots=True)
class InferredCall:
    """What the launches of one attention call say.

    ``batch_heads``: batch x heads of the grid (KV heads where query heads were folded).  ``query_blocks``:
    blocks of 64 queries, every possible value.  ``seqlen_k``: the KV lengths in tokens (the capacity, for
    fwd_kvcache) for which the library would choose ``num_splits``; empty where no length does.
    """

    num_splits: int
    batch_heads: int
    query_blocks: tuple[int, ...]
    seqlen_k: Intervals


def union(groups: Iterable[Intervals]) -> Intervals:
    """All values of any of the groups, as ascending disjoint intervals."""
    every = [interval for group in groups for interval in group]
    if len(every) < 2:
        return tuple(every)
    merged: list[Interval] = []
    for interval in sorted(every, key=_LOW):
        last = merged[-1] if merged else None
        if last is not None and (last.high is None or interval.low <= last.high + 1):
            high = None if last.high is None or interval.high is None else max(last.high, interval.high)
            merged[-1] = Interval(last.low, high)
        else:
            merged.append(interval)
    return tuple(merged)


def intersect(left: Intervals, right: Intervals) -> Intervals:
    """The values in both."""
    common = []
    for a in left:
        for b in right:
            low = a.low if a.low > b.low else b.low
            high = a.high if b.high is None or (a.high is not None and a.high < b.high) else b.high
            if high is None or low <= high:
                common.append(Interval(low, high))
    return tuple(common) if len(common) < 2 else tuple(sorted(common, key=_LOW))


def shift(lengths: Intervals, by: int) -> Intervals:
    """Every value ``by`` more, below 1 too."""
    return tuple(Interval(i.low + by, None if i.high is None else i.high + by) for i in lengths)


def first_length(steps: Sequence[Intervals]) -> Intervals:
    """The KV lengths of the first step, where each following step holds one key more.

    steps: for each decode step in order, the lengths its own kernels allow. A step at which the split count
    changes pins the length; without one the answer stays as wide as the first step's.
    """
    allowed: Intervals = (Interval(1, None),)
    first = 0
    for lengths, alike in groupby(steps):
        last = first + sum(1 for _ in alike) - 1
        # Of steps that allow the same, the first holds fewest keys and the last most: both in one interval.
        kept = ((i.low - first, None if i.high is None else i.high - last) for i in union((lengths,)))
        held = tuple(Interval(low, high) for low, high in kept if high is None or low <= high)
        allowed = intersect(allowed, held)
        first = last + 1
    return allowed
