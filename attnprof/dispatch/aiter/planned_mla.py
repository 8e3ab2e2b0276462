"""MLA decode of AITER v0.1.20.post1: with a plan that deals keys out to the CUs, or with a split count.

Source: ROCm/aiter at the tag: aiter/mla.py ``mla_decode_fwd``, ``get_meta_param``; aiter/ops/attention.py
``get_mla_metadata_info_v1``; csrc/py_itfs_cu/asm_mla.cu and hsa/gfx942, hsa/gfx950 mla_asm.csv;
csrc/kernels/mla/metadata/v1_2_device.cuh and reduce.cu. What the Python asks for is recorded, the rest read.
"""

from __future__ import annotations

from collections.abc import Sequence

from attnprof.dispatch.aiter.assembly import GFX942, GFX950, MLA_THREADS, STAGE2
from attnprof.dispatch.aiter.rules import FP8_KEYS, best_splits
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

REDUCE, REDUCE_PERSISTENT = "kn_mla_reduce_v1", "kn_mla_reduce_v1_ps"
STAGE2_THREADS, REDUCE_THREADS = 64, 128
_NATIVE = 16  # heads, to which others are folded
_UNPLANNED_BATCH = 32  # from which a gfx950's bf16 of 16 heads is not planned
REDUCE_BLOCKS = 8  # a CU
_KV_BLOCK, _OVERHEAD = 16, 16  # keys of a block of the plan; blocks that a part of a request costs
_DECODE = "mla_a16w16_qh16_{}_n16x1_coex0_mask1"
# (dtype, heads, queries; 0 for any) -> name and query rows of a block, of calls without a plan.
_SPLIT: dict[tuple[str, int, int], tuple[str, int]] = {
    ("bf16", 128, 0): ("mla_dec_stage1_bf16_a16w16_subQ128_mqa128", 128),
    ("bf16", 16, 1): ("mla_dec_stage1_bf16_a16w16_subQ16_mqa16", 16),
    ("bf16", 16, 4): (_DECODE.format("m16x4"), 128),
    ("bf16", 16, 8): (_DECODE.format("m32x4"), 128),
    ("bf16", 64, 0): (_DECODE.format("m64x1"), 64),
    ("bf16", 8, 1): ("mla_a16w16_qh8_qseqlen1_gqaratio8_v3", 8),
    ("fp8", 128, 0): ("mla_a8w8_qh128_m32x4_n16x2_msk1", 128),
    ("fp8", 16, 1): ("mla_a8w8_qh16_qseqlen1_gqaratio16", 128),
    ("fp8", 16, 2): ("mla_a8w8_qh16_qseqlen2_gqaratio16", 128),
    ("fp8", 16, 4): ("mla_a8w8_qh64_qseqlen4_gqaratio16", 64),
}
_SPLIT_ON = {
    GFX942: {
        ("bf16", 32, 0): (_DECODE.format("m32x1"), 64),
        ("fp8", 8, 1): ("mla_a8w8_qh8_qseqlen1_gqaratio8_v1", 8),
    },
    GFX950: {
        ("bf16", 32, 0): ("mla_a16w16_qh16_m16x4_n32x1_coex0_mask1", 64),
        ("bf16", 64, 1): ("mla_a16w16_qh64_qseqlen1_gqaratio64_v3", 64),
        ("fp8", 8, 1): ("mla_a8w8_qh8_qseqlen1_gqaratio8_v3", 8),
    },
}
# (dtype, heads) -> name, of one query a request with a plan; of gfx950 bf16 by ranges, below.
_PLANNED = {
    GFX942: {
        ("bf16", 16): "mla_a16w16_qh16_m16x4_n16x1_coex0_mask1_ps",
        ("fp8", 16): "mla_a8w8_qh16_qseqlen1_gqaratio16_ps",
        ("fp8", 64): "mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps",
        ("fp8", 128): "mla_a8w8_qh128_m32x4_n16x2_msk0_ps",
    },
    GFX950: {
        ("fp8", 16): "mla_a8w8_qh16_qseqlen1_gqaratio16_ps",
        ("fp8", 32): "mla_a8w8_qh32_qseqlen1_gqaratio32_ps",
        ("fp8", 64): "mla_a8w8_qh16_qseqlen4_gqaratio16_v3_ps",
        ("fp8", 128): "mla_a8w8_qh32_qseqlen4_gqaratio32_ps",
    },
}
ARCHS = tuple(_PLANNED)
_WIDE_BF16, _BF16 = "mla_a16w16_qh32_qseqlen4_gqaratio32_ps", "mla_a16w16_qh64_qseqlen1_gqaratio64_v3_ps"
_NO_KERNEL = "get_heuristic_kernel_mla: cannot get heuristic kernel!"


