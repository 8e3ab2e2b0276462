"""Where a trace may begin, or end, inside an attention call: not where others ran beyond it on its stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attnprof.arrays import coded_rows
from attnprof.trace.tables import Int64
from attnprof.trace.timeline import Timeline

_MOST_STREAMS = 256  # that are looked at; calls of further ones may be cut


class Edges(NamedTuple):
    """The calls, as rows, before and after which their stream shows nothing."""

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()


def find_edges(timeline: Timeline, main: Int64, second: Int64) -> Edges:
    """Of each stream its first call, and its last, where nothing shows that the GPU was recorded beyond it.

    ``main``: the calls' main kernels, in order of time; ``second``: the same, or its second launch by a call
    in halves. Kernels of one stream end in the order in which they began, so one beyond a call on its stream
    shows that all of the call's would be there.
    """
    if not len(main):
        return Edges()
    kernels = timeline.trace.kernels
    columns = (kernels.pid, kernels.device, kernels.stream)
    _, stream = coded_rows([column[main] for column in columns])
    begins, ends = [], []
    for number in range(int(stream.max()) + 1):
        mine = np.flatnonzero(stream == number)
        first, last = int(mine[0]), int(mine[-1])
        if number >= _MOST_STREAMS:
            begins.append(first)
            ends.append(last)
            continue
        same = np.ones(len(kernels), np.bool_)
        for column in columns:
            same &= column == column[main[first]]
        before, after = int(np.argmax(same)), len(same) - 1 - int(np.argmax(same[::-1]))
        if kernels.start[before] >= kernels.start[main[first]]:
            begins.append(first)
        if kernels.start[after] <= kernels.start[second[last]]:
            ends.append(last)
    return Edges(tuple(sorted(begins)), tuple(sorted(ends)))
