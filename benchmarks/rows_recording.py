"""Rows of the table: what recording adds to a call and to a layer, in CPU seconds; ranges are not counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.ratios import Job, Program

_GOALS = {  # seconds
    "sdpa, as transformers calls it": 1.5e-6,
    "flash_attn fwd": 1.5e-6,
    "flash_attn varlen_fwd": 1.5e-6,
    "flash_attn fwd_kvcache": 1.5e-6,
    "vLLM's 21 named arguments": 1.5e-6,
    "a layer": 0.5e-6,
}


def jobs(folder: Path, peers: str | None) -> Iterator[Job]:
    """Each door of ``bench_recording.py`` in a process of its own."""
    for door, goal in _GOALS.items():
        command = (sys.executable, "-m", "benchmarks.bench_recording", "--rounds", "100", "--only", door)
        yield Job(f"recording: {door}", Program(command, printed=True), goal)
