"""From a call of AITER's over a paged cache to its launches."""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION
from attnprof.dispatch.aiter_paged.rules import (
    BLOCKS_PER_CU,
    LONG_BLOCK_M,
    LONG_QUERIES,
    LONG_WAVES,
    PREFILL_HEAD_DIM,
    SHORT_KEYS,
    WAVES,
    block_m,
    prefill_tile,
    segments,
)
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.dispatch.vllm_rocm.paged import MFMA16, MOST_GROUPS, PARTITION, launches
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

PREFILL = "FmhaBatchPrefillWithPagedKVCacheKernel"
UNIFIED_2D, UNIFIED_3D = "kernel_unified_attention_2d", "kernel_unified_attention_3d"
REDUCE = "reduce_segments"
_WAVE, _PREFILL_THREADS = 64, 256
_DEFAULT_PAGE = 16


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """Paged decode (fwd_kvcache), paged prefill (varlen_fwd), unified attention (batch_paged).

    Raises UsageError for what is not known.
    """
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if call.entry == "fwd_kvcache":
        return _decode(call, lengths)
    if call.entry == "varlen_fwd":
        return _prefill(call, gpu, lengths)
    if call.entry == "batch_paged":
        return _unified(call, gpu, lengths)
    raise UsageError(
        f"{call.entry} of aiter_paged is not modelled",
        hint="give --entry fwd_kvcache for decode, varlen_fwd for prefill, batch_paged for unified_attention",
    )


def _prefill(call: AttentionCall, gpu: Gpu, lengths: Lengths) -> Prediction:
    """``mha_batch_prefill_func``: packed queries, by Composable Kernel."""
    if max(call.head_dim, call.head_dim_v or 0) > PREFILL_HEAD_DIM:
        raise UsageError(
            f"AITER's paged prefill of head dim {call.head_dim} is not modelled: {DEFAULT_VERSION}, whose "
            f"rules are known, has kernels up to {PREFILL_HEAD_DIM}"
        )
    rows, why = prefill_tile(call.batch, call.num_heads, lengths.max_q, gpu.num_sms)
    grid = (call.num_heads, call.batch, ceil_div(lengths.max_q, rows))
    blocks = f"of the longest request, {lengths.max_q} queries, for each; read, not recorded"
    return Prediction(
        (KernelLaunch(PREFILL, grid, (_PREFILL_THREADS, 1, 1)),),
        1,
        reasons=(
            Reason("tile", str(rows), why),
            Reason("query blocks", str(grid[2]), blocks),
            Reason("num_splits", "1", "paged prefill never splits keys"),
        ),
        plan=(("block_m", rows),),
    )


def _decode(call: AttentionCall, lengths: Lengths) -> Prediction:
    """``paged_attention_ragged`` or ``_v1``; ``seqlen_k`` is what partitions are for.

    SGLang gives the longest context that the server admits, vLLM the longest request.
    """
    groups = call.num_heads // call.num_heads_k
    if groups > MOST_GROUPS or call.window[0] >= 0:
        raise UsageError(
            f"AITER's paged decode is known without a window, and up to {MOST_GROUPS} query heads per KV head"
        )
    made = launches(
        MFMA16, call.batch, call.seqlen_k, call.num_heads, call.num_heads_k, call.head_dim, call.seqlen_q
    )
    splits = tuple(max(ceil_div(keys, PARTITION), 1) for keys in lengths.seqlens_k)
    held = lengths.said("partitions that hold keys; the others end at once")
    context = f"of {PARTITION} keys, for {call.seqlen_k}, whatever is in use"
    return Prediction(
        made,
        max(splits),
        reasons=(
            Reason("partitions", str(made[0].grid[1]), context),
            Reason("num_splits", split_range(splits), held),
            Reason("grid", "x".join(map(str, made[0].grid)), "requests x partitions x KV heads"),
            Reason("combine", "follows", "always, over heads, requests and their queries"),
        ),
        plan=(("partitions", made[0].grid[1]),),
        splits_of_requests=splits,
        all_lengths_known=lengths.known_k,
    )


def _unified(call: AttentionCall, gpu: Gpu, lengths: Lengths) -> Prediction:
    """``unified_attention`` of AITER's Triton: 2D, or 3D with segments that are added up."""
    if not call.causal:
        return Prediction(error="Only causal attention is supported")
    groups, page = call.num_heads // call.num_heads_k, call.page_block_size or _DEFAULT_PAGE
    longest = max(call.seqlen_k, *lengths.seqlens_k)
    queries = block_m(groups) // groups
    blocks = lengths.tokens // queries + call.batch
    programs, most = blocks * call.num_heads_k, gpu.num_sms * BLOCKS_PER_CU
    why = _why_2d(call, longest, programs, most)
    if why:
        rows, waves = (
            (LONG_BLOCK_M, LONG_WAVES) if lengths.max_q >= LONG_QUERIES else (block_m(groups), WAVES)
        )
        queries = rows // groups
        grid = (call.num_heads_k, lengths.tokens // queries + call.batch, 1)
        made: tuple[KernelLaunch, ...] = (KernelLaunch(UNIFIED_2D, grid, (waves * _WAVE, 1, 1)),)
        count, kernel, combine = 1, "2D", "none"
    else:
        count, adding = segments(programs, gpu.num_sms, page)
        made = (
            KernelLaunch(UNIFIED_3D, (blocks, call.num_heads_k, count), (WAVES * _WAVE, 1, 1)),
            KernelLaunch(REDUCE, (lengths.tokens, call.num_heads, 1), (adding * _WAVE, 1, 1)),
        )
        why, kernel, combine = f"{programs} blocks of the 2D grid are at most {most}", "3D", "follows"
    each = "each request's keys are cut into so many" if count > 1 else "2D never splits keys"
    return Prediction(
        made,
        count,
        reasons=(
            Reason("query block", str(queries), f"queries of {groups} heads per KV head"),
            Reason("kernel", kernel, why),
            Reason("num_splits", str(count), each),
            Reason("combine", combine, "over queries and heads" if count > 1 else "one segment"),
        ),
        plan=(("block_q", queries), ("segments", count)),
    )


def _why_2d(call: AttentionCall, longest: int, programs: int, most: int) -> str:
    if call.window[0] >= 0:
        return "a sliding window"
    if longest <= SHORT_KEYS:
        return f"the longest request has {longest} keys, at most {SHORT_KEYS}"
    if programs > most:
        return f"{programs} blocks of the 2D grid are more than {BLOCKS_PER_CU} a CU, {most}"
    return ""
