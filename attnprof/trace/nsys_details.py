"""The columns of an nsys export that only nsys's own reports need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnprof.trace.columns import Database
from attnprof.trace.model import Int32, Int64, NsysDetails, time_order
from attnprof.trace.nsys_tables import KERNEL, MEMCPY, MEMSET, NVTX, PUSH_POP, START_END

_NONE = -1
_KERNEL = {"contextId": 0, "registersPerThread": 0, "staticSharedMemory": 0, "dynamicSharedMemory": 0}
_MEMCPY = {"contextId": 0, "bytes": 0, "copyKind": 0, "srcKind": _NONE, "dstKind": _NONE}
_MEMSET = {"contextId": 0, "bytes": 0, "memKind": _NONE}


def read_details(db: Database) -> NsysDetails:
    """The details, in the order of the trace's tables."""
    kernels = _in_order(_timed(db, KERNEL, _KERNEL))
    copies, sets = _timed(db, MEMCPY, _MEMCPY), _timed(db, MEMSET, _MEMSET)
    none = np.full(len(sets["start"]), _NONE)
    sets |= {"copyKind": none, "srcKind": sets["memKind"], "dstKind": none}
    both = _in_order({name: np.concatenate([copies[name], sets[name]]) for name in copies})
    ranges = _ranges(db)
    return NsysDetails(
        range_id=ranges["id"],
        crosses=ranges["endGlobalTid"] != 0,
        context=_narrow(kernels["contextId"]),
        registers=_narrow(kernels["registersPerThread"]),
        static_smem=_narrow(kernels["staticSharedMemory"]),
        dynamic_smem=_narrow(kernels["dynamicSharedMemory"]),
        copy_context=_narrow(both["contextId"]),
        copy_bytes=both["bytes"],
        copy_operation=_narrow(both["copyKind"]),
        copy_source=_narrow(both["srcKind"]),
        copy_destination=_narrow(both["dstKind"]),
    )


def _timed(db: Database, table: str, wanted: Mapping[str, int]) -> dict[str, Int64]:
    return db.integers(table, {"start": None, "end": None, **wanted})


def _in_order(columns: dict[str, Int64]) -> dict[str, Int64]:
    order = time_order(columns["start"], columns["end"])
    return columns if order is None else {name: values[order] for name, values in columns.items()}


def _ranges(db: Database) -> dict[str, Int64]:
    """The row number and the ending thread (0 where it is the beginning one) of the ranges."""
    events = db.integers(NVTX, {"start": None, "end": _NONE, "eventType": None, "endGlobalTid": 0})
    rows = len(events["start"])
    first, last = db.rows(NVTX, f"SELECT min(rowid), max(rowid) FROM {NVTX}").fetchone() if rows else (1, 0)
    if last - first + 1 == rows:
        events["id"] = np.arange(first, last + 1)
    else:
        numbers = db.rows(NVTX, f"SELECT rowid FROM {NVTX} NOT INDEXED ORDER BY rowid")
        events["id"] = np.fromiter((number for (number,) in numbers), np.int64, rows)
    kept = np.flatnonzero(np.isin(events["eventType"], (PUSH_POP, START_END)))
    ranges = {name: values[kept] for name, values in events.items()}
    latest = max(int(ranges["end"].max(initial=0)), int(ranges["start"].max(initial=0)))
    ranges["end"] = np.where(ranges["end"] == _NONE, latest, ranges["end"])
    return _in_order(ranges)


def _narrow(values: Int64) -> Int32:
    return values.astype(np.int32)
