"""In a generation the cache grows by the tokens of each step: its split counts must follow such lengths.

Judged where the evidence is whole: decode steps that follow one prefill without a gap, with its sequences,
one call a layer, whose launches the library chose from the number of keys. Elsewhere nothing is said: of
candidates, windows, a prompt in pieces, requests that come and go, beams, replays, and steps at an edge, past
which nothing shows whether the cache went on as before. A cache of fixed capacity may grow by pages instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise

import numpy as np

from attnprof.check.observed_calls import Bool, Int64
from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.intervals import Interval, Intervals, intersect, union
from attnprof.trace.range_names import DECODE, PREFILL

_FEWEST = 8  # decode steps
_PAGE = 16  # tokens: a cache that is given whole has grown by no less
_MOST_RUNS = 24  # of one launch each: more are looked at singly
_ANY: Intervals = (Interval(1, None),)


@dataclass(frozen=True, slots=True)
class Sequences:
    """The calls of a process by step and layer, as places: ``cells`` index ``shapes_of``, -1 for none.

    ``steps`` are the steps' numbers. ``told`` and ``windowed`` are per shape.
    """

    steps: Int64
    phase: Int64
    cells: Int64
    replayed: Bool
    shapes_of: Sequence[tuple[int, ...]]
    told: Sequence[ReadBack | None]
    windowed: Sequence[bool]


@dataclass(frozen=True, slots=True)
class _Step:
    """What a decode step's launches allow: lengths, and the most queries a sequence had in it."""

    keys: Intervals
    queries: int


def find_ungrown(of: Sequences) -> Iterator[tuple[range, list[int], int]]:
    """(steps of one launch, layers, decode steps judged) that no growing cache gives, all by place."""
    for first, end in _stretches(of):
        alike: dict[bytes, list[int]] = {}
        for layer in range(of.cells.shape[1]):
            alike.setdefault(np.ascontiguousarray(of.cells[first:end, layer]).tobytes(), []).append(layer)
        for layers in alike.values():
            if of.replayed[first:end, layers[0]].any():
                continue
            series = _series(of, of.cells[first:end, layers[0]].tolist())
            for run in _odd(*series) if series else ():
                yield range(first + 1 + run.start, first + 1 + run.stop), layers, end - first - 1


def _stretches(of: Sequences) -> Iterator[tuple[int, int]]:
    """Each prefill with the decode steps that follow it without a gap, as places from first to end."""
    follows = np.append(False, np.diff(of.steps) == 1)
    for first in np.flatnonzero(of.phase == PREFILL).tolist():
        in_pieces = first and follows[first] and of.phase[first - 1] == PREFILL
        end = first + 1
        while end < len(of.steps) and follows[end] and of.phase[end] == DECODE:
            end += 1
        if end - first > _FEWEST and not in_pieces:
            yield first, end


def _series(of: Sequences, cells: list[int]) -> tuple[list[_Step], list[int]] | None:
    """What each decode step of a layer allows, and its shape; None where the evidence is not whole."""
    shapes = [of.shapes_of[cell] if cell >= 0 else () for cell in cells]
    if any(len(one) != 1 for one in shapes):
        return None
    prefill, *decode = [one[0] for one in shapes]
    backs = {shape: of.told[shape] for shape in (prefill, *decode)}
    if len(set(decode)) < 2 or any(of.windowed[shape] for shape in backs):
        return None
    sequences = _batch_heads(backs[prefill])
    each = {shape: _batch_heads(backs[shape]) for shape in set(decode)}
    folded = {heads for heads in each.values() if heads != sequences}
    if not sequences or len(folded) > 1 or any(not heads or sequences % heads for heads in folded):
        return None
    others = (backs[shape] for shape, heads in each.items() if heads not in folded)
    if folded and any(back is not None and back.may_never_split for back in others):
        return None
    allowed = {shape: _allowed(backs[shape], heads in folded) for shape, heads in each.items()}
    found = [step for shape in decode if (step := allowed[shape]) is not None]
    return (found, decode) if len(found) == len(decode) else None


