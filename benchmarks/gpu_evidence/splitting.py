"""Step d: what splitting costs or saves, over KV length and batch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu_evidence.decode import HEAD_DIM, HEADS_K, Forcer, Inputs, decode_inputs, find_forcer
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.figures import plot_splitting

_BATCHES = (1, 4, 16, 64)
_MAX_BYTES = 1 << 32
_COPY_BYTES = 1 << 32
_COLD_BYTES = 1 << 29  # written before each call: several times the L2 of any GPU so far
_KEY_BLOCK = 128


def run(evidence: Evidence) -> None:
    """Times every candidate split count against the automatic one; saves after each shape."""
    gpu, version = evidence.environment()
    forcer = find_forcer(gpu, version)
    if forcer is None:
        evidence.skip("splitting", "this torch takes no num_splits and its SM count was not found")
        return
    copy, repeats = copy_bandwidth(), evidence.scale.repeats
    rows: list[dict[str, Any]] = []
    for batch in _BATCHES:
        for seqlen_k in evidence.scale.lengths:
            read = 2 * 2 * batch * seqlen_k * HEADS_K * HEAD_DIM
            if read > _MAX_BYTES or evidence.time_left() <= 0:
                continue
            chosen = forcer.chosen(gpu, batch, seqlen_k)
            inputs = decode_inputs(batch, seqlen_k)
            times = times_of(forcer, inputs, batch, seqlen_k, candidates(chosen, seqlen_k), repeats)
            automatic = time_us(partial(forcer.automatic, inputs), repeats)
            best = min(times, key=lambda n: times[n])
            per_s = read / (automatic * 1e-6)
            rows.append({
                "batch": batch, "seqlen_k": seqlen_k, "predicted_num_splits": chosen, "best_num_splits": best,
                "automatic_us": automatic, "us_by_num_splits": times,
                "left_on_the_table": automatic / times[best] - 1,
                "bytes_per_s": per_s, "share_of_copy_bandwidth": per_s / copy,
            })  # fmt: skip
            evidence.add(
                "splitting", forced_by=forcer.how, version=forcer.version, call=forcer.geometry(),
                copy_bytes_per_s=copy, rows=rows,
            )  # fmt: skip
    worse = [row for row in rows if row["left_on_the_table"] > 0.10]
    evidence.add("splitting", over_10_percent=len(worse), shapes=len(rows))
    plot_splitting(rows, gpu.name, evidence.out / "splitting.png")


def times_of(
    forcer: Forcer, inputs: Inputs, batch: int, seqlen_k: int, wanted: list[int], repeats: int
) -> dict[int, float]:
    """µs by split count, of those that can be had."""
    times: dict[int, float] = {}
    for num_splits in wanted:
        with forcer.forcing(batch, seqlen_k, num_splits) as call:
            if call is not None:
                times[num_splits] = time_us(partial(call, inputs), repeats)
    return times


def candidates(chosen: int, seqlen_k: int) -> list[int]:
    """Split counts worth timing: powers of two, the neighbours of the choice, and counts that leave no block
    of keys over, up to the number of these."""
    blocks = -(-seqlen_k // _KEY_BLOCK)
    even = [n for n in range(1, 33) if -(-blocks // n) != -(-blocks // max(1, n - 1))]
    wanted = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, chosen - 1, chosen, chosen + 1, *even}
    return sorted(n for n in wanted if 1 <= n <= min(128, blocks))


def time_us(call: Callable[[], Any], repeats: int = 30) -> float:
    """Median GPU time of a call in µs, by events, its inputs not in the cache.

    What empties the cache also keeps the GPU busy until the call is enqueued, so that its kernels follow one
    another as they do in a full queue.
    """
    import torch

    cold = torch.empty(_COLD_BYTES, device="cuda", dtype=torch.uint8)
    for _ in range(3):
        call()
    times: list[float] = []
    for _ in range(repeats):
        start, end = _events()
        cold.zero_()
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
    seconds = time_us(lambda: target.copy_(source), repeats=10) * 1e-6
    return 2 * _COPY_BYTES / seconds
