"""torch.profiler traces of decode calls of 28/4 heads x 128 on an H100, with the predicted kernels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnprof.dispatch import predict
from attnprof.model import KernelLaunch, Library
from attnprof.runs import run_folders
from attnprof.runs.ingest import finish
from attnprof.runs.run_builder import new_run
from attnprof.trace.open_trace import open_trace
from tests.support.generated_run import H100, decode_call, record_of

DEVICE = {"id": 0, "name": "NVIDIA H100 80GB HBM3", "computeMajor": 9, "computeMinor": 0, "numSms": 132}


def decode_trace(
    path: Path,
    seqlens_k: Sequence[int],
    *,
    recorded_until: int | None = None,
    without: int | None = None,
    first: int = 0,
    ranged: bool = True,
    library: Library = "flash_attn",
    version: str | None = None,
) -> Path:
    """One ranged call per KV length, in µs as Kineto writes them, ending with the profiler's synchronisation.

    Nothing of the GPU is written from call ``recorded_until`` on, nor of the call ``without``. The first call
    has the number ``first``.
    """
    last = len(seqlens_k) if recorded_until is None else recorded_until
    events: list[dict[str, Any]] = []
    for row, seqlen_k in enumerate(seqlens_k):
        seq = first + row
        start = 100 * seq
        if ranged:
            events.append(_event("user_annotation", f"attnprof:attn:{seq}", start, 80))
        if row >= last or seq == without:
            continue
        call = replace(decode_call(seqlen_k), library=library)
        for number, launch in enumerate(predict(call, H100, version).launches):
            correlation = 10 * seq + number
            events.append(_event("cuda_runtime", "cudaLaunchKernel", start + 10 + number, 1, correlation))
            events.append(_kernel(launch, start + 20 + 10 * number, correlation))
    if recorded_until is None:
        events.append(
            _event("cuda_runtime", "cudaDeviceSynchronize", 100 * (first + len(seqlens_k)), 5, 999_999)
        )
    path.write_text(json.dumps({"schemaVersion": 1, "deviceProperties": [DEVICE], "traceEvents": events}))
    return path


def _event(
    category: str, name: str, start: int, length: int, correlation: int | None = None
) -> dict[str, Any]:
    args = {} if correlation is None else {"correlation": correlation}
    where = {"pid": 1, "tid": 1, "ts": start, "dur": length}
    return {"ph": "X", "cat": category, "name": name, **where, "args": args}


def _kernel(launch: KernelLaunch, start: int, correlation: int) -> dict[str, Any]:
    placed = {"device": 0, "stream": 7, "grid": list(launch.grid), "block": list(launch.block)}
    event = _event("kernel", launch.kernel, start, 8, correlation)
    return {**event, "pid": 0, "tid": 7, "args": {**event["args"], **placed}}


def decode_run(folder: Path, seqlens_k: Sequence[int], **options: Any) -> Path:
    """The same as a run with its call records."""
    trace = decode_trace(folder / "trace.json", seqlens_k, **options)
    lines = [json.dumps(record_of(seq, seq, 0, decode_call(keys))) for seq, keys in enumerate(seqlens_k)]
    with new_run("recorded") as run:
        (run.folder / run_folders.CALLS_JSONL).write_text("\n".join(lines) + "\n")
        known = {"kind": "run", "predict": {"library": "flash_attn", "version": "2.8.3"}}
        return finish(run, open_trace(trace), known)
