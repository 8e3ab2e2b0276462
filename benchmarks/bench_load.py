#!/usr/bin/env python3
"""Time and memory of every command on traces of growing size, up to tens of millions of kernels.

    python benchmarks/bench_load.py                              # 2.5, 5, 10 and 20 million kernels
    python benchmarks/bench_load.py --kernels 250000 500000
    python benchmarks/bench_load.py big.sqlite small.sqlite      # any nsys exports
    python benchmarks/bench_load.py --commands check "check RUN" --folder /mnt/scratch

Each number is one whole process. Memory is the most it held at once: all of it (``ru_maxrss``, which counts
pages of mapped files too) and, in brackets, what is not a file's and could not be dropped by the system.
The last column is the CPU time over that of the trace before, for so many times as many kernels.
A trace of 20 million kernels, its run and one export of it at a time take 17 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_trace import versions, write_costs  # noqa: E402
from benchmarks.many import write_many  # noqa: E402

SIZES = (2_500_000, 5_000_000, 10_000_000, 20_000_000)
TABLES = ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS")
COMMANDS = {
    "check TRACE": ["check", "{trace}"],
    "report TRACE": ["report", "{trace}"],
    "import TRACE": ["import", "{trace}", "-o", "{run}", "-f"],
    "check RUN": ["check", "{run}"],
    "report RUN": ["report", "{run}"],
    "report RUN --html": ["report", "{run}", "--html", "{out}"],
    "check RUN --format csv": ["check", "{run}", "--format", "csv"],
    "export RUN --to csv": ["export", "{run}", "--to", "csv", "-o", "{out}", "-f"],
    "export RUN --to parquet": ["export", "{run}", "--to", "parquet", "-o", "{out}", "-f"],
    "export RUN --to perfetto": ["export", "{run}", "--to", "perfetto", "-o", "{out}", "-f"],
}
_MB = 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """Of one process: wall and CPU seconds, and the most memory in MB, whole and without files' pages."""

    wall: float
    cpu: float
    peak_mb: float
    anonymous_mb: float


def measure(arguments: list[str]) -> Cost | None:
    """The cost of one command; None where it fails."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "attnprof", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    anonymous = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        anonymous = max(anonymous, _anonymous(process.pid))
        time.sleep(0.01)
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 3):
        print(said[-500:], file=sys.stderr)
        return None
    wall = time.perf_counter() - began
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, anonymous / _MB)


def _anonymous(pid: int) -> int:
    """Bytes of the process's memory now that belong to no file."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def rows(trace: Path) -> list[int]:
    """The rows of TABLES."""
    import sqlite3

    with sqlite3.connect(f"file:{trace}?mode=ro&immutable=1", uri=True) as db:
        have = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        return [db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] if t in have else 0 for t in TABLES]


def bench(
    trace: Path, commands: list[str], folder: Path, growth: Callable[[str, Cost], str]
) -> dict[str, Cost]:
    """The cost of each command on one trace, printed as it is found with what ``growth`` says of it."""
    costs = {}
    run, out = folder / "run", folder / "out"
    for name in commands:
        if "RUN" in name and not run.exists():
            subprocess.run(
                [sys.executable, "-m", "attnprof", "import", trace, "-o", run], check=True, cwd=ROOT
            )
        cost = measure([part.format(trace=trace, run=run, out=out) for part in COMMANDS[name]])
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
        if cost is None:
            print(f"{name:26}{'failed':>10}", flush=True)
            continue
        costs[name] = cost
        memory = f"{cost.peak_mb:>8.0f} MB{f'({cost.anonymous_mb:.0f})':>8}"
        print(f"{name:26}{cost.wall:>8.1f} s{cost.cpu:>8.1f} s{memory}{growth(name, cost):>16}", flush=True)
    shutil.rmtree(run, ignore_errors=True)
    return costs


def _growth(kernels: int, kernels_before: int, before: dict[str, Cost], name: str, cost: Cost) -> str:
    if name not in before:
        return ""
    return f"{cost.cpu / before[name].cpu:.2f}x for {kernels / max(1, kernels_before):.2f}x"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("traces", type=Path, nargs="*")
    parser.add_argument("--kernels", type=int, nargs="*", default=SIZES)
    parser.add_argument("--commands", nargs="*", choices=[*COMMANDS], default=[*COMMANDS], metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where there is room for the traces and runs")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    results: dict[str, dict[str, Cost]] = {}
    print(versions(None))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        before: tuple[int, dict[str, Cost]] = 0, {}
        for given in args.traces or args.kernels:
            made = isinstance(given, int)
            trace = folder / "trace.sqlite" if made else given.resolve()
            if made:
                write_many(trace, given)
            kernels, calls, ranges = rows(trace)
            size = trace.stat().st_size / 1e9
            what = f"{kernels:,} kernels, {calls:,} API calls, {ranges:,} ranges, {size:.2f} GB"
            print(f"\n{what}\n{'':26}{'wall':>10}{'CPU':>10}{'peak':>11}{'(anon)':>8}", flush=True)
            results[what] = bench(trace, args.commands, folder, partial(_growth, kernels, *before))
            before = kernels, results[what]
    if args.json:
        write_costs(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
