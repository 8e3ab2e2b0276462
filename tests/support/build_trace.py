"""Writes small nsys SQLite exports, row by row, for cases no real trace at hand shows."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

VM = 1 << 48
SCHEMA = {
    "StringIds": "id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL",
    "META_DATA_EXPORT": "name TEXT NOT NULL, value TEXT",
    "TARGET_INFO_GPU": (
        "vmId INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT, smCount INTEGER, cuDevice INTEGER,"
        " maxShmemPerBlockOptin INTEGER, maxShmemPerSm INTEGER, computeMajor INTEGER, computeMinor INTEGER,"
        " smMajor INTEGER, smMinor INTEGER"
    ),
    "TARGET_INFO_CUDA_DEVICE": "gpuId INTEGER, cudaId INTEGER NOT NULL, pid INTEGER NOT NULL",
    "CUPTI_ACTIVITY_KIND_KERNEL": (
        "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,"
        " streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,"
        " demangledName INTEGER NOT NULL,"
        " shortName INTEGER NOT NULL, mangledName INTEGER, launchType INTEGER, cacheConfig INTEGER,"
        " registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL, gridY INTEGER NOT NULL,"
        " gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL,"
        " staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL,"
        " localMemoryPerThread INTEGER NOT NULL, localMemoryTotal INTEGER NOT NULL, gridId INTEGER NOT NULL,"
        " sharedMemoryExecuted INTEGER, graphNodeId INTEGER, sharedMemoryLimitConfig INTEGER"
    ),
    "CUPTI_ACTIVITY_KIND_RUNTIME": (
        "start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER,"
        " correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER"
    ),
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": (
        "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL,"
        " streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER, graphId INTEGER NOT NULL,"
        " graphExecId INTEGER NOT NULL"
    ),
    "CUDA_GRAPH_NODE_EVENTS": (
        "start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, globalTid INTEGER,"
        " nameId INTEGER NOT NULL, graphNodeId INTEGER NOT NULL, originalGraphNodeId INTEGER"
    ),
    "NVTX_EVENTS": (
        "start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, category INTEGER,"
        " color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER,"
        " domainId INTEGER,"
        " uint64Value INTEGER, int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER,"
        " floatValue REAL, jsonTextId INTEGER, jsonText TEXT"
    ),
    "DIAGNOSTIC_EVENT": (
        "timestamp INTEGER NOT NULL, timestampType INTEGER NOT NULL, source INTEGER NOT NULL,"
        " severity INTEGER NOT NULL, text TEXT NOT NULL, globalPid INTEGER"
    ),
    "META_DATA_CAPTURE": "name TEXT NOT NULL, value TEXT",
}


def global_tid(pid: int, tid: int) -> int:
    return VM | pid << 24 | tid


class TraceBuilder:
    """Collects rows; tables nobody wrote to are left out, as nsys does."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.strings: dict[str | bytes, int] = {}
        self.add("META_DATA_EXPORT", name="EXPORT_PRODUCT_VERSION", value="2024.2.3.38")
        self.add("META_DATA_EXPORT", name="EXPORT_SCHEMA_VERSION", value="3.11.1")

    def add(self, table: str, **values: Any) -> None:
        self.rows[table].append(values)

    def string(self, text: str | bytes) -> int:
        return self.strings.setdefault(text, 10 + len(self.strings))

    def kernel(self, name: str | bytes, start: int, end: int, correlation: int, **values: Any) -> None:
        pid = values.pop("pid", 7)
        grid, block = values.pop("grid", (1, 1, 1)), values.pop("block", (128, 1, 1))
        shape = dict(
            zip(("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ"), (*grid, *block), strict=True)
        )
        known = {"start": start, "end": end, "correlationId": correlation, "globalPid": VM | pid << 24}
        known |= {
            "demangledName": self.string(name),
            "shortName": self.string("k"),
            "streamId": 7,
            "deviceId": 0,
        }
        self.add("CUPTI_ACTIVITY_KIND_KERNEL", **{**known, **shape, **values})

    def call(
        self, start: int, end: int, correlation: int, pid: int = 7, tid: int = 7, name: str = ""
    ) -> None:
        self.add(
            "CUPTI_ACTIVITY_KIND_RUNTIME",
            start=start,
            end=end,
            globalTid=global_tid(pid, tid),
            correlationId=correlation,
            nameId=self.string(name or "cudaLaunchKernel_v7000"),
        )

    def range(self, text: str | bytes, start: int, end: int | None, **values: Any) -> None:
        """An NVTX range; ``inline`` puts its name into the row instead of StringIds."""
        pid, tid = values.pop("pid", 7), values.pop("tid", 7)
        name = {"text": text} if values.pop("inline", False) else {"textId": self.string(text)}
        known = {
            "start": start,
            "end": end,
            "eventType": 59,
            "globalTid": global_tid(pid, tid),
            "domainId": 0,
        }
        self.add("NVTX_EVENTS", **{**known, **name, **values})

    def domain(self, name: str, number: int, pid: int = 7) -> None:
        thread = global_tid(pid, 7)
        self.add("NVTX_EVENTS", start=1, eventType=75, text=name, globalTid=thread, domainId=number)

    def write(self, path: Path) -> Path:
        db = sqlite3.connect(path)
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA journal_mode=OFF")
        for text, number in self.strings.items():
            self.add("StringIds", id=number, value=text)
        for table, rows in self.rows.items():
            db.execute(f"CREATE TABLE {table} ({SCHEMA[table]})")
            required = [c[1] for c in db.execute(f"PRAGMA table_info({table})") if c[3]]
            for row in rows:
                full = dict.fromkeys(required, 0) | row
                marks = ", ".join("CAST(? AS TEXT)" if isinstance(v, bytes) else "?" for v in full.values())
                db.execute(f"INSERT INTO {table} ({', '.join(full)}) VALUES ({marks})", list(full.values()))
        db.commit()
        db.close()
        return path
