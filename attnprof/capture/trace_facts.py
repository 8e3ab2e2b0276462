"""What a capture asks of the trace it has just made, before anything reads it whole."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"


def count_ranges(export: Path, message: str, domain: str = "attnprof") -> int:
    """Push/pop ranges of one message in one NVTX domain of an nsys export."""
    names = (
        "SELECT e.eventType, e.domainId, e.globalTid >> 24 AS process, coalesce(e.text, s.value) AS name"
        " FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId"
    )
    return _number(
        export,
        f"WITH named AS ({names}) SELECT count(*) FROM named WHERE eventType = 59 AND name = ? AND"
        " (domainId, process) IN (SELECT domainId, process FROM named WHERE eventType = 75 AND name = ?)",
        (message, domain),
    )


def about_trace(export: Path, workload: dict[str, Any], nsys: str | None, *, whole: bool) -> list[str]:
    """What an nsys export lacks of what the program did. ``whole``: the program came to its end."""
    return [
        *_missing_ranges(export, workload, nsys, whole=whole),
        *_missing_kernels(export, workload),
        *_kernels_of_others(export, workload),
    ]


def is_empty(trace: Path) -> bool:
    """Whether a trace holds neither a kernel nor a range of any kind."""
    if trace.name.endswith(".gz"):
        with gzip.open(trace) as text:
            return not any(b'"kernel"' in line or b'"user_annotation"' in line for line in text)
    ranges = "NVTX_EVENTS WHERE eventType IN (59, 60)"
    return not any(_number(trace, f"SELECT count(*) FROM {rows}") for rows in (_KERNELS, ranges))


def _missing_ranges(export: Path, workload: dict[str, Any], nsys: str | None, *, whole: bool) -> list[str]:
    calls, ranges = workload["num_calls"], count_ranges(export, "attn")
    ended = whole and workload["status"] == "complete"
    if calls == ranges or (calls < ranges and not ended):
        return []
    if ranges == 0 and "pid" not in workload:  # the program's own description is missing
        return ["nsys lost the ranges of a program that did not come to its end"]
    if ranges == 0:
        return [f"no NVTX range arrived: {_silence(export, nsys)}"]
    if not ended:
        return [
            f"the program did not come to its end, and {ranges} of {calls} recorded attention calls have a"
            " range: the others were still open, or nsys lost them"
        ]
    return [f"{calls} attention calls were recorded but {ranges} ranges arrived: some were lost"]


def _silence(export: Path, nsys: str | None) -> str:
    """Why there is no range."""
    if _number(export, _DOMAIN, ("attnprof",)):
        return f"nsys {nsys} knows the domain attnprof, and kept none of its ranges"
    return "nsys left the domain attnprof out, or the program dropped the variables it was started with"


def _missing_kernels(export: Path, workload: dict[str, Any]) -> list[str]:
    if workload["device"] != "cuda" or _number(export, f"SELECT count(*) FROM {_KERNELS}"):
        return []
    return [
        "the program used a GPU and no kernel arrived: another profiler may hold it (DCGM, torch.profiler,"
        " ncu), or the driver is older than this nsys; --capture torch may record it"
    ]


def _kernels_of_others(export: Path, workload: dict[str, Any]) -> list[str]:
    own = workload.get("pid")
    if own is None or not workload["num_calls"]:
        return []
    kernels = _number(
        export, f"SELECT count(*) FROM {_KERNELS} WHERE (globalPid >> 24) & 16777215 <> ?", (own,)
    )
    if not kernels:
        return []
    return [f"{kernels} kernels are of other processes than the one whose attention calls are recorded"]


_DOMAIN = (
    "SELECT count(*) FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId"
    " WHERE e.eventType = 75 AND coalesce(e.text, s.value) = ?"
)


def _number(export: Path, query: str, values: tuple[Any, ...] = ()) -> int:
    """The one number a query gives; 0 where the export lacks the table: nothing of its kind was recorded."""
    with closing(sqlite3.connect(f"{export.absolute().as_uri()}?mode=ro", uri=True)) as db:
        try:
            return int(db.execute(query, values).fetchone()[0])
        except sqlite3.OperationalError:
            return 0
