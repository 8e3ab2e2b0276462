"""FlashAttention-2's num_splits over arrays of calls: the same answers as one dispatch per call.

Source: as ``flash_attn2_dispatch``, of which this is the part that leads to num_splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from attnprof.dispatch.flash_attn2.dispatch import dispatch
from attnprof.dispatch.flash_attn2.rules import Rules, block_n
from attnprof.dispatch.heuristic import MAX_SPLITS, SPLIT_BLOCK_M, float32, num_splits_array
from attnprof.dispatch.library import NO_PREDICTION, KeyEdges, SplitCounter, SplitCounts
from attnprof.dispatch.limits import LARGEST_GRID
from attnprof.model import AttentionCall, Gpu

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

VARIED = ("batch", "seqlen_q", "seqlen_k", "num_heads", "num_heads_k", "head_dim")


def split_counts(
    call: AttentionCall, gpu: Gpu, rules: Rules, varied: Mapping[str, Any], max_splits: Any = MAX_SPLITS
) -> SplitCounts:
    """num_splits of ``call`` with some fields replaced by integer arrays that broadcast together.

    varied: arrays by name, from VARIED.  max_splits: the most splits the heuristic may choose; the library's
    own answer is for 128.
    """
    import numpy as np

    def field(name: str) -> Any:
        return np.asarray(varied.get(name, getattr(call, name)), dtype=np.int64)

    batch, seqlen_q, seqlen_k, num_heads, num_heads_k, head_dim = map(field, VARIED)
    kvcache = call.entry == "fwd_kvcache"
    dropout = float32(call.dropout_p) > 0 and not kvcache
    folds = rules.varlen_folds or call.entry != "varlen_fwd"

    window_left, window_right = map(np.asarray, call.window)
    if call.entry == "fwd" and rules.clamps_windows:
        window_left = np.where(window_left >= seqlen_k, -1, window_left)
        window_right = np.where(window_right >= seqlen_k, -1, window_right)
    one_query = (seqlen_q == 1) & (not call.alibi) & folds
    causal = call.causal & ~one_query
    swap = one_query & (num_heads > num_heads_k) & (not dropout) & (head_dim % 8 == 0)
    swap = swap & (window_left < 0) & np.where(causal, False, window_right < 0)

    accepted = _accepted(call, gpu, rules, batch, num_heads, num_heads_k, head_dim, swap)
    groups = num_heads // num_heads_k
    heads = np.where(swap, num_heads_k, num_heads)
    queries = np.where(swap, groups, seqlen_q)
    if kvcache and call.seqlen_knew is not None:
        accepted = accepted & (queries <= seqlen_k)
    if call.entry in rules.skips_empty:
        accepted = accepted & (seqlen_k > 0)
    thread_blocks = batch * heads * _ceil_div(queries, SPLIT_BLOCK_M)

    # varlen_fwd asks after folding only, or of a paged cache where its version does.
    paged = call.page_block_size is not None and rules.paged_varlen_splits
    asks = swap if call.entry == "varlen_fwd" and not paged else np.True_
    slots = gpu.num_sms * rules.slots_per_sm
    given = 0 if call.entry == "fwd" else call.num_splits
    if call.entry == "varlen_fwd" and call.page_block_size is not None and given > 1:
        accepted = accepted & (swap | (not rules.paged_varlen_passes_splits))
    if given > MAX_SPLITS and not dropout:
        accepted = accepted & ~asks
    if given >= 1 or dropout or not asks.any():
        chosen: Any = np.int32(max(1, given))
    else:
        padded = _ceil_div(head_dim, 8) * 8
        keys = np.where(padded <= 64, 256, np.where(padded <= 128, 128, 64))
        chosen = num_splits_array(thread_blocks, slots, _ceil_div(seqlen_k, keys), max_splits)
    chosen = np.where(asks, chosen, np.int32(1))
    most = LARGEST_GRID[2]  # of batch and heads along y and z, or of both along z
    split_fits = batch * heads <= most
    fits = (queries > 0) & np.where(chosen > 1, split_fits, (batch <= most) & (heads <= most))
    accepted = accepted & fits
    shape = np.broadcast(thread_blocks, accepted, chosen, seqlen_k, head_dim).shape
    num_splits = np.where(accepted, chosen, np.int32(NO_PREDICTION)).astype(np.int32)
    # What of the sizes enters a tile or a flag: the masks that are dropped, and folding.
    bits = (one_query, swap, window_left < 0, window_right < 0)
    kind = sum((np.asarray(bit).astype(np.int8) << place for place, bit in enumerate(bits)), np.int8(0))
    tables = (np.broadcast_to(table, shape) for table in (num_splits, thread_blocks, kind))
    num_splits, thread_blocks, kind = tables
    return SplitCounts(num_splits, thread_blocks, slots, kind)


def key_edges(call: AttentionCall) -> KeyEdges:
    """Where a longer KV can change what :func:`split_counts` says of a call, whatever its batch.

    Where a key block begins, where there are keys at all, where a window is narrower than the keys, and where
    a cache has room for the queries.
    """
    queries = (call.seqlen_q, call.num_heads // max(1, call.num_heads_k))
    windows = tuple(edge + 1 for edge in call.window if edge >= 0)
    return KeyEdges(block_n(_ceil_div(call.head_dim, 8) * 8), (1, *queries, *windows))


def counter_of(rules: Rules) -> SplitCounter:
    """num_splits over arrays of calls under some rules."""

    def count(call: AttentionCall, gpu: Gpu, varied: Mapping[str, Any], max_splits: Any) -> SplitCounts:
        return split_counts(call, gpu, rules, varied, max_splits)

    return count


def _accepted(
    call: AttentionCall, gpu: Gpu, rules: Rules, batch: Ints, num_heads: Ints, num_heads_k: Ints,
    head_dim: Ints, swap: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Whether the library takes the call; what does not depend on sizes is asked of the dispatch itself."""
    plain = replace(
        call, batch=1, seqlen_q=1, seqlen_k=2**30, num_heads=1, num_heads_k=1, head_dim=64, total_q=None,
        num_splits=min(call.num_splits, 1),
    )  # fmt: skip
    divides: Any = num_heads % num_heads_k == 0
    accepted: Any = (batch > 0) & (head_dim <= 256) & (dispatch(plain, gpu, rules).error is None)
    if rules.head_dim_multiple_message and call.entry != "fwd_kvcache":
        accepted = accepted & (head_dim % 8 == 0)
    if f"fold {call.entry}" in rules.refusals:
        accepted = accepted & ~swap
    if call.entry == "varlen_fwd":
        total_q = batch if call.total_q is None else call.total_q
        whole_groups = num_heads - num_heads % num_heads_k
        # Folding reshapes q: one query per sequence, in whole groups of heads.
        divides = (swap & (batch * whole_groups == total_q * num_heads)) | (~swap & divides)
    taken: npt.NDArray[np.bool_] = accepted & divides
    return taken


def _ceil_div(a: Any, b: Any) -> Any:
    return -(-a // b)
