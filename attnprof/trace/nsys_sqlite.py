"""Reader of nsys SQLite exports: every schema 3.x, 2022.4 to 2026.2.

Tables are looked up by name and columns by name; few are required, any table may be missing.
META_DATA_CAPTURE is never read: it holds the profiled process's environment.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np

from attnprof.errors import TraceError
from attnprof.trace.columns import Column, column, read_columns, table_columns
from attnprof.trace.model import (
    ApiCalls,
    Bool,
    Copies,
    Device,
    Int32,
    Int64,
    Kernels,
    Ranges,
    Trace,
    TraceInfo,
    rows_in_order,
)

KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
NVTX = "NVTX_EVENTS"
_COPIES = ("CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET")
_VERSIONS = ("META_DATA_EXPORT", "EXPORT_META_DATA")

_PUSH_POP, _START_END, _DOMAIN = 59, 60, 75
_OPEN = -1  # end of a range that was never closed
_PAYLOADS = ("int64Value", "uint64Value", "int32Value", "uint32Value")

_DURATION = Column("duration", '"end" - start', ("start", "end"))
_PID = Column("pid", "(globalPid >> 24) & 16777215", ("globalPid",), 0)
_LAUNCHED = (
    column("start"),
    _DURATION,
    column("device", "deviceId", 0),
    column("stream", "streamId", 0),
    column("correlation", "correlationId", -1),
    _PID,
)
_KERNEL = (*_LAUNCHED, column("name", "demangledName"), column("graph_node", "graphNodeId", 0))
_SHAPE = tuple(column(f"{what}{axis}", default=0) for what in ("grid", "block") for axis in "XYZ")
_RUNTIME = (
    column("start"),
    _DURATION,
    column("name", "nameId", -1),
    column("thread", "globalTid", 0),
    column("correlation", "correlationId", -1),
)
_RANGE = (
    column("start"),
    Column("end", '"end"', ("end",), _OPEN),
    column("type", "eventType"),
    column("name", "textId", -1),
    column("thread", "globalTid", 0),
    column("domain", "domainId", 0),
)

# Warnings of the recorder that bear on what a trace can answer; the others are about sampling, OpenGL, …
_WORTH_SHOWING = re.compile(
    r"might be missing|might have been (lost|dropped)|(were|was) (lost|dropped)|overflow"
    r"|not all (CUDA|NVTX) events|not supported by this build",
    re.IGNORECASE,
)
_NVTX_TOO_NEW = (
    "NVTX domains were created but not one range was recorded: nvtx is too new for this nsys "
    "(0.2.12 and later record nothing under nsys 2022.4 and 2023.4); capture again with nvtx 0.2.11"
)


def read_nsys_sqlite(path: Path, *, detail: Callable[[str], bool] | None = None, shown_as: str = "") -> Trace:
    """Read an nsys export, opened so that neither it nor its folder can change.

    ``detail`` picks, by demangled name, the kernels whose grid and block are read; None reads them all.
    ``shown_as`` is the path that messages name. Raises TraceError.
    """
    shown = shown_as or str(path)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            db.text_factory = lambda raw: raw.decode("utf-8", "replace")
            db.execute("PRAGMA trusted_schema = OFF")
            return _read(db, shown, detail)
    except sqlite3.Error as error:
        raise TraceError(
            f"{shown} cannot be read: {error}",
            hint="the file is damaged or was cut short: export the report again (nsys export --type sqlite)",
        ) from error
    except TraceError as error:
        raise TraceError(f"{shown}: {error.message}", hint=error.hint) from error


def _read(db: sqlite3.Connection, shown: str, detail: Callable[[str], bool] | None) -> Trace:
    tables = {
        name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    }
    if not tables & {*_VERSIONS, KERNEL, RUNTIME, NVTX}:
        some = ", ".join(sorted(tables)[:4]) or "none"
        raise TraceError(
            f"an SQLite file, but no nsys export (its tables: {some})",
            hint="make one with: nsys export --type sqlite REPORT.nsys-rep",
        )
    texts = _Texts(db, "StringIds" in tables)
    kernels = _read_kernels(db, texts, detail)
    calls = _read_calls(db, texts)
    ranges, domains, lost = _read_ranges(db, texts)
    exporter, schema = _versions(db, tables)
    graphs = _count(db, tables, GRAPH)
    notes = [_NVTX_TOO_NEW] if lost else []
    if KERNEL not in tables:
        notes.append(f"no {KERNEL} table: nsys recorded no CUDA kernel")
    if graphs:
        notes.append(
            f"{graphs} CUDA graph launches were recorded whole, without the kernels inside: "
            "capture with --cuda-graph-trace=node to see them"
        )
    if schema and not schema.startswith("3."):
        notes.append(f"export schema {schema} is newer than the 3.x that is known: columns may be missing")
    notes += _warnings(db)
    info = TraceInfo(
        path=shown,
        format="nsys-sqlite",
        exporter=exporter,
        schema=schema,
        devices=_devices(db),
        whole_graph_launches=graphs,
        nvtx_domains=domains,
        notes=tuple(notes),
    )
    return Trace(info, kernels, calls, ranges, texts.all, _read_copies(db))


class _Texts:
    """StringIds as a list, and the texts found elsewhere behind it; index 0 is the empty string."""

    def __init__(self, db: sqlite3.Connection, present: bool) -> None:
        rows = db.execute("SELECT id, value FROM StringIds ORDER BY id").fetchall() if present else []
        self._ids = np.fromiter((i for i, _ in rows), np.int64, count=len(rows))
        self.all = ["", *(value or "" for _, value in rows)]

    def index(self, ids: Int64) -> Int32:
        """Index into ``all`` per StringIds id; 0 where there is no such id."""
        if not len(self._ids):
            return np.zeros(len(ids), np.int32)
        low, span = int(self._ids[0]), int(self._ids[-1] - self._ids[0]) + 1
        if span <= 4 * len(self._ids) + 1024:
            known = np.zeros(span + 1, np.int32)
            known[self._ids - low] = np.arange(1, len(self._ids) + 1)
            at = ids - low
            return known[np.where((at >= 0) & (at < span), at, span)]
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[at] == ids, at + 1, 0).astype(np.int32)

    def ids(self, index: Int64) -> list[int]:
        """The StringIds ids of indices above 0."""
        return [int(i) for i in self._ids[index - 1]]

    def add(self, texts: Iterable[str | None]) -> Int32:
        """Indices of texts, each appended once; -1 for None."""
        added: dict[str, int] = defaultdict(lambda: len(self.all) + len(added))
        found = np.fromiter((-1 if t is None else added[t] for t in texts), np.int32)
        self.all += added
        return found


def _read_kernels(db: sqlite3.Connection, texts: _Texts, detail: Callable[[str], bool] | None) -> Kernels:
    c = read_columns(db, KERNEL, _KERNEL)
    name = texts.index(c["name"])
    shape = _read_shapes(db, texts, name, detail)
    kernels = Kernels(
        start=c["start"],
        end=c["start"] + c["duration"],
        name=name,
        device=_physical_devices(db, c["pid"], c["device"]),
        stream=_int32(c["stream"]),
        pid=_int32(c["pid"]),
        correlation=c["correlation"],
        graph_node=c["graph_node"],
        grid=shape[:, :3],
        block=shape[:, 3:],
    )
    return rows_in_order(kernels)


def _read_shapes(
    db: sqlite3.Connection, texts: _Texts, name: Int32, detail: Callable[[str], bool] | None
) -> Int32:
    """Grid and block of each kernel, (n, 6), in rowid order; zeros where ``detail`` declines the name."""
    shape = np.broadcast_to(np.int32(0), (len(name), 6))
    rows, where = len(name), ""
    mask: slice | Bool = slice(None)
    if detail is not None:
        seen = np.flatnonzero(np.bincount(name, minlength=1))
        accepted = np.zeros(len(texts.all), np.bool_)
        accepted[[i for i in seen.tolist() if i and detail(texts.all[i])]] = True
        mask = accepted[name]
        rows = int(np.count_nonzero(mask))
        where = f"demangledName IN ({', '.join(map(str, texts.ids(np.flatnonzero(accepted))))})"
    if rows:
        read = read_columns(db, KERNEL, _SHAPE, where=where, rows=rows)
        shape = np.zeros(shape.shape, np.int32)
        for i, dimension in enumerate(_SHAPE):
            shape[mask, i] = read[dimension.field]
    return shape


def _read_copies(db: sqlite3.Connection) -> Copies:
    parts = [read_columns(db, table, _LAUNCHED) for table in _COPIES]
    c = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    copies = Copies(
        start=c["start"],
        end=c["start"] + c["duration"],
        device=_physical_devices(db, c["pid"], c["device"]),
        stream=_int32(c["stream"]),
        pid=_int32(c["pid"]),
        correlation=c["correlation"],
    )
    return rows_in_order(copies)


def _read_calls(db: sqlite3.Connection, texts: _Texts) -> ApiCalls:
    c = read_columns(db, RUNTIME, _RUNTIME)
    calls = ApiCalls(
        start=c["start"],
        end=c["start"] + c["duration"],
        name=texts.index(c["name"]),
        pid=_pid(c["thread"]),
        thread=c["thread"],
        correlation=c["correlation"],
    )
    return rows_in_order(calls)


def _read_ranges(db: sqlite3.Connection, texts: _Texts) -> tuple[Ranges, tuple[str, ...], bool]:
    """The ranges, the names of their domains, and whether domains exist whose ranges never arrived."""
    present = table_columns(db, NVTX)
    payloads = [p for p in _PAYLOADS if p in present]
    wanted = list(_RANGE)
    if payloads:
        value = f"coalesce({', '.join(payloads)}, NULL)"
        wanted += [
            Column("payload", value, tuple(payloads), 0),
            Column("has_payload", f"{value} IS NOT NULL", tuple(payloads)),
        ]
    kinds = f"eventType IN ({_PUSH_POP}, {_START_END})"
    c = read_columns(db, NVTX, wanted, where=kinds)
    n = len(c["start"])
    name = texts.index(c["name"])
    inline = f"FROM {NVTX} NOT INDEXED WHERE {kinds}"
    if "text" in present and db.execute(f"SELECT 1 {inline} AND text IS NOT NULL LIMIT 1").fetchone():
        own = texts.add(text for (text,) in db.execute(f"SELECT text {inline} ORDER BY rowid"))
        name = np.where(own >= 0, own, name)
    pid = _pid(c["thread"])
    domain, names, lost = _domains(db, texts, present, pid, c["domain"])
    ends = c["end"]
    if n and ends.min() == _OPEN:
        ends = np.where(ends == _OPEN, max(int(ends.max()), int(c["start"].max())), ends)
    ranges = Ranges(
        start=c["start"],
        end=ends,
        name=name,
        domain=domain,
        thread=c["thread"],
        pid=pid,
        payload=c.get("payload", np.zeros(n, np.int64)),
        has_payload=c.get("has_payload", np.zeros(n, np.int64)).astype(np.bool_),
        nested=c["type"] == _PUSH_POP,
    )
    return rows_in_order(ranges), names, lost and not n


def _domains(
    db: sqlite3.Connection, texts: _Texts, present: frozenset[str], pid: Int32, number: Int64
) -> tuple[Int32, tuple[str, ...], bool]:
    """Text index of each range's domain, the domains' names, and whether any was created.

    A domain number belongs to its process; 0 is the default domain, which has no name.
    """
    domain = np.zeros(len(pid), np.int32)
    if not {"text", "globalTid", "domainId"} <= present:
        return domain, (), False
    created = db.execute(
        f"SELECT globalTid, domainId, text FROM {NVTX} WHERE eventType = {_DOMAIN}"
    ).fetchall()
    index = texts.add(text or "" for _, _, text in created)
    for (thread, one, _), at in zip(created, index.tolist(), strict=True):
        domain[(number == one) & (pid == ((thread or 0) >> 24 & 0xFFFFFF))] = at
    return domain, tuple(dict.fromkeys(text for *_, text in created if text)), bool(created)


def _physical_devices(db: sqlite3.Connection, pid: Int64, device: Int64) -> Int32:
    """Each kernel's GPU as TARGET_INFO_GPU numbers it: a process may see the GPUs under other numbers."""
    physical = _int32(device)
    table = "TARGET_INFO_CUDA_DEVICE"
    if not {"gpuId", "cudaId", "pid"} <= table_columns(db, table):
        return physical
    moved = db.execute(
        f"SELECT pid, cudaId, gpuId FROM {table} WHERE gpuId IS NOT NULL AND gpuId <> cudaId"
    ).fetchall()
    if moved:
        physical = physical.copy()
    for process, seen, real in moved:
        physical[(pid == process) & (device == seen)] = real
    return physical