def _batch_heads(back: ReadBack | None) -> int:
    """Batch x heads of the grid; 0 where it cannot be told."""
    counts = {one.batch_heads for one in back.explanations} if back else set()
    return (counts.pop() or 0) if len(counts) == 1 else 0


def _allowed(back: ReadBack | None, folded: bool) -> _Step | None:
    chosen = [one for one in back.chosen if one.folded == folded] if back else []
    keys = intersect(union(one.seqlen_k for one in chosen), _ANY)
    if not keys:
        return None
    queries = max(one.seqlen_q.high or one.seqlen_q.low for one in chosen)
    return _Step(keys, 1 if folded else queries)


def _odd(steps: list[_Step], shapes: list[int]) -> list[range]:
    """The runs of steps without which the cache grew; none where it grew with them, or never did."""
    if _grows(steps) or _grows_by_pages(steps, shapes):
        return []
    edges = [0, *(n for n in range(1, len(shapes)) if shapes[n] != shapes[n - 1]), len(shapes)]
    inner = [range(*pair) for pair in pairwise(edges[1:-1])]
    for together in (1, 2) if len(inner) <= _MOST_RUNS else (1,):
        for runs in combinations(inner, together):
            left_out = {at for run in runs for at in run}
            if 3 * len(left_out) > len(steps):
                continue
            rest = [_Step(_ANY, one.queries) if n in left_out else one for n, one in enumerate(steps)]
            if _grows(rest):
                return list(runs)
    return []


def _grows(steps: list[_Step]) -> bool:
    """Whether some first length, and the tokens of each step, lead through all of these.

    Of several queries as few as one may be kept. From some step on a window may keep the length.
    """
    growing: Intervals = steps[0].keys
    kept: Intervals = ()
    before = steps[0]
    for step, run in groupby(steps[1:]):
        alike = sum(1 for _ in run)
        while alike:
            grown = tuple(
                Interval(one.low + 2 - before.queries, None if one.high is None else one.high + step.queries)
                for one in growing
            )
            kept = intersect(union((growing, kept)), step.keys)
            growing = intersect(union((grown,)), step.keys)
            if not growing and not kept:
                return False
            before, alike = step, alike - 1
            if alike and step.queries == 1:
                growing, kept = _by_one_each(growing, kept, step.keys, alike)
                alike = 0
    return True


def _by_one_each(
    growing: Intervals, kept: Intervals, keys: Intervals, steps: int
) -> tuple[Intervals, Intervals]:
    """What grew and what was kept, both within ``keys``, after further steps of one query that allow these.

    A length that grows by one key a step cannot leave its interval, and passes all of it up to where it ends.
    """
    grown, passed = [], []
    for allowed in union((keys,)):
        for one in intersect(growing, (allowed,)):
            passed.append(_grown(one, allowed, 0, steps - 1))
            last = _grown(one, allowed, steps, steps)
            if last.high is None or last.low <= last.high:
                grown.append(last)
    return tuple(grown), union((kept, tuple(passed)))


def _grown(one: Interval, allowed: Interval, least: int, most: int) -> Interval:
    """The lengths of an interval after so many keys more, as far as another allows them."""
    high = allowed.high
    if one.high is not None:
        high = one.high + most if high is None else min(high, one.high + most)
    return Interval(one.low + least, high)


def _grows_by_pages(steps: list[_Step], shapes: list[int]) -> bool:
    """Whether these are capacities of one cache: never less than before, and a page more at a time."""
    changes = [n for n in range(1, len(shapes)) if shapes[n] != shapes[n - 1]]
    if any(later - sooner < _PAGE for sooner, later in pairwise(changes)):
        return False
    least = 1
    for step in steps:
        held = intersect(step.keys, (Interval(least, None),))
        if not held:
            return False
        least = held[0].low
    return True
