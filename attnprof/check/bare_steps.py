"""Steps that ran what the steps beside them ran, except for any attention."""

from __future__ import annotations

import numpy as np

from attnprof.arrays import blocks, distinct
from attnprof.trace.tables import Bool
from attnprof.trace.timeline import Timeline

_MOST = 1 << 22  # the highest step number looked at
_MOST_NAMED = 64  # bare steps of one process


def find_bare_steps(timeline: Timeline, attention: Bool) -> tuple[tuple[int, int], ...]:
    """(process, step) of each, in order. ``attention``: which names are an attention call's.

    Such a step lies between two with attention, of which one of its phase ran no other kernel than it did:
    the first and last may be cut, and another model's step runs other kernels. None where graphs were
    recorded whole: what they ran is not in the trace.
    """
    trace, step = timeline.trace, timeline.step
    if trace.info.whole_graph_launches or not len(step) or step.strides[0] == 0:
        return ()
    found: list[tuple[int, int]] = []
    for pid in distinct(trace.kernels.pid).tolist():
        found += [(pid, number) for number in _of_process(timeline, pid, attention)]
    return tuple(found)


def _of_process(timeline: Timeline, pid: int, attention: Bool) -> list[int]:
    kernels, step = timeline.trace.kernels, timeline.step
    size = min(int(step.max()) + 1, _MOST) if len(step) else 0
    ran, attended = np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    phase = np.zeros(size, np.int8)
    for rows in blocks(len(kernels)):
        mine = (kernels.pid[rows] == pid) & (step[rows] >= 0) & (step[rows] < size)
        numbers = step[rows][mine]
        ran[numbers] = True
        phase[numbers] = timeline.phase[rows][mine]
        attended[numbers[attention[kernels.name[rows][mine]]]] = True
    with_attention = np.flatnonzero(attended)
    if not len(with_attention):
        return []
    first, last = with_attention[0], with_attention[-1]
    bare = [n for n in np.flatnonzero(ran & ~attended).tolist() if first < n < last]
    found = []
    for number in bare[:_MOST_NAMED]:
        alike = with_attention[phase[with_attention] == phase[number]]
        at = int(np.searchsorted(alike, number))
        own = _names(timeline, pid, number, attention)
        for other in alike[max(0, at - 1) : at + 1].tolist():
            others = _names(timeline, pid, other, attention)
            if others and others <= own:
                found.append(number)
                break
    return found


def _names(timeline: Timeline, pid: int, number: int, attention: Bool) -> frozenset[int]:
    """The kernels of a step that are no attention, by name."""
    kernels = timeline.trace.kernels
    mine = np.flatnonzero((timeline.step == number) & (kernels.pid == pid))
    names = kernels.name[mine]
    return frozenset(np.unique(names[~attention[names]]).tolist())