def _devices(db: sqlite3.Connection) -> tuple[Device, ...]:
    """The machine's NVIDIA GPUs; smMajor is the chip's own numbering, so the compute capability is read."""
    present = table_columns(db, "TARGET_INFO_GPU")
    if "id" not in present:
        return ()
    fields = (
        "id",
        "name",
        "smCount",
        "computeMajor",
        "computeMinor",
        "maxShmemPerSm",
        "maxShmemPerBlockOptin",
    )
    select = ", ".join(f if f in present else "NULL" for f in fields)
    rows = db.execute(f"SELECT {select} FROM TARGET_INFO_GPU ORDER BY id").fetchall()
    return tuple(
        Device(index, name, sms, major, minor, per_sm or None, optin or None)
        for index, name, sms, major, minor, per_sm, optin in rows
        if sms != 0  # what is listed with no SM is no CUDA device
    )


def _versions(db: sqlite3.Connection, tables: set[str]) -> tuple[str | None, str | None]:
    """The exporter, as "nsys 2024.2.3.38", and the schema, as "3.11.1"."""
    known: dict[str, str] = {}
    for table in _VERSIONS:
        if table in tables:
            known.update(db.execute(f"SELECT name, value FROM {table} WHERE name LIKE 'EXPORT%VERSION'"))
    product = known.get("EXPORT_PRODUCT_VERSION")
    return f"nsys {product}" if product else None, known.get("EXPORT_SCHEMA_VERSION")


def _warnings(db: sqlite3.Connection) -> list[str]:
    """What the recorder said of events it lost, each once, on one line."""
    table = "DIAGNOSTIC_EVENT"
    if "text" not in table_columns(db, table):
        return []
    lines = (" ".join((text or "").split()) for (text,) in db.execute(f"SELECT DISTINCT text FROM {table}"))
    return [f"nsys says: {line[:300]}" for line in lines if _WORTH_SHOWING.search(line)]


def _count(db: sqlite3.Connection, tables: set[str], table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if table in tables else 0


def _derived(values: Int64, rule: Callable[[Int64], Int32]) -> Int32:
    """The rule applied to a column; what it makes of a constant stays a broadcast."""
    if values.strides == (0,) and len(values):
        return np.broadcast_to(rule(values[:1])[0], values.shape)
    return rule(values)


def _pid(global_id: Int64) -> Int32:
    """The process of a serialized id: the 24 bits above the thread's 24."""
    return _derived(global_id, lambda g: (g >> 24 & 0xFFFFFF).astype(np.int32))


def _int32(values: Int64) -> Int32:
    return _derived(values, lambda v: v.astype(np.int32))
