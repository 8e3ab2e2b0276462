"""Which API call launched what ran on a GPU: the join of a trace's GPU work with its calls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from attnprof.arrays import Narrow, blocks
from attnprof.trace.model import Int32, Int64

_SPARSEST = 4  # ids per call


def launches(pid: Narrow, correlation: Narrow, calls_pid: Narrow, calls_correlation: Narrow) -> Int32:
    """Index of the API call that launched each row, by process and correlation; -1 for none.

    Of several calls with one correlation it is the first. All kernels of a CUDA graph share one call.
    """
    launch = np.full(len(pid), -1, np.int32)
    callers = dict(by_process(calls_pid))
    for process, rows in by_process(pid):
        if process in callers:
            mine = callers[process]
            found = _match(correlation[rows], calls_correlation[mine])
            launch[rows] = found if isinstance(mine, slice) else np.append(mine, -1)[found]
    return launch


def by_process(pid: Narrow) -> Iterator[tuple[int, slice | Int64]]:
    """The rows of each process; all of them as one slice when there is a single one."""
    if len(pid) and np.all(pid == pid[0]):
        yield int(pid[0]), slice(None)
        return
    for one in np.unique(pid).tolist():
        yield one, np.flatnonzero(pid == one)


def _match(wanted: Narrow, offered: Narrow) -> Int32:
    """Index of the first ``offered`` that equals each ``wanted``; -1 for none or a negative id."""
    found = np.empty(len(wanted), np.int32)
    low, high = int(offered.min()), int(offered.max())
    if high - low <= _SPARSEST * len(offered) + 1024:  # correlation ids count up: look the call up directly
        table = np.full(high - low + 2, -1, np.int32)
        for rows in reversed([*blocks(len(offered))]):
            table[offered[rows][::-1].astype(np.int64) - low] = np.arange(
                rows.stop - 1, rows.start - 1, -1, dtype=np.int32
            )
        for rows in blocks(len(wanted)):
            ids = wanted[rows].astype(np.int64)
            found[rows] = table[np.where((ids >= max(low, 0)) & (ids <= high), ids - low, -1)]
        return found
    order = np.argsort(offered, kind="stable")
    ascending = offered[order]
    for rows in blocks(len(wanted)):
        ids = wanted[rows].astype(np.int64)
        at = np.minimum(np.searchsorted(ascending, ids), len(order) - 1)
        found[rows] = np.where((ascending[at] == ids) & (ids >= 0), order[at], -1)
    return found
