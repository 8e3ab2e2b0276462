"""From launches of the kernels that vLLM's copy of FlashAttention-4 alone has back to their calls.

For head dim 256 on Blackwell, and for sparse MLA with few heads, whose query's keys and heads are shared out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_attn4.sparse_mla import decode_splits
from attnprof.dispatch.flash_attn4.wide import HEAD_DIM, THREADS
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval
from attnprof.model import Entry

VERSION = "vllm-0.33.0"
_WIDE = "sm100_hd256_2cta_fmha_forwardBlackwellFusedMultiHeadAttentionForward_object_at_"
_DECODE = re.compile(r"flash_fwd_mla_decode_sm100FlashAttentionMLADecodeSm100_object_at_")
_COPY, _COMBINE = "kernel_cutlass_kernel_vllmvllm_flash_attncute", "FlashAttentionForwardCombine_object_at_"
_DECODE_THREADS, _COMBINE_THREADS, _COLUMNS, _COMBINED_ROWS = (512, 1, 1), (256, 1, 1), 4, 8
_HEADS = (8, 16, 32, 64)
_MOST_BLOCKS = 64  # key blocks that an indexer picks, at most
_EVERY = Interval(1, None)


def read_vllms(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every call that launches exactly ``seen``; None of other kernels than these two."""
    kernel = seen.main.kernel
    decode = _DECODE.search(kernel) is not None
    if not kernel.startswith(_COPY) or not (decode or _WIDE in kernel):
        return None
    if seen.unread:
        entries: tuple[Entry, ...] = ("varlen_fwd",) if decode else ("fwd", "varlen_fwd")
        head_dim = 64 if decode else HEAD_DIM
        told = (_explanation(entry, None, None, _EVERY, head_dim, 0 if decode else 1) for entry in entries)
        return ReadBack(tuple(told), seen.unread)
    if seen.main.block != (_DECODE_THREADS if decode else (THREADS, 1, 1)):
        return ReadBack(nearest="block")
    if seen.before is not None:
        return ReadBack(nearest="kernel before it")
    if min(seen.main.grid) < 1:
        return ReadBack(nearest="grid")
    if decode:
        return _decode(seen, gpu)
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    found = tuple(_wide(seen.main.grid))
    return ReadBack(found, nearest="" if found else "grid")


def _wide(grid: tuple[int, int, int]) -> Iterator[Explanation]:
    x, heads, batch = grid
    if x % 2:
        return
    queries = Interval((x // 2 - 1) * 256 + 1, x // 2 * 256)
    yield _explanation("fwd", batch, heads, queries, HEAD_DIM, 1)
    if batch == 1:
        yield _explanation("varlen_fwd", 1, heads, queries, HEAD_DIM, 1)
    if (heads, batch) == (1, 1):  # of several sequences, all heads in one dimension
        yield _explanation("varlen_fwd", None, None, Interval(1, x * 128), HEAD_DIM, 1)


def _decode(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """The queries and heads whose parts and splits give the grid, for some number of keys picked."""
    combine = seen.combine
    if combine is not None and not (combine.kernel.startswith(_COPY) and _COMBINE in combine.kernel):
        return ReadBack(nearest="kernel after it")
    if combine is not None and combine.block != _COMBINE_THREADS:
        return ReadBack(nearest="block of the combine kernel")
    x, heads_k, one = seen.main.grid
    if one != 1:
        return ReadBack(nearest="grid")
    sms = {one.num_sms for one in gpu.candidates() if one.sm_major in (10, 11)}
    found = {
        (total, splits)
        for total in (count for count in range(1, x + 1) if x % count == 0)
        for groups in _HEADS
        if combine is None
        or combine.grid == (ceil_div(total * groups * heads_k, _COMBINED_ROWS), _COLUMNS, 1)
        for num_sms in sms
        for splits in _splits(x // total, total, heads_k, groups, num_sms)
        if (splits > 1) == (combine is not None)
    }
    if not found:
        return ReadBack(nearest="grid or kernel after it")
    told = (
        _explanation("varlen_fwd", None, heads_k, Interval(1, total), 64, splits)
        for total, splits in sorted(found)
    )
    return ReadBack(tuple(dict.fromkeys(told)))


def _splits(shares: int, total: int, heads_k: int, groups: int, num_sms: int) -> set[int]:
    """Splits with which a query has so many thread blocks."""
    answers = {
        decode_splits(total, heads_k, groups, num_sms, blocks) for blocks in range(1, _MOST_BLOCKS + 1)
    }
    return {splits for parts, splits in answers if parts * splits == shares}


def _explanation(
    entry: Entry, batch: int | None, heads: int | None, seqlen_q: Interval, head_dim: int, splits: int
) -> Explanation:
    return Explanation(
        "flash_attn_4", (VERSION, VERSION), entry, False, batch, heads, None, seqlen_q,
        Interval(head_dim, head_dim), splits, True, (_EVERY,),
    )  # fmt: skip
