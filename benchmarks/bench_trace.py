#!/usr/bin/env python3
"""Time and memory of attnprof's commands on large traces, beside nsys, SQLite's own scan, and peers.

    python benchmarks/bench_trace.py                     # traces of 20,000 and 200,000 kernels
    python benchmarks/bench_trace.py --kernels 2000000
    python benchmarks/bench_trace.py trace.sqlite …      # any nsys exports
    python benchmarks/bench_trace.py --peers PYTHON      # a Python with HolisticTraceAnalysis and nsys-ai

Each number is a whole process, start and imports included: the least of ``--repeat`` runs, because everything
that disturbs a run makes it longer. Ratios are of CPU seconds, which a busy machine changes little, against
the floor: `SELECT max(column)` over every column that attnprof reads, which SQLite computes in C without
handing a single value to Python. HolisticTraceAnalysis gets the same run as a torch.profiler trace.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from attnprof.machine.find_nsys import find_nsys, nsys_version  # noqa: E402
from benchmarks.ratios import Cost, run_once  # noqa: E402
from benchmarks.synthetic import write_chrome, write_sqlite  # noqa: E402

ATTNPROF = "from attnprof.cli import main; main()"
SCAN = """
import sqlite3, sys
READ = {
    "CUPTI_ACTIVITY_KIND_KERNEL": "start end deviceId streamId correlationId globalPid demangledName"
        " graphNodeId gridX gridY gridZ blockX blockY blockZ",
    "CUPTI_ACTIVITY_KIND_RUNTIME": "start end globalTid correlationId nameId",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "start end deviceId streamId correlationId globalPid",
    "NVTX_EVENTS": "start end eventType globalTid textId domainId int64Value uint64Value"
        " int32Value uint32Value",
}
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
for table, columns in READ.items():
    db.execute(f"SELECT {', '.join(f'max({c})' for c in columns.split())} FROM {table}").fetchone()