def predict_mla(call: AttentionCall, gpu: Gpu) -> Prediction:
    """``scheduler_metadata``: a plan is passed, with room for ``plan_batch`` requests.

    Raises UsageError for other GPUs, other dtypes, and plans of several queries a request.
    """
    arch = (gpu.sm_major, gpu.sm_minor)
    if arch not in _PLANNED or call.dtype not in ("bf16", "fp8"):
        raise UsageError("AITER's MLA decode is known on gfx942 and gfx950, in bf16 and FP8")
    lengths = Lengths(call)
    if call.num_heads == 8 and lengths.max_q > 1:
        raise UsageError("AITER's MLA decode of 8 heads and several queries is not modelled: two kernels fit")
    if call.scheduler_metadata and lengths.max_q > 1:
        raise UsageError("AITER's planned MLA decode of several queries a request is not modelled")
    bounded = arch == GFX950 and call.dtype == "bf16" and call.num_heads == _NATIVE
    few = call.num_splits > 0 or not bounded or call.batch < _UNPLANNED_BATCH
    if call.scheduler_metadata and few:
        return _planned(call, gpu, lengths)
    return _unplanned(call, gpu, lengths)


def _unplanned(call: AttentionCall, gpu: Gpu, lengths: Lengths) -> Prediction:
    heads, queries = call.num_heads, lengths.max_q
    total, asked = sum(lengths.seqlens_k), max(call.num_splits, 0)
    splits = _split_count(gpu.num_sms, call, queries, total, asked)
    kernel = unplanned_kernel((gpu.sm_major, gpu.sm_minor), call.dtype, heads, queries)
    if kernel is None:
        return Prediction(error=_NO_KERNEL)
    name, rows = kernel
    first = KernelLaunch(
        f"aiter::{name}", (ceil_div(queries * heads, rows), call.batch, splits), (MLA_THREADS, 1, 1)
    )
    whole = writes_result(splits, call.dtype, heads, queries)
    second = KernelLaunch(STAGE2, (call.batch, heads, 1), (STAGE2_THREADS, 1, 1))
    why = f"of 1 to 16 the best for {call.batch} sequences on {gpu.num_sms} CUs with {total} keys in all"
    why = f"the caller asked for {asked}" if asked else why
    passed_over = call.scheduler_metadata
    reasons = (
        *((Reason("plan", "passed over", f"bf16 of 16 heads from {_UNPLANNED_BATCH} requests on"),)
          if passed_over else ()),
        Reason("kernel", name, f"{rows} query rows a block; read"),
        Reason("num_splits", str(splits), why),
        Reason("combine", "none" if whole else "follows",
               "the first stage's output is the result" if whole else "over sequences and heads"),
    )  # fmt: skip
    return Prediction(
        (first,) if whole else (first, second), splits, reasons=reasons, plan=(("num_kv_splits", splits),)
    )


