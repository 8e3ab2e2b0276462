"""Attention calls of several processes, each counted from 0, numbered through as their records are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attnprof.trace.range_names import own_calls
from attnprof.trace.tables import Trace


def numbered_through(trace: Trace, processes: Iterable[Mapping[str, Any]]) -> Trace:
    """The trace with the number of each process's first call (``pid``, ``first_seq``) added to its calls'."""
    first = {one["pid"]: one["first_seq"] for one in processes if one.get("pid") and one.get("first_seq")}
    if not first or not len(trace.ranges):
        return trace
    payload, pid = trace.ranges.payload.copy(), np.asarray(trace.ranges.pid)
    calls = own_calls(trace)
    for process, number in first.items():
        payload[calls & (pid == process)] += number
    return replace(trace, ranges=replace(trace.ranges, payload=payload))