"""
HTA = """
import sys, logging, warnings
warnings.filterwarnings("ignore"); logging.disable(logging.CRITICAL)
from hta.trace_analysis import TraceAnalysis
analysis = TraceAnalysis(trace_files={0: sys.argv[1]}, trace_dir="")
analysis.get_gpu_kernel_breakdown(visualize=False)
analysis.get_temporal_breakdown(visualize=False)
"""
NSYS_PROJECTION_LIMIT = 12_000  # kernels; its time grows with the square
PEER_LIMIT = 300_000  # kernels; beyond that they need more memory than machines like this one have
ENOUGH_S = 20  # a job that took so long is not repeated


def measure(command: list[str | Path], repeat: int) -> Cost | None:
    """The least time of several runs of a command, the most memory; None where it fails or takes too long."""
    taken: list[Cost] = []
    for _ in range(repeat):
        if sum(cost.wall for cost in taken) > ENOUGH_S:
            break
        cost = run_once(command)
        if cost is None:
            return None
        taken.append(cost)
    return Cost(min(c.wall for c in taken), min(c.cpu for c in taken), max(c.peak_mb for c in taken))


def jobs(trace: Path, kernels: int, runs: Path, peers: str | None) -> dict[str, list[str | Path]]:
    """The commands to measure, by name, the floor first."""
    ours: list[str | Path] = [sys.executable, "-c", ATTNPROF]
    found: dict[str, list[str | Path]] = {"SQLite scan": [sys.executable, "-c", SCAN, trace]}
    found["check, cold"] = [*ours, "check", trace]
    found["check, warm"] = [*ours, "check", runs / "warm"]
    found["report, cold"] = [*ours, "report", trace]
    found["report, warm"] = [*ours, "report", runs / "warm"]
    for report in ("cuda_gpu_kern_sum", "nvtx_kern_sum", "nvtx_gpu_proj_trace"):
        found[report] = [*ours, "report", trace, "--report", report, "--format", "csv"]
    nsys = find_nsys()
    for report in ("gpukernsum", "nvtxkernsum", "nvtxgpuproj") if nsys else ():
        if report != "nvtxgpuproj" or kernels <= NSYS_PROJECTION_LIMIT:
            options = ["-q", "-r", report, "--format", "csv", "--output", "-", "--force-export", "false"]
            found[f"nsys {report}"] = [nsys, "stats", *options, trace]  # type: ignore[list-item]
    if peers and kernels <= PEER_LIMIT:
        found |= peer_jobs(peers, trace, kernels)
    return found


def peer_jobs(python: str, trace: Path, kernels: int) -> dict[str, list[str | Path]]:
    """The peers that ``python`` can import. nsys-ai writes into the file it is given, so it gets a copy."""
    found: dict[str, list[str | Path]] = {}
    if imports(python, "nsys_ai"):
        copy = trace.with_name(f"copy-{trace.name}")
        shutil.copyfile(trace, copy)
        call = "import sys; from nsys_ai.__main__ import main; main()"
        found["nsys-ai layers"] = [python, "-c", call, "skill", "run", "nvtx_layer_breakdown", copy]
    if imports(python, "hta"):
        chrome = trace.with_suffix(".json")
        write_chrome(chrome, kernels)
        found["HTA breakdowns"] = [python, "-c", HTA, chrome]
    return found


def imports(python: str, module: str) -> bool:
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    return done.returncode == 0


def versions(peers: str | None) -> str:
    """What was measured, in one line."""
    import sqlite3

    known = [f"Python {sys.version.split()[0]}", f"numpy {version('numpy')}", f"typer {version('typer')}"]
    known.append(f"SQLite {sqlite3.sqlite_version}")
    nsys = find_nsys()
    if nsys:
        known.append(f"nsys {nsys_version(nsys)}")
    if peers:
        listed = "import importlib.metadata as m\nfor n in ('HolisticTraceAnalysis', 'nsys-ai', 'pandas'):\n"
        listed += "    try: print(n, m.version(n))\n    except m.PackageNotFoundError: pass"
        done = subprocess.run([peers, "-c", listed], capture_output=True, text=True, check=False)
        known += done.stdout.splitlines()
    return ", ".join([*known, f"{os.cpu_count()} CPUs"])


def bench(
    trace: Path, kernels: int, repeat: int, peers: str | None, say: Callable[[str], None]
) -> dict[str, Cost]:
    """The cost of every job on one trace, printed as it is found."""
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        subprocess.run(
            [sys.executable, "-c", ATTNPROF, "import", trace, "-o", runs / "warm"],
            check=True,
            capture_output=True,
            cwd=ROOT,
        )
        for name, command in jobs(trace, kernels, runs, peers).items():
            cost = measure(command, repeat if kernels <= 300_000 else min(repeat, 3))
            if cost is None:
                say(f"{name:22}{'failed or stopped':>40}")
                continue
            costs[name] = cost
            ratio = cost.cpu / costs["SQLite scan"].cpu if "SQLite scan" in costs else 0.0
            say(f"{name:22}{cost.wall:>9.2f} s{cost.cpu:>9.2f} s{cost.peak_mb:>8.0f} MB{ratio:>9.2f}")
    return costs


def growth(results: dict[str, dict[str, Cost]], say: Callable[[str], None]) -> None:
    """By how much each job's CPU time grows from one trace to the next."""
    names = list(results)
    for before, after in pairwise(names):
        say(f"\nCPU time from {before} to {after}:")
        for job in (job for job in results[before] if job in results[after]):
            say(f"  {job:22}x{results[after][job].cpu / results[before][job].cpu:.1f}")


def write_costs(path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the cost, a dataclass, of each job on each trace as JSON."""
    plain = {name: {job: asdict(cost) for job, cost in jobs.items()} for name, jobs in results.items()}
    path.write_text(json.dumps(plain, indent=1) + "\n")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("traces", type=Path, nargs="*")
    parser.add_argument("--kernels", type=int, nargs="*", default=[20_000, 200_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--peers", metavar="PYTHON", help="measure the peers that this Python imports")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
    results: dict[str, dict[str, Cost]] = {}
    print(versions(args.peers))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        traces = {path.name: (path.resolve(), path.stat().st_size // 120) for path in args.traces}
        for kernels in [] if traces else args.kernels:
            path = Path(folder) / f"{kernels}.sqlite"
            write_sqlite(path, kernels)
            traces[f"{kernels:,} kernels"] = path, kernels
        for name, (path, kernels) in traces.items():
            print(f"\n{name:22}{'wall':>11}{'CPU':>11}{'peak':>11}{'x scan':>9}")
            results[name] = bench(path, kernels, args.repeat, args.peers, say)
    growth(results, say)
    if args.json:
        write_costs(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
