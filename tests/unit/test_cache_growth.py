"""How a cache's length may have gone on through decode steps alike: as each length by itself would."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from attnprof.check.growth import _by_one_each, _grows, _Step
from attnprof.dispatch.intervals import Interval, Intervals, intersect, union

_MOST = 60  # tokens that are looked at
_ENDS = st.tuples(st.integers(1, 20), st.none() | st.integers(0, 9))
_LENGTHS = st.lists(_ENDS, max_size=3).map(
    lambda ends: union([tuple(Interval(low, None if size is None else low + size) for low, size in ends)])
)


def _held(lengths: Intervals) -> set[int]:
    return {n for n in range(1, _MOST) if any(n in one for one in lengths)}


@given(_LENGTHS, _LENGTHS, _LENGTHS, st.integers(1, 9))
def test_steps_alike_at_once_are_these_steps_one_by_one(
    began: Intervals, before: Intervals, keys: Intervals, steps: int
) -> None:
    growing, kept = _by_one_each(intersect(began, keys), intersect(before, keys), keys, steps)
    each, stayed, allowed = _held(began) & _held(keys), _held(before) & _held(keys), _held(keys)
    for _ in range(steps):
        stayed |= each
        each = {length + 1 for length in each} & allowed
    assert (_held(growing), _held(kept)) == (each, stayed)


@given(
    st.lists(st.tuples(_LENGTHS.filter(bool), st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=4)
)
def test_a_cache_grew_if_some_lengths_lead_through_all_steps(runs: list[tuple[Intervals, int, int]]) -> None:
    steps = [_Step(keys, queries) for keys, queries, times in runs for _ in range(times)]
    growing, kept = _held(steps[0].keys), set[int]()
    for before, step in pairwise(steps):
        kept = (growing | kept) & _held(step.keys)
        tokens = range(2 - before.queries, step.queries + 1)
        growing = {length + more for length in growing for more in tokens} & _held(step.keys)
    assert _grows(steps) == bool(growing or kept)
