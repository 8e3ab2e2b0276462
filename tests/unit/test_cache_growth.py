"""Whether a cache grew through some decode steps, against every way it could have grown, length by length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from attnprof.check.growth import _grows, _Step
from attnprof.dispatch.intervals import Interval, union

_MOST = 24  # tokens: an interval without end ends here
_ENDS = st.tuples(st.integers(1, _MOST), st.integers(0, 6) | st.just(_MOST))
_KEYS = st.lists(_ENDS, min_size=1, max_size=3).map(
    lambda ends: union([tuple(Interval(low, None if size == _MOST else low + size) for low, size in ends)])
)
_RUNS = st.lists(
    st.tuples(_KEYS, st.sampled_from((1, 1, 1, 2, 3)), st.integers(1, 5)), min_size=1, max_size=5
)


@given(_RUNS)
def test_a_cache_grew_if_some_lengths_lead_through_all_steps(
    runs: list[tuple[tuple[Interval, ...], int, int]],
) -> None:
    steps = [_Step(keys, queries) for keys, queries, times in runs for _ in range(times)]
    most = _MOST + 4 * len(steps)
    allowed = [{n for n in range(1, most) if any(n in one for one in step.keys)} for step in steps]
    growing, kept = allowed[0], set[int]()
    for before, step, lengths in zip(steps, steps[1:], allowed[1:], strict=False):
        kept = (growing | kept) & lengths
        tokens = range(2 - before.queries, step.queries + 1)
        growing = {n + more for n in growing for more in tokens} & lengths
    assert _grows(steps) == bool(growing or kept)