def _split_count(num_cus: int, call: AttentionCall, queries: int, total: int, asked: int) -> int:
    """Splits of each request. Raises UsageError where upstream has a KeyError."""
    splits = asked or best_splits(num_cus, call.batch, total)
    if call.dtype != "fp8":
        return splits
    rows = call.num_heads * queries
    if rows not in _FP8_KEYS:
        raise UsageError(f"AITER's FP8 MLA takes no {rows} query rows")
    block = _FP8_KEYS[rows]
    splits = min(splits, ceil_div(total, call.batch * block))
    if splits > 1:
        splits = min(splits, int(abs(total / call.batch - queries) // block) + 1)
    return splits


_FP8_KEYS = {8: 64, 24: 128, **FP8_KEYS}


def writes_result(splits: int, dtype: str, heads: int, queries: int) -> bool:
    """Whether the output of the first stage, without a plan, is the result already."""
    return splits == 1 and (dtype == "fp8" or queries == 4 or heads in (8, 32))


def unplanned_kernel(arch: tuple[int, int], dtype: str, heads: int, queries: int) -> tuple[str, int] | None:
    """The first stage without a plan and its query rows of a block; None where none is found."""
    known = _SPLIT | _SPLIT_ON[arch]
    if heads == 16:
        steps = (1, 2, 4) if dtype == "fp8" else (1, 4, 8)
        asked = next((step for step in steps if queries <= step), 0 if dtype == "fp8" else 8)
        return known.get((dtype, heads, asked))
    alone = known.get((dtype, heads, queries))
    if heads == 64 and queries == 1:
        return alone
    return alone or known.get((dtype, heads, 0))


def _planned(call: AttentionCall, gpu: Gpu, lengths: Lengths) -> Prediction:
    arch, heads = (gpu.sm_major, gpu.sm_minor), call.num_heads
    bf16_950 = arch == GFX950 and call.dtype == "bf16"
    native = bf16_950 or (call.dtype, heads) in _PLANNED[arch]
    folds = 1
    if not native:
        if heads not in range(32, 129, 16):
            return Prediction(error=f"nhead={heads} and max_seqlen_q=1 not supported")
        folds, heads = heads // _NATIVE, _NATIVE
    name = planned_kernel(arch, call.dtype, heads)
    if name is None:
        return Prediction(error=_NO_KERNEL)
    made = KernelLaunch(f"aiter::{name}", (gpu.num_sms, 1, 1), (MLA_THREADS, 1, 1))
    room = call.plan_batch or call.batch
    tiles = room * _tiles(arch, call.dtype, call.num_heads)
    splits = parts_of_requests(lengths.seqlens_k, folds, gpu.num_sms)
    fold = (Reason("heads", f"{folds} x {_NATIVE}", f"{call.num_heads} have no kernel"),) if folds > 1 else ()
    reduce = reduction(heads, tiles, gpu.num_sms)
    blocks = f"{heads} heads x {tiles} tiles, of {room} requests that the plan has room for"
    return Prediction(
        (made, reduce),
        max(splits),
        reasons=(
            *fold,
            Reason("kernel", name, "with a plan: a block a CU, whatever the batch; read"),
            Reason("num_splits", split_range(splits), lengths.said("blocks of 16 keys dealt out to the CUs")),
            Reason("combine", "follows", blocks),
        ),
        plan=(("reduce_tiles", tiles), ("heads", heads)),
        splits_of_requests=splits,
        all_lengths_known=lengths.known_k,
    )


def planned_kernel(arch: tuple[int, int], dtype: str, heads: int) -> str | None:
    """The first stage of one query a request with a plan; ``heads`` after folding."""
    if arch == GFX950 and dtype == "bf16":
        wide = heads > 64
        return _WIDE_BF16 if wide else _BF16 if heads >= _NATIVE else None
    return _PLANNED[arch].get((dtype, heads))


def _tiles(arch: tuple[int, int], dtype: str, heads: int) -> int:
    """Tiles of queries of a request of one, as the plan is sized for."""
    if arch == GFX950 and dtype == "bf16" and heads == 64:
        return 1
    if heads == 16 or (dtype == "fp8" and (heads == 64 or (heads == 128 and arch in _PLANNED))):
        return 1
    if arch == GFX950 and dtype == "bf16" and heads > 64:
        return 1
    return ceil_div(heads, _NATIVE)


def reduction(heads: int, tiles: int, num_cus: int) -> KernelLaunch:
    """What adds up the parts: a block a head and tile, or as many as are resident at once, twice.

    The last of its template arguments, how bf16 is spelled, is not predicted.
    """
    most = num_cus * REDUCE_BLOCKS * 2
    few = heads * tiles <= most
    name = f"void {REDUCE if few else REDUCE_PERSISTENT}<MlaReduceKernelV1Traits<512, {heads}, 1>, float,"
    return KernelLaunch(name, (heads, 1, tiles) if few else (most, 1, 1), (REDUCE_THREADS, 1, 1))


def parts_of_requests(seqlens_k: Sequence[int], folds: int, num_cus: int) -> tuple[int, ...]:
    """Into how many parts the plan cuts each request, of folded heads the most.

    Each part costs as much as 16 blocks beside its own; a CU takes its share of all, then the next goes on.
    """
    blocks = [ceil_div(keys, _KV_BLOCK) for keys in seqlens_k for _ in range(folds)]
    share = ceil_div(sum(blocks) + _OVERHEAD * len(blocks), num_cus)
    left, parts = share + _OVERHEAD, []
    for each in blocks:
        if each + _OVERHEAD <= left:
            parts.append(1)
            left -= each + _OVERHEAD
            continue
        begun = left > _OVERHEAD
        rest = each - (left - _OVERHEAD if begun else 0)
        fresh = ceil_div(rest, share)
        parts.append(fresh + begun)
        left = share - (rest - (fresh - 1) * share)
    return tuple(max(parts[at : at + folds]) for at in range(0, len(parts), folds))
