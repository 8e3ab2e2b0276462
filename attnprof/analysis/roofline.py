"""What attention calls read and compute against the time they took: GB/s, TFLOP/s and the share of the peak.

Of calls whose arguments were recorded and whose kernels were observed; of no other are the bytes known. They
are K and V, each key once: with several blocks of queries each reads them again, and they are a lower bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnprof.analysis.layer_kinds import LayerKind, kinds_of_calls
from attnprof.analysis.sm_fill import sm_fill
from attnprof.check.verdicts import CheckedCall, ReadBackCalls
from attnprof.gpus import find_model
from attnprof.model import AttentionCall, Gpu

_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8": 1}
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Work:
    """Of one call: ``kv_bytes`` of K and V, each key once, and ``flops``, a multiplication and addition two.

    ``lower_bound``: more bytes may have been read.
    """

    kv_bytes: int
    flops: int
    lower_bound: bool


@dataclass(frozen=True, slots=True)
class RooflineRow:
    """Observed calls of one phase, kind of layer (its number, -1 for all) and split count.

    ``kv_bytes``, ``flops`` and ``gpu_ns`` are sums over ``calls``. ``peak_gb_s`` is the card's memory
    bandwidth by its data sheet and ``peak_tflop_s`` what its matrix units compute in the calls' type, dense;
    None of a card or type of which the table lacks it. ``dtype`` is None of calls of several. ``sms_busy`` of
    ``num_sms`` get a thread block of the main kernel, at most. ``in_l2``: what one call reads fits the L2.
    """

    phase: str
    kind: int
    num_splits: int | None
    calls: int
    kv_bytes: int
    flops: int
    gpu_ns: int
    lower_bound: bool
    peak_gb_s: int | None
    peak_tflop_s: float | None
    sms_busy: int
    num_sms: int
    in_l2: bool
    dtype: str | None = None

    @property
    def gb_s(self) -> float:
        """K and V over time, 10**9 bytes a second."""
        return self.kv_bytes / self.gpu_ns

    @property
    def tflop_s(self) -> float:
        """Operations over time, 10**12 a second."""
        return self.flops / self.gpu_ns / 1e3

    @property
    def intensity(self) -> float:
        """Operations per byte of K and V."""
        return self.flops / self.kv_bytes

    @property
    def of_peak(self) -> float | None:
        """Share of the card's memory bandwidth, 0 to 1."""
        return self.gb_s / self.peak_gb_s if self.peak_gb_s else None

    @property
    def of_flop_peak(self) -> float | None:
        """Share of what the card's matrix units compute at most, 0 to 1."""
        return self.tflop_s / self.peak_tflop_s if self.peak_tflop_s else None


def work_of(call: AttentionCall) -> Work | None:
    """What a call reads and computes; None where its lengths are not known, only maxima or a capacity."""
    lengths = _lengths(call)
    size = _ELEMENT_BYTES.get(call.dtype)
    if lengths is None or size is None:
        return None
    head_dims = call.head_dim + (call.head_dim_v or call.head_dim)
    keys = pairs = 0
    for queries, held in lengths:
        read, seen = _seen(queries, held, call.causal, call.window)
        keys += read
        pairs += seen
    blocks = any(queries > 1 for queries, _ in lengths)
    return Work(
        kv_bytes=keys * call.num_heads_k * head_dims * size,
        flops=2 * pairs * call.num_heads * head_dims,
        lower_bound=blocks or bool(call.seqlen_knew),
    )


def _lengths(call: AttentionCall) -> list[tuple[int, int]] | None:
    """(queries, keys) of each sequence."""
    if call.seqlens_k:
        queries = call.seqlens_q or (call.seqlen_q,) * len(call.seqlens_k)
        return (
            list(zip(queries, call.seqlens_k, strict=True)) if len(queries) == len(call.seqlens_k) else None
        )
    if call.entry == "fwd" or (call.entry == "varlen_fwd" and call.batch == 1):
        return [(call.seqlen_q, call.seqlen_k)] * call.batch
    return None


def _seen(queries: int, keys: int, causal: bool, window: tuple[int, int]) -> tuple[int, int]:
    """(keys that any query sees, pairs of query and key), the masks aligned at their last corner."""
    at = np.arange(queries, dtype=np.int64) + keys - queries
    left, right = window
    first = np.maximum(at - left, 0) if left >= 0 else np.zeros_like(at)
    reach = 0 if causal else right
    last = np.minimum(at + reach, keys - 1) if reach >= 0 else np.full_like(at, keys - 1)
    held = np.maximum(last - first + 1, 0)
    some = held > 0
    if not some.any():
        return 0, 0
    return int(last[some].max() - first[some].min() + 1), int(held.sum())


def roofline(calls: Sequence[CheckedCall], kinds: Sequence[LayerKind], gpu: Gpu | None) -> list[RooflineRow]:
    """The rows, by phase, kind and split count; none without recorded calls that were observed, or a GPU."""
    if gpu is None or isinstance(calls, ReadBackCalls):
        return []
    model = find_model(gpu.name)
    of_kind = kinds_of_calls(calls, kinds).tolist()
    groups: dict[tuple[str, int, int | None], list[tuple[CheckedCall, Work]]] = defaultdict(list)
    known: dict[AttentionCall, Work | None] = {}
    for call, kind in zip(calls, of_kind, strict=True):
        if call.call is None or call.observed is None or not call.duration_ns:
            continue
        if call.call not in known:
            known[call.call] = work_of(call.call)
        work = known[call.call]
        if work is not None and work.kv_bytes:
            groups[call.phase, kind, call.num_splits].append((call, work))
    rows = []
    for (phase, kind, num_splits), members in groups.items():
        launches = {call.observed.launches[0] for call, _ in members if call.observed}
        busy = [sm_fill(launch, gpu).sms_busy for launch in launches if all(launch.grid)]
        dtypes = {call.call.dtype for call, _ in members if call.call}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        largest = max(work.kv_bytes for _, work in members)
        rows.append(
            RooflineRow(
                phase=phase,
                kind=kind,
                num_splits=num_splits,
                calls=len(members),
                kv_bytes=sum(work.kv_bytes for _, work in members),
                flops=sum(work.flops for _, work in members),
                gpu_ns=sum(call.duration_ns or 0 for call, _ in members),
                lower_bound=any(work.lower_bound for _, work in members),
                peak_gb_s=model.bandwidth_gb_s if model else None,
                peak_tflop_s=model.peak_tflop_s(dtype) if model and dtype else None,
                sms_busy=max(busy, default=0),
                num_sms=gpu.num_sms,
                in_l2=bool(model and model.l2_mb and largest <= model.l2_mb * _MIB),
                dtype=dtype,
            )
        )
    return sorted(rows, key=lambda row: (row.phase != "decode", row.phase, row.kind, row.num_splits or 0))
