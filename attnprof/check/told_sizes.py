"""What the launches of a call, read back, say of its sizes, beside what a kernel's name and grid say."""

from __future__ import annotations

from dataclasses import replace

from attnprof.check.traits import Traits
from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.intervals import Interval, Intervals, union


def settled(traits: Traits, back: ReadBack | None) -> Traits:
    """The traits with what is read back of requests, heads and folding.

    No number of either, ``batch_heads`` 0, where the grid may not have them: its sizes may be others.
    """
    if back is None or not back.explanations:
        return traits
    traits = replace(traits, folds=traits.folds and any(one.folded for one in back.explanations))
    if any(one.batch_heads for one in back.explanations):
        return traits
    if not all(one.batch or one.heads for one in back.explanations):
        return replace(traits, batch_heads=0)
    if not requests(back):
        return traits
    each = {(one.batch or 0) * (one.heads or 0) for one in back.explanations}
    return replace(traits, batch_heads=each.pop() if len(each) == 1 else 0, shows=True)


def queries(back: ReadBack | None) -> Intervals:
    """The queries per sequence that it allows; () where they are not told."""
    found = back.explanations if back else ()
    return union((Interval(1, 1) if one.folded else one.seqlen_q,) for one in found)


def requests(back: ReadBack | None) -> Intervals:
    """The requests that it allows; () where they are not told."""
    found = back.explanations if back else ()
    told = [one.batch for one in found if one.batch]
    return union((Interval(batch, batch),) for batch in told) if len(told) == len(found) else ()
