"""Replays of a CUDA graph with another number of attention calls: a graph replays what was captured."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from attnprof.trace.range_names import DECODE
from attnprof.trace.tables import Bool, Int64

_FEWEST = 2  # replays that agree
_MOST = 1 << 20  # replays looked at


class OddReplay(NamedTuple):
    """A replay of ``calls`` calls, the first of which is row ``row``; ``usual`` in ``others`` others."""

    row: int
    calls: int
    usual: int
    others: int


def find_odd_replays(
    launch: Any, pid: Any, shape: Int64, phase: Any, replayed: Bool, beside: Int64
) -> tuple[OddReplay, ...]:
    """The replays that stand alone with their number of calls, some of which others make as well.

    Also the first of those that make fewer from some step of a generation on. Per call: the launch that
    started it, its process, its shape, its phase, whether a graph replayed it, and how many other kernels
    its launch started. A process's last replay may be cut, where others ran more of these, and a first one
    before which it made no call. Graphs of other batch sizes have as many calls, of other models others.
    """
    rows = np.flatnonzero(replayed & (launch >= 0))
    if not len(rows):
        return ()
    order = rows[np.lexsort((rows, launch[rows], pid[rows]))]
    begins = np.append(True, (np.diff(launch[order]) != 0) | (np.diff(pid[order]) != 0))
    groups = np.split(order, np.flatnonzero(begins)[1:])[:_MOST]
    found: list[OddReplay] = []
    for process in np.unique(pid[rows]).tolist():
        mine = [group for group in groups if pid[group[0]] == process]
        first = int(np.argmax(pid == process))
        counts = Counter(map(len, mine))
        usual, others = counts.most_common(1)[0]
        if len(counts) == 1:
            continue
        most_beside = max(int(beside[group[0]]) for group in mine if len(group) == usual)
        known = {int(one) for group in mine if len(group) == usual for one in np.unique(shape[group])}
        for number, group in enumerate(mine):
            whole = 0 < most_beside <= beside[group[0]]
            begun = number == 0 and int(group[0]) == first  # nothing before it: the trace may begin inside
            cut = len(group) < usual and (begun or (number == len(mine) - 1 and not whole))
            alone = counts[len(group)] == 1 and len(known & set(shape[group].tolist())) > 0
            if alone and not cut and others >= _FEWEST:
                found.append(OddReplay(int(group[0]), len(group), usual, others))
        if (fewer := _fewer_for_good(mine, shape, phase)) and not any(one.row == fewer.row for one in found):
            found.append(fewer)
    return tuple(found)


def _fewer_for_good(replays: list[Int64], shape: Int64, phase: Any) -> OddReplay | None:
    """The first replay of a process's last ones that make fewer calls, within one generation."""
    sizes = [len(replay) for replay in replays]
    first = next((n for n in range(1, len(sizes)) if sizes[n] != sizes[0]), 0)
    later = set(sizes[first:])
    if not first or len(sizes) - first < _FEWEST or len(later) != 1 or later.pop() >= sizes[0]:
        return None
    before, after = replays[first - 1], replays[first]
    between = phase[int(before[0]) : int(after[0]) + 1]
    whole = bool((between == DECODE).all()) and set(shape[after].tolist()) <= set(shape[before].tolist())
    return OddReplay(int(after[0]), sizes[first], sizes[0], first) if whole else None
