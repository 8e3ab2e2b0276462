"""Step b: about 2,000 direct calls of torch's flash kernels, each compared with its prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attnprof.check.observed_calls import ObservedShape
from attnprof.model import AttentionCall, Gpu
from benchmarks.gpu_evidence.calls import chunks, golden_call, matrix, torch_thunk
from benchmarks.gpu_evidence.evidence import Evidence, judge_call, launch_row
from benchmarks.gpu_evidence.profiled import observe_calls
from benchmarks.gpu_evidence.sm_count import find_sm_count

_CHUNK = 200
_OTHER_SMS = (16, 46, 78, 108, 114, 148, 160)  # of GPUs from a laptop's to a B300's
_CALLS_EACH = 60


def run(evidence: Evidence) -> None:
    """The matrix through torch; then some of it with the host code told other GPUs' SM counts."""
    gpu, version = evidence.environment()
    calls = matrix(evidence.scale.matrix_calls, "torch")
    rows = observe_matrix(evidence, "matrix", "torch", version, calls, torch_thunk)
    field = find_sm_count()
    if field is None:
        evidence.add("matrix", other_sm_counts="torch's SM count was not found in memory")
        return
    decode = [call for call in calls if call.seqlen_q == 1 and call.dropout_p == 0]
    for number, num_sms in enumerate(_OTHER_SMS):
        some = decode[number * _CALLS_EACH :][:_CALLS_EACH]
        told = replace(gpu, name=f"{gpu.name}, told it has {num_sms} SMs", num_sms=num_sms)
        with field.told(num_sms):
            observe_matrix(evidence, "matrix", "torch", version, some, torch_thunk, gpu=told, before=rows)


def observe_matrix(
    evidence: Evidence,
    step: str,
    name: str,
    version: str,
    calls: list[AttentionCall],
    thunk_of: Callable[[AttentionCall], Callable[[], Any]],
    *,
    gpu: Gpu | None = None,
    before: list[dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Makes the calls chunk by chunk and saves what each launched, in the form of golden files.

    The rows are added to those ``before`` and returned; predictions are for ``gpu``, else the one there is.
    """
    import torch

    gpu = gpu or evidence.environment()[0]
    rows = [] if before is None else before
    done = 0
    for chunk in chunks(calls, _CHUNK):
        if evidence.time_left() <= 0:
            evidence.add(step, cut_off=f"{done} of {len(calls)} calls made when the time was up")
            break
        seen = observe_calls([thunk_of(call) for call in chunk])
        torch.cuda.empty_cache()
        judged = [
            judge_call(c, gpu, version, shape, error) for c, (shape, error) in zip(chunk, seen, strict=True)
        ]
        evidence.add_verdicts(step, f"{name} {len(rows)}–{len(rows) + len(chunk) - 1}", judged)
        rows += [golden_row(c, gpu, version, *what) for c, what in zip(chunk, seen, strict=True)]
        done += len(chunk)
        evidence.write_rows(f"observed_{name}.jsonl.gz", rows)
    return rows


def golden_row(
    call: AttentionCall, gpu: Gpu, version: str, shape: ObservedShape | None, error: str | None
) -> dict[str, Any]:
    """A golden row whose "expect" was observed on the GPU."""
    launches = [] if shape is None else [launch_row(launch) for launch in shape.launches]
    expect = {"error": error, "num_splits": shape.num_splits if shape else None, "launches": launches}
    return {"call": golden_call(call, gpu, version), "expect": expect}
