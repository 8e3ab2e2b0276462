"""Rows of the table: reading large traces, over the least that reading them can cost.

The floor of an nsys export is SQLite's own scan of the columns that attnprof reads, that of a torch trace
``json.load``. Beside them are others that read the same file; what takes them minutes is left to bench_trace.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from attnprof.machine.find_nsys import find_nsys
from benchmarks.bench_trace import SCAN, imports
from benchmarks.ratios import ATTNPROF, Job, Program
from benchmarks.synthetic import write_chrome, write_sqlite

KERNELS, EVENTS_OF = 2_000_000, 200_000  # kernels of the export; of the torch trace, about 180 MB
_JSON = "import json, sys; json.load(open(sys.argv[1]))"
_SIMDJSON = "import simdjson, sys; simdjson.Parser().parse(open(sys.argv[1], 'rb').read())"
_READ = (
    "import pathlib, sys; from attnprof.trace.torch_json import read_torch_json as read;"
    " read(pathlib.Path(sys.argv[1]))"
)
_HTA = (
    "import sys, logging; logging.disable(logging.CRITICAL); from hta.common.trace import Trace;"
    " Trace(trace_files={0: sys.argv[1]}, trace_dir='').parse_traces(use_multiprocessing=False)"
)
_NSYS_AI = "import sys; from nsys_ai.__main__ import main; main()"


def jobs(folder: Path, peers: str | None) -> Iterator[Job]:
    """check, report, import and two of nsys's reports of 2 million kernels; a torch trace of 180 MB."""
    trace, chrome = folder / "trace.sqlite", folder / "trace.json"
    write_sqlite(trace, KERNELS)
    write_chrome(chrome, EVENTS_OF)
    scan = Program((sys.executable, "-c", SCAN, trace))

    def peer(module: str, program: str, *arguments: str | Path) -> dict[str, Program]:
        return (
            {module: Program((peers, "-c", program, *arguments))} if peers and imports(peers, module) else {}
        )

    def nsys(report: str) -> dict[str, Program]:
        options = ("-q", "-r", report, "--format", "csv", "--output", "-", "--force-export", "false")
        found = find_nsys()
        return {f"nsys {report}": Program((found, "stats", *options, trace))} if found else {}

    def ours(*arguments: str | Path) -> Program:
        return Program((*ATTNPROF, *arguments))

    yield Job("check, 2M kernels", ours("check", trace), 1.2, scan, nsys("gpukernsum"))
    copy = shutil.copyfile(trace, folder / "copy.sqlite")  # nsys-ai writes into the file it is given
    skill = ("skill", "run", "top_kernels", copy)
    yield Job("report, 2M kernels", ours("report", trace), 1.4, scan, peer("nsys_ai", _NSYS_AI, *skill))
    yield Job("import, 2M kernels", ours("import", trace, "-o", folder / "run", "-f"), 2.0, scan)
    for name in ("nvtx_kern_sum", "nvtx_gpu_proj_trace"):
        yield Job(f"{name}, 2M", ours("report", trace, "--report", name, "--format", "csv"), 2.5, scan)
    reader = Program((sys.executable, "-c", _READ, chrome))
    floor = Program((sys.executable, "-c", _JSON, chrome))
    beside = peer("simdjson", _SIMDJSON, chrome) | peer("hta", _HTA, chrome)
    yield Job("torch trace, 180 MB", reader, 0.30, floor, beside)
