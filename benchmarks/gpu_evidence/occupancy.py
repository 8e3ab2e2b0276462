"""Step: registers and shared memory as the profiler saw them, against the table of released builds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnprof.analysis.kernel_resources import resources_of
from attnprof.analysis.sm_fill import sm_fill
from attnprof.dispatch import predict
from attnprof.dispatch.names.kernel_names import is_attention_kernel
from attnprof.model import AttentionCall, Gpu, KernelLaunch
from benchmarks.gpu_evidence.calls import matrix, torch_thunk
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.profiled import profiling

_CALLS = 120


def run(evidence: Evidence) -> None:
    """Calls of many kernels of torch, each once; a difference from the table is a mismatch."""
    gpu, version = evidence.environment()
    rows = [against_table(seen, gpu, "torch", version) for seen in seen_kernels(gpu, version)]
    known = [row for row in rows if row["registers_in_table"] is not None]
    differ = [row for row in known if row["registers"] != row["registers_in_table"]]
    evidence.add(
        "occupancy", kernels=len(rows), in_table=len(known), mismatches=len(differ), rows=rows,
    )  # fmt: skip


def seen_kernels(gpu: Gpu, version: str) -> list[dict[str, Any]]:
    """The profiler's own figures of each attention kernel that the calls launched."""
    calls = list(one_of_each(gpu, version))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "occupancy.json"
        with profiling(trace):
            for thunk in map(torch_thunk, calls):
                thunk()
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    seen: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("cat") == "kernel" and is_attention_kernel(str(event.get("name"))):
            seen.setdefault(event["name"], {"kernel": event["name"], **event["args"]})
    return list(seen.values())


def one_of_each(gpu: Gpu, version: str) -> Iterator[AttentionCall]:
    """Small calls that launch unlike kernels, as predicted."""
    launched: set[str] = set()
    for call in matrix(2000, "torch", seed=9):
        small = replace(call, batch=1, total_q=None)
        kernels = {launch.kernel for launch in predict(small, gpu, version).launches}
        if kernels - launched and len(launched) < _CALLS:
            launched |= kernels
            yield small


def against_table(seen: dict[str, Any], gpu: Gpu, library: str, version: str) -> dict[str, Any]:
    """One kernel: registers and shared memory seen, and what the table says of them."""
    stated = resources_of(seen["kernel"], gpu, library, version)
    grid, block = (tuple(seen[name]) for name in ("grid", "block"))
    fill = sm_fill(KernelLaunch(seen["kernel"], grid, block), gpu, library, version)
    return {
        "kernel": seen["kernel"],
        "registers": seen["registers per thread"],
        "registers_in_table": stated.registers if stated else None,
        "shared_memory": seen["shared memory"],
        "per_sm": fill.per_sm,
        "exact": fill.exact,
        "profilers_estimate_percent": seen.get("est. achieved occupancy %"),
    }
