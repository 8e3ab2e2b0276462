"""Step b: about 2,000 direct calls of torch's flash kernels, each compared with its prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.model import AttentionCall, Gpu
from attnprof.observe import ObservedShape
from benchmarks.gpu_evidence.calls import chunks, golden_call, matrix, torch_thunk
from benchmarks.gpu_evidence.evidence import Evidence, judge_call, launch_row
from benchmarks.gpu_evidence.profiled import observe_calls

_CHUNK = 200


def run(evidence: Evidence) -> None:
    """The matrix through torch."""
    _, version = evidence.environment()
    calls = matrix(evidence.matrix_calls, "torch")
    observe_matrix(evidence, "matrix", "torch", version, calls, torch_thunk)


def observe_matrix(
    evidence: Evidence,
    step: str,
    name: str,
    version: str,
    calls: list[AttentionCall],
    thunk_of: Callable[[AttentionCall], Callable[[], Any]],
) -> None:
    """Makes the calls chunk by chunk and saves what each launched, in the form of golden files."""
    import torch

    gpu, _ = evidence.environment()
    rows: list[dict[str, Any]] = []
    for chunk in chunks(calls, _CHUNK):
        if evidence.time_left() <= 0:
            evidence.add(step, cut_off=f"{len(rows)} of {len(calls)} calls made when the time was up")
            break
        seen = observe_calls([thunk_of(call) for call in chunk])
        torch.cuda.empty_cache()
        judged = [
            judge_call(c, gpu, version, shape, error) for c, (shape, error) in zip(chunk, seen, strict=True)
        ]
        evidence.add_verdicts(step, f"{name} {len(rows)}–{len(rows) + len(chunk) - 1}", judged)
        rows += [golden_row(c, gpu, version, *what) for c, what in zip(chunk, seen, strict=True)]
        evidence.write_rows(f"observed_{name}.jsonl.gz", rows)


def golden_row(
    call: AttentionCall, gpu: Gpu, version: str, shape: ObservedShape | None, error: str | None
) -> dict[str, Any]:
    """A golden row whose "expect" was observed on the GPU."""
    launches = [] if shape is None else [launch_row(launch) for launch in shape.launches]
    expect = {"error": error, "num_splits": shape.num_splits if shape else None, "launches": launches}
    return {"call": golden_call(call, gpu, version), "expect": expect}
