"""From a call of AITER's over a paged cache to its launches."""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION, TAGGED
from attnprof.dispatch.aiter_paged.rules import PREFILL_HEAD_DIM, prefill_tile
from attnprof.dispatch.aiter_paged.unified import predict_unified
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.dispatch.vllm_rocm.paged import MFMA16, MOST_GROUPS, PARTITION, launches
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

PREFILL = "FmhaBatchPrefillWithPagedKVCacheKernel"
PREFILL_THREADS = 256


def predict_call(call: AttentionCall, gpu: Gpu, version: str) -> Prediction:
    """Paged decode (fwd_kvcache), paged prefill (varlen_fwd), unified attention (batch_paged).

    Raises UsageError for what is not known.
    """
    tagged = version == TAGGED
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if call.entry == "batch_paged":
        return predict_unified(call, gpu, lengths, tagged=tagged)
    if tagged:
        raise UsageError(
            f"AITER {TAGGED} is known for its unified attention alone",
            hint=f"give --version {DEFAULT_VERSION} for the rules of that package",
        )
    if call.entry == "fwd_kvcache":
        return _decode(call, lengths)
    if call.entry == "varlen_fwd":
        return _prefill(call, gpu, lengths)
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
        (KernelLaunch(PREFILL, grid, (PREFILL_THREADS, 1, 1)),),
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
