"""Reader of nsys SQLite exports: every schema 3.x, 2022.4 to 2026.2.

Tables are looked up by name and columns by name; few are required, any table may be missing.
META_DATA_CAPTURE is never read: it holds the profiled process's environment.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from attnprof.arrays import Narrow, coded_rows, occurring
from attnprof.errors import TraceError
from attnprof.safety.printable import printable
from attnprof.trace.nsys_details import KERNEL_DETAILS, read_details
from attnprof.trace.nsys_devices import physical_devices, pid_of, read_devices, to_int32
from attnprof.trace.nsys_graphs import read_graph_nodes
from attnprof.trace.nsys_parquet import ParquetFolder
from attnprof.trace.nsys_tables import (
    COPIES,
    GRAPH,
    KERNEL,
    NVTX,
    RUNTIME,
)
from attnprof.trace.nsys_texts import Texts, as_text
from attnprof.trace.nvtx_ranges import read_ranges
from attnprof.trace.sqlite_columns import Database
from attnprof.trace.tables import (
    WHOLE_GRAPH,
    ApiCalls,
    Copies,
    Kernels,
    Trace,
    TraceInfo,
    in_time_order,
)
from attnprof.trace.whole_graphs import with_whole_graphs

_VERSIONS = ("META_DATA_EXPORT", "EXPORT_META_DATA")

_SHAPE = ("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ")

# What is read of each table: a column and what stands for NULL or for its absence; None makes it required.
_LAUNCHED = {"start": None, "end": None, "deviceId": 0, "streamId": 0, "correlationId": -1, "globalPid": 0}
_KERNEL = {**_LAUNCHED, "demangledName": None, "graphNodeId": 0, **dict.fromkeys(_SHAPE, 0)}
_RUNTIME = {"start": None, "end": None, "globalTid": 0, "correlationId": -1, "nameId": -1}
_READ = {KERNEL: _KERNEL, RUNTIME: _RUNTIME, **dict.fromkeys((*COPIES, GRAPH), _LAUNCHED)}

# Warnings of the recorder that bear on what a trace can answer; the others are about sampling, OpenGL, …
_WORTH_SHOWING = re.compile(
    r"might be missing|might have been (lost|dropped)|(were|was) (lost|dropped)|overflow"
    r"|not all (CUDA|NVTX) events|not supported by this build",
    re.IGNORECASE,
)
_NVTX_TOO_NEW = (
    "NVTX domains were created but not one range was recorded: nothing was annotated, or nvtx is too new for "
    "this nsys (0.2.12 and later record nothing under nsys 2022.4 and 2023.4: capture again with attnprof"
    " run, or with nvtx 0.2.11)"
)


def read_nsys_sqlite(path: Path, *, shown_as: str = "", details: bool = False) -> Trace:
    """Read an nsys export without changing it or its folder. ``shown_as`` is the path that messages name.

    A folder holds it as Parquet. ``details`` asks for what only nsys's own reports need. Raises TraceError.
    """
    shown = shown_as or str(path)
    try:
        with closing(ParquetFolder(path) if path.is_dir() else Database(path)) as db:
            return _read(db, shown, details)
    except sqlite3.Error as error:
        raise TraceError(
            f"{shown} cannot be read: {error}",
            hint="the file is damaged or was cut short: export the report again (nsys export --type sqlite)",
        ) from error
    except TraceError as error:
        raise TraceError(f"{shown}: {error.message}", hint=error.hint) from error


def _read(db: Database, shown: str, with_details: bool) -> Trace:
    if not db.tables & {*_VERSIONS, KERNEL, RUNTIME, NVTX}:
        some = ", ".join(sorted(db.tables)[:4]) or "none"
        raise TraceError(
            f"an SQLite file, but no nsys export (its tables: {some})",
            hint="make one with: nsys export --type sqlite REPORT.nsys-rep",
        )
    texts = Texts(db)
    kernels, of_kernels = _read_kernels(db, texts, with_details)
    calls = _read_calls(db, texts)
    ranges, domains, lost = read_ranges(db, texts)
    exporter, schema = _versions(db)
    whole = _read_launched(db, (GRAPH,))
    graphs, graph_ns = len(whole), int(np.maximum(0, whole.end - whole.start).sum())
    notes = [_NVTX_TOO_NEW] if lost else []
    if KERNEL not in db.tables:
        notes.append(f"no {KERNEL} table: nsys recorded no CUDA kernel")
    if graphs:
        notes.append(
            f"{graphs} CUDA graph launches were recorded whole, without the kernels inside: their "
            f"{graph_ns / 1e6:.3g} ms count as GPU time, of no kernel; "
            "capture with --cuda-graph-trace=node to see them"
        )
    if schema and not schema.startswith("3."):
        notes.append(f"export schema {schema} is not one of the 3.x that are known: columns may be missing")
    notes += _warnings(db)
    info = TraceInfo(
        path=printable(shown),
        format="nsys-sqlite",
        exporter=exporter,
        schema=schema,
        devices=read_devices(db),
        whole_graph_launches=graphs,
        nvtx_domains=domains,
        notes=tuple(notes),
    )
    nodes = read_graph_nodes(db)  # also where a later trace has the replays
    named = _only(texts.all, kernels.name, calls.name, ranges.name, ranges.domain)
    if graphs:
        kernels, of_kernels = with_whole_graphs(kernels, of_kernels, whole, len(named))
        named.append(WHOLE_GRAPH)
    details = read_details(db, of_kernels) if with_details else None
    copies = _read_launched(db, COPIES)
    return Trace(info, kernels, calls, ranges, named, copies, details=details, graph_nodes=nodes)


def _only(texts: list[str], *used: Narrow) -> list[str]:
    """The texts in use, empty ones in place of the others: StringIds holds the recorded environment too."""
    named = [""] * len(texts)
    for index in used:
        for one in occurring(index, len(texts)).tolist():
            named[one] = printable(texts[one])
    return named


def _columns(db: Database, table: str, more: Mapping[str, int | None] | None = None) -> dict[str, Any]:
    """What is read of a table, and ``more``; times are int64."""
    c = db.integers(table, {**_READ[table], **(more or {})})
    return c | {time: c[time].astype(np.int64, copy=False) for time in ("start", "end")}


def _read_kernels(db: Database, texts: Texts, with_details: bool) -> tuple[Kernels, dict[str, Narrow]]:
    """The kernels, and the columns KERNEL_DETAILS of them."""
    more = KERNEL_DETAILS if with_details else {}
    c = in_time_order(_columns(db, KERNEL, more))
    shapes, shape = coded_rows([to_int32(c.pop(dimension)) for dimension in _SHAPE])
    kernels = Kernels(
        start=c["start"],
        end=c["end"],
        name=texts.index(c["demangledName"]),
        device=physical_devices(db, c["globalPid"], c["deviceId"]),
        stream=to_int32(c["streamId"]),
        pid=pid_of(c["globalPid"]),
        correlation=c["correlationId"],
        graph_node=c["graphNodeId"],
        shape=shape,
        shapes=np.stack(shapes, axis=1).astype(np.int32),
    )
    return kernels, {name: c[name] for name in more}


def _read_launched(db: Database, tables: Sequence[str]) -> Copies:
    """What was launched besides kernels, as these tables hold it."""
    parts = [_columns(db, table) for table in tables]
    c = in_time_order({key: np.concatenate([part[key] for part in parts]) for key in _LAUNCHED})
    return Copies(
        start=c["start"],
        end=c["end"],
        device=physical_devices(db, c["globalPid"], c["deviceId"]),
        stream=to_int32(c["streamId"]),
        pid=pid_of(c["globalPid"]),
        correlation=c["correlationId"],
    )


def _read_calls(db: Database, texts: Texts) -> ApiCalls:
    c = in_time_order(_columns(db, RUNTIME))
    return ApiCalls(
        start=c["start"],
        end=c["end"],
        name=texts.index(c["nameId"]),
        pid=pid_of(c["globalTid"]),
        thread=c["globalTid"].astype(np.int64, copy=False),
        correlation=c["correlationId"],
    )


def _versions(db: Database) -> tuple[str | None, str | None]:
    """The exporter, as "nsys 2024.2.3.38", and the schema, as "3.11.1"."""
    known: dict[object, object] = {}
    for table in db.tables.intersection(_VERSIONS):
        if {"name", "value"} <= db.columns(table).keys():
            known.update(db.rows(table, f"SELECT name, value FROM {table} WHERE name LIKE 'EXPORT%VERSION'"))
    product, schema = (
        printable(as_text(known.get(f"EXPORT_{which}_VERSION"))) for which in ("PRODUCT", "SCHEMA")
    )
    return f"nsys {product}" if product else None, schema or None


def _warnings(db: Database) -> list[str]:
    """What the recorder said of events it lost, each once, on one line."""
    table = "DIAGNOSTIC_EVENT"
    if "text" not in db.columns(table):
        return []
    texts = db.rows(table, f"SELECT DISTINCT text FROM {table}")
    lines = (" ".join(as_text(text).split())[:300] for (text,) in texts)
    return [f"nsys says: {printable(line)}" for line in lines if _WORTH_SHOWING.search(line)]
