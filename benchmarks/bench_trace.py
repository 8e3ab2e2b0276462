#!/usr/bin/env python3
"""Time and memory of reading a trace and building its timeline, beside SQLite's own scan of the columns.

    python benchmarks/bench_trace.py                    # synthetic traces of 20,000 and 200,000 kernels
    python benchmarks/bench_trace.py --kernels 2000000
    python benchmarks/bench_trace.py trace.sqlite …     # any nsys exports

Each number is a whole process, interpreter start and imports included: the median of ``--repeat`` runs.
The floor is `SELECT max(column)` over every column that is read, which SQLite computes in C without handing
a single value to Python.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SCAN = """
import sqlite3, sys
from attnprof.trace.nsys_sqlite import READ
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
for table, columns in READ.items():
    present = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    if present:
        scanned = ", ".join(f"max({c})" for c in columns if c in present)
        db.execute(f"SELECT {scanned} FROM {table}").fetchone()
"""
OPEN = """
import sys
from attnprof.trace.open import open_trace
trace = open_trace(sys.argv[1])
"""
TIMELINE = (
    OPEN
    + """
from attnprof.timeline import build_timeline
build_timeline(trace).projection()
"""
)
PEAK = """
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
JOBS = {"sqlite scan": SCAN, "open_trace": OPEN, "and timeline": TIMELINE}


def kernel_rows(kernels: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, ...]]]]:
    """Each kernel, its launch, and the ranges that begin with it: steps of 28 layers of 12 kernels."""
    for i in range(kernels):
        start, layer, step = 2_000_000_000 + 9_000 * i, i // 12, i // 336
        name = 100 + i % 12
        kernel = (start + 5_000 + i % 700, start + 9_000 + i % 3_000, 0, 7, i, 1 << 48 | 42 << 24, name)
        shape = (1 + i % 97, 1 + i % 5, 4, 128, 1, 1)
        ranges = []
        if i % 336 == 0:
            ranges.append((start - 900, start + 9_000 * 336 - 1_000, 200, step))
        if i % 12 == 0:
            ranges.append((start - 500, start + 9_000 * 12 - 2_000, 201, layer % 28))
        yield (*kernel, *shape), (start, start + 3_000 + i % 900, 1 << 48 | 42 << 24 | 42, i, 99), ranges


def write_trace(path: Path, kernels: int) -> None:
    """An nsys export with the tables and column order of schema 3."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.support.build_trace import SCHEMA

    db = sqlite3.connect(path)
    for table in (
        "StringIds",
        "META_DATA_EXPORT",
        "CUPTI_ACTIVITY_KIND_KERNEL",
        "CUPTI_ACTIVITY_KIND_RUNTIME",
    ):
        db.execute(f"CREATE TABLE {table} ({SCHEMA[table]})")
    db.execute(f"CREATE TABLE NVTX_EVENTS ({SCHEMA['NVTX_EVENTS']})")
    names = {99: "cudaLaunchKernel_v7000", 200: "decode", 201: "layer"}
    names |= {100 + i: f"void kernel_{i}<(int){i}>(T1)" for i in range(12)}
    db.executemany("INSERT INTO StringIds VALUES (?, ?)", names.items())
    db.execute("INSERT INTO META_DATA_EXPORT VALUES ('EXPORT_SCHEMA_VERSION', '3.11.1')")
    into_kernel = """INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL (
        start, end, deviceId, streamId, correlationId, globalPid, demangledName,
        gridX, gridY, gridZ, blockX, blockY, blockZ, contextId, shortName, registersPerThread,
        staticSharedMemory, dynamicSharedMemory, localMemoryPerThread, localMemoryTotal, gridId)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 5, 40, 0, 49152, 0, 0, 0)"""
    into_call = """INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME (
        start, end, globalTid, correlationId, nameId, eventClass, returnValue) VALUES (?, ?, ?, ?, ?, 0, 0)"""
    into_range = f"""INSERT INTO NVTX_EVENTS (start, end, textId, int64Value, eventType, domainId, globalTid)
        VALUES (?, ?, ?, ?, 59, 1, {1 << 48 | 42 << 24 | 42})"""
    db.execute(
        f"INSERT INTO NVTX_EVENTS (start, eventType, text, domainId, globalTid) "
        f"VALUES (1, 75, 'attnprof', 1, {1 << 48 | 42 << 24 | 42})"
    )
    for kernel, call, ranges in kernel_rows(kernels):
        db.execute(into_kernel, kernel)
        db.execute(into_call, call)
        db.executemany(into_range, ranges)
    db.commit()
    db.close()


def measure(code: str, trace: Path) -> tuple[float, float]:
    """Seconds of wall time and MB of peak memory of one process."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code + PEAK, trace], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - began, int(done.stdout.split()[-1]) / 1024


def bench(trace: Path, repeat: int) -> dict[str, dict[str, float]]:
    runs: dict[str, list[tuple[float, float]]] = {job: [] for job in JOBS}
    for _ in range(repeat):
        for job, code in JOBS.items():
            runs[job].append(measure(code, trace))
    floor = statistics.median(seconds for seconds, _ in runs["sqlite scan"])
    return {
        job: {
            "seconds": round(statistics.median(s for s, _ in taken), 3),
            "peak_mb": round(max(mb for _, mb in taken)),
            "ratio": round(statistics.median(s for s, _ in taken) / floor, 2),
        }
        for job, taken in runs.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("traces", type=Path, nargs="*")
    parser.add_argument("--kernels", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        traces = {path.name: path for path in args.traces}
        for kernels in [] if traces else args.kernels:
            traces[f"{kernels:,} kernels"] = path = Path(folder) / f"{kernels}.sqlite"
            write_trace(path, kernels)
        print(f"{'':24}{'job':>14}{'seconds':>10}{'MB':>8}{'x scan':>8}")
        for name, path in traces.items():
            results[name] = bench(path, args.repeat)
            for job, row in results[name].items():
                print(f"{name:24}{job:>14}{row['seconds']:>10.3f}{row['peak_mb']:>8.0f}{row['ratio']:>8.2f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
