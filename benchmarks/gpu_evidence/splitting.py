"""Step d: what splitting costs or saves, over KV length and batch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from attnprof.dispatch import predict
from attnprof.model import AttentionCall
from benchmarks.gpu_evidence.decode import can_force_splits, decode_call, decode_inputs
from benchmarks.gpu_evidence.evidence import Evidence

_HEADS, _HEADS_K, _HEAD_DIM = 28, 4, 128
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_BATCHES = (1, 4, 16, 64)
_MAX_BYTES = 1 << 32
_COPY_BYTES = 1 << 32


def run(evidence: Evidence) -> None:
    """Times every candidate split count against the automatic one; saves after each shape."""
    if not can_force_splits():
        evidence.skip("splitting", "this torch's flash operator takes no num_splits")
        return
    gpu, version = evidence.environment()
    copy = copy_bandwidth()
    rows: list[dict[str, Any]] = []
    for batch in _BATCHES:
        for seqlen_k in _LENGTHS:
            read = 2 * 2 * batch * seqlen_k * _HEADS_K * _HEAD_DIM
            if read > _MAX_BYTES or evidence.time_left() <= 0:
                continue
            call = AttentionCall("torch", "varlen_fwd", batch, 1, seqlen_k, _HEADS, _HEADS_K, _HEAD_DIM)
            chosen = predict(call, gpu, version).num_splits or 1
            inputs = decode_inputs(batch, seqlen_k, _HEADS, _HEADS_K, _HEAD_DIM)
            times = {
                n: time_us(decode_call(inputs, batch, seqlen_k, n)) for n in candidates(chosen, seqlen_k)
            }
            automatic = time_us(decode_call(inputs, batch, seqlen_k, None))
            best = min(times, key=lambda n: times[n])
            per_s = read / (automatic * 1e-6)
            rows.append({
                "batch": batch, "seqlen_k": seqlen_k, "predicted_num_splits": chosen, "best_num_splits": best,
                "automatic_us": automatic, "us_by_num_splits": times,
                "left_on_the_table": automatic / times[best] - 1,
                "bytes_per_s": per_s, "share_of_copy_bandwidth": per_s / copy,
            })  # fmt: skip
            evidence.add("splitting", copy_bytes_per_s=copy, rows=rows)
    worse = [row for row in rows if row["left_on_the_table"] > 0.10]
    evidence.add("splitting", over_10_percent=len(worse), shapes=len(rows))


def candidates(chosen: int, seqlen_k: int) -> list[int]:
    """Split counts worth timing: powers of two and the neighbours of the choice, up to the key blocks."""
    most = min(128, -(-seqlen_k // 128))
    wanted = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, chosen - 1, chosen, chosen + 1}
    return sorted(n for n in wanted if 1 <= n <= most)


def time_us(call: Callable[[], Any], repeats: int = 30) -> float:
    """Median GPU time of a call in µs, by events, after a warm-up."""
    for _ in range(3):
        call()
    times: list[float] = []
    for _ in range(repeats):
        start, end = _events()
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times)


def _events() -> tuple[Any, Any]:
    """Two CUDA events that take the time."""
    import torch

    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large device-to-device copy."""
    import torch

    source = torch.randint(0, 255, (_COPY_BYTES,), device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = time_us(lambda: target.copy_(source)) * 1e-6
    return 2 * _COPY_BYTES / seconds
