"""From a step of SGLang's Triton backend to its launches: decode in two stages, or extend."""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.dispatch.sglang_triton import amd
from attnprof.dispatch.sglang_triton.rules import (
    BLOCK_H,
    MLA_HEAD_DIMS,
    extend_tile,
    head_blocks,
    most_splits,
    splits_of_requests,
)
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

GROUPED, SINGLE, REDUCE = "_fwd_grouped_kernel_stage1", "_fwd_kernel_stage1", "_fwd_kernel_stage2"
EXTEND, EXTEND_UNIFIED = "_fwd_kernel", "_fwd_kernel_unified"
_WARP = 32
_DECODE_WARPS = 4


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """Both stages of a decode step (fwd_kvcache), or the one kernel of an extend step (batch_paged).

    Raises UsageError for other entries, and for windows, whose keys are counted otherwise.
    """
    if call.entry not in ("fwd_kvcache", "batch_paged"):
        raise UsageError(
            f"{call.entry} of sglang_triton is not modelled: known are decode and extend steps",
            hint="give --entry fwd_kvcache for a decode step, batch_paged for an extend step",
        )
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if call.num_heads % call.num_heads_k:
        raise UsageError(f"{call.num_heads} query heads cannot share {call.num_heads_k} KV heads evenly")
    return _decode(call, gpu, lengths) if call.entry == "fwd_kvcache" else _extend(call, gpu, lengths)


def _decode(call: AttentionCall, gpu: Gpu, lengths: Lengths) -> Prediction:
    if lengths.max_q > 1:
        raise UsageError("a decode step of sglang_triton has one query a request")
    groups, tile = call.num_heads // call.num_heads_k, call.fixed_split_size
    if not tile and not max(lengths.seqlens_k):
        raise UsageError(
            "SGLang's split counts divide by the longest request's keys on the device: give some"
        )
    mla = (call.head_dim, call.head_dim_v) == MLA_HEAD_DIMS
    most = most_splits(max(call.num_splits, 0), gpu.num_sms, call.seqlen_k, mla, tile)
    heads = head_blocks(call.num_heads, groups)
    splits = splits_of_requests(lengths.seqlens_k, heads, gpu.num_sms, most, tile)
    threads = (_DECODE_WARPS * (amd.WAVE if gpu.vendor == "amd" else _WARP), 1, 1)
    if gpu.vendor == "amd" and (why := amd.lean(call, lengths)):
        return _lean(call, gpu, lengths, why)
    grouped = groups > 1
    shared = f"up to {BLOCK_H} heads of a KV head in a block" if grouped else "each head has its own K"
    if tile:
        why = f"{tile} keys a split, whatever the batch: deterministic inference"
    else:
        why = "how many a request gets depends on the longest, the shortest and how many there are"
    if call.window[0] >= 0:
        why = f"{why}; counted by the whole lengths, of which this layer attends {call.window[0]} keys"
    room = f"in a context of {call.seqlen_k} keys" if tile or mla else "the server's limit"
    return Prediction(
        (
            KernelLaunch(GROUPED if grouped else SINGLE, (call.batch, heads, most), threads),
            KernelLaunch(REDUCE, (call.batch, call.num_heads, 1), threads),
        ),
        max(splits),
        reasons=(
            Reason("kernel", "grouped" if grouped else "plain", shared),
            Reason("most splits", str(most), f"of the grid, {room}; blocks beyond a request's end at once"),
            Reason("num_splits", split_range(splits), lengths.said(why)),
            Reason("combine", "follows", "always, over requests and heads"),
        ),
        plan=(("max_kv_splits", most), ("num_kv_splits", list(splits))),
        splits_of_requests=splits,
        all_lengths_known=lengths.known_k,
    )  # fmt: skip


def _lean(call: AttentionCall, gpu: Gpu, lengths: Lengths, why: str) -> Prediction:
    """Keys of all requests dealt out to as many blocks as there are CUs, which add their parts up."""
    programs = amd.lean_programs(call, gpu)
    parts = amd.lean_parts(call, lengths.seqlens_k, programs)
    dealt = "tiles of keys of all heads and requests, dealt out evenly on the device; read"
    return Prediction(
        (KernelLaunch(amd.LEAN, (programs, 1, 1), (_DECODE_WARPS * amd.WAVE, 1, 1)),),
        max(parts),
        reasons=(
            Reason("kernel", "work-centric", why),
            Reason("blocks", str(programs), "one a CU, in whole XCDs where these share KV heads"),
            Reason("num_splits", split_range(parts), lengths.said(dealt)),
            Reason("combine", "none", "a block adds up the parts of others"),
        ),
        plan=(("programs", programs),),
        splits_of_requests=parts,
        all_lengths_known=lengths.known_k,
    )


def _extend(call: AttentionCall, gpu: Gpu, lengths: Lengths) -> Prediction:
    on_amd, unified = gpu.vendor == "amd", call.fixed_split_size is not None
    if on_amd:
        block_m, block_n, warps = amd.extend_tile(call.head_dim, gpu)
    else:
        block_m, block_n = extend_tile(call.head_dim, gpu.sm_major, gpu.sm_minor)
        warps = 4 if call.head_dim <= 64 else 8
    blocks = ceil_div(lengths.max_q, block_m)
    grid = (call.batch, call.num_heads, blocks)
    counted = f"of the longest request, {lengths.max_q} queries, for each"
    compact = amd.compact_blocks(lengths.seqlens_q, block_m) if on_amd and not unified else 0
    if compact:
        grid, blocks = (compact, call.num_heads, 1), compact
        counted = "of all requests, of which some have fewer queries than the longest"
    kernel = EXTEND_UNIFIED if unified else EXTEND
    launch = KernelLaunch(kernel, grid, (warps * (amd.WAVE if on_amd else _WARP), 1, 1))
    once = "keys of cache and step in one pass: deterministic inference"
    return Prediction(
        (launch,),
        1,
        reasons=(
            Reason("kernel", launch.kernel, once if unified else "keys of the cache, then those of the step"),
            Reason("tile", f"{block_m} x {block_n}", f"queries x keys, for head dim {call.head_dim} here"),
            Reason("query blocks", str(blocks), counted),
            Reason("num_splits", "1", "extend never splits keys"),
        ),
        plan=(("block_m", block_m), ("block_n", block_n)),
    )  # fmt: skip
