"""The columns of an nsys export that only nsys's own reports need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attnprof.arrays import Narrow, taken
from attnprof.trace.nsys_tables import MEMCPY, MEMSET, NVTX, PUSH_POP, START_END
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.tables import NsysDetails, in_time_order

_NONE = -1
KERNEL_DETAILS: dict[str, int | None] = {
    "contextId": 0,
    "registersPerThread": 0,
    "staticSharedMemory": 0,
    "dynamicSharedMemory": 0,
}
_MEMCPY = {"contextId": 0, "bytes": 0, "copyKind": 0, "srcKind": _NONE, "dstKind": _NONE}
_MEMSET = {"contextId": 0, "bytes": 0, "memKind": _NONE}


def read_details(db: Database, kernels: Mapping[str, Narrow]) -> NsysDetails:
    """The details, in the order of the trace's tables; ``kernels`` are the columns KERNEL_DETAILS in it."""
    copies, sets = _timed(db, MEMCPY, _MEMCPY), _timed(db, MEMSET, _MEMSET)
    none = np.full(len(sets["start"]), _NONE)
    sets |= {"copyKind": none, "srcKind": sets["memKind"], "dstKind": none}
    both = in_time_order({name: np.concatenate([copies[name], sets[name]]) for name in copies})
    ranges = _ranges(db)
    return NsysDetails(
        range_id=ranges["id"],
        crosses=ranges["endGlobalTid"] != 0,
        context=kernels["contextId"],
        registers=kernels["registersPerThread"],
        static_smem=kernels["staticSharedMemory"],
        dynamic_smem=kernels["dynamicSharedMemory"],
        copy_context=both["contextId"],
        copy_bytes=both["bytes"].astype(np.int64),
        copy_operation=both["copyKind"],
        copy_source=both["srcKind"],
        copy_destination=both["dstKind"],
    )


def _timed(db: Database, table: str, wanted: Mapping[str, int]) -> dict[str, Any]:
    c = db.integers(table, {"start": None, "end": None, **wanted})
    return c | {time: c[time].astype(np.int64, copy=False) for time in ("start", "end")}


def _ranges(db: Database) -> dict[str, Any]:
    """The row number and the ending thread (0 where it is the beginning one) of the ranges."""
    c = db.integers(NVTX, {"start": None, "end": _NONE, "eventType": None, "endGlobalTid": 0})
    events = c | {time: c[time].astype(np.int64, copy=False) for time in ("start", "end")}
    rows = len(events["start"])
    first, last = db.rows(NVTX, f"SELECT min(rowid), max(rowid) FROM {NVTX}").fetchone() if rows else (1, 0)
    if last - first + 1 == rows:
        events["id"] = np.arange(first, last + 1)
    else:
        numbers = db.rows(NVTX, f"SELECT rowid FROM {NVTX} NOT INDEXED ORDER BY rowid")
        events["id"] = np.fromiter((number for (number,) in numbers), np.int64, rows)
    kept = np.flatnonzero(np.isin(events["eventType"], (PUSH_POP, START_END)))
    ranges = {name: taken(values, kept) for name, values in events.items()}
    latest = max(int(ranges["end"].max(initial=0)), int(ranges["start"].max(initial=0)))
    ranges["end"] = np.where(ranges["end"] == _NONE, latest, ranges["end"])
    return in_time_order(ranges)
