"""Rows of the table: what a command costs that has next to nothing to do. Goals are CPU seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ratios import ATTNPROF, ROOT, Job, Program
from benchmarks.synthetic import write_sqlite

_CALL = ("--gpu", "h100", "--batch", "8", "--seqlen-k", "4096")
_FLOORS = {
    "python": Program((sys.executable, "-c", "pass")),
    "import typer": Program((sys.executable, "-c", "import typer")),
}
_NUMPY = {"import numpy": Program((sys.executable, "-c", "import numpy"))}


def jobs(folder: Path, peers: str | None) -> Iterator[Job]:
    """--help, explain and predict of one call, and check of a run of 2,000 kernels."""
    yield Job("attnprof --help", Program((*ATTNPROF, "--help")), 0.12, peers=_FLOORS)
    yield Job("explain, one call", Program((*ATTNPROF, "explain", *_CALL)), 0.20)
    yield Job("predict, one call", Program((*ATTNPROF, "predict", *_CALL)), 0.20)
    trace, run = folder / "small.sqlite", folder / "small"
    write_sqlite(trace, 2000)
    subprocess.run([*ATTNPROF, "import", trace, "-o", run], check=True, capture_output=True, cwd=ROOT)
    yield Job("check, a run of 2,000 kernels", Program((*ATTNPROF, "check", run)), 0.35, peers=_NUMPY)
