"""Whether a trace may begin, or end, inside the attention call at its edge: not where others ran beyond."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnprof.trace.tables import Int64
from attnprof.trace.timeline import Timeline


def find_cut_edges(timeline: Timeline, main: Int64) -> Mapping[int, tuple[bool, bool]]:
    """By process: whether nothing shows that its GPU was recorded before its first call, and after its last.

    ``main``: the calls' main kernels, in order of time. Kernels of one stream end in the order in which they
    began, so one beyond a call on its stream shows that all of the call's would be there.
    """
    kernels = timeline.trace.kernels
    found: dict[int, tuple[bool, bool]] = {}
    for pid in np.unique(kernels.pid[main]).tolist():
        mine = main[kernels.pid[main] == pid]
        first, last = int(mine[0]), int(mine[-1])
        beyond = []
        for call, earlier in ((first, True), (last, False)):
            same = (kernels.pid == pid) & (kernels.stream == kernels.stream[call])
            same &= kernels.device == kernels.device[call]
            start = kernels.start[call]
            beyond.append(bool((same & (kernels.start < start if earlier else kernels.start > start)).any()))
        found[pid] = (not beyond[0], not beyond[1])
    return found
