"""From a step of ROCM_ATTN to its launches: prompts by Triton, then decode of requests with one query."""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.dispatch.vllm_rocm.paged import MFMA4, MFMA4_GROUPS, MFMA16, PARTITION, launches
from attnprof.dispatch.vllm_rocm.rules import (
    BLOCK_M,
    WAVE,
    WAVES,
    against_hip,
    alibi_block,
    encoder_tile,
)
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

PREFILL, ALIBI, TRITON_DECODE = "_fwd_kernel", "_fwd_kernel_alibi", "kernel_paged_attention_2d"
_NO_ALIBI = "Non-causal prefix attention is not supported with alibi"
_SKIPPED = "launched in every step: a request with more queries ends at once"


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """The kernels of a step. Raises UsageError for other entries."""
    del gpu  # what it launches is alike on gfx90a, gfx942 and gfx950
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if call.entry == "varlen_fwd":
        return _encoder(call, lengths)
    if call.entry != "batch_paged":
        raise UsageError(
            f"{call.entry} of vllm_rocm is not modelled: known are steps over a paged cache, and encoders",
            hint="give --entry batch_paged, or varlen_fwd for attention without a cache",
        )
    prompts = lengths.max_q > 1
    if prompts and call.alibi and not call.causal:
        return Prediction(error=_NO_ALIBI)
    found, reasons = _prompts(call, lengths) if prompts else ((), ())
    decode, more, splits = _decode(call, lengths)
    return Prediction(
        (*found, *decode),
        max(splits),
        reasons=(*reasons, *more),
        plan=(("partitions", decode[0].grid[1] if len(decode) > 1 else 1),),
        splits_of_requests=splits,
        all_lengths_known=lengths.known_k,
    )


def _encoder(call: AttentionCall, lengths: Lengths) -> Prediction:
    block_m, waves = encoder_tile(call.head_dim, call.dtype)
    launch = _prefill(call, lengths, PREFILL, block_m, waves)
    tile = Reason(
        "tile", str(block_m), f"queries of {call.dtype}; {waves} waves for head dim {call.head_dim}"
    )
    return Prediction((launch,), 1, reasons=(tile, Reason("num_splits", "1", "prompts never split keys")))


def _prefill(
    call: AttentionCall, lengths: Lengths, kernel: str, block_m: int, waves: int = WAVES
) -> KernelLaunch:
    blocks = ceil_div(lengths.max_q, block_m)
    return KernelLaunch(kernel, (call.batch, call.num_heads, blocks), (waves * WAVE, 1, 1))


def _prompts(call: AttentionCall, lengths: Lengths) -> tuple[tuple[KernelLaunch, ...], tuple[Reason, ...]]:
    block_m, kernel = BLOCK_M, PREFILL
    if call.alibi:
        block_m, kernel = alibi_block(call.dtype), ALIBI
    launch = _prefill(call, lengths, kernel, block_m)
    blocks = f"of the longest request, {lengths.max_q} queries, for each"
    return (launch,), (
        Reason("prompts", kernel, "requests with more than one query, by Triton"),
        Reason("tile", str(block_m), "queries"),
        Reason("query blocks", str(launch.grid[2]), blocks),
    )


def _decode(
    call: AttentionCall, lengths: Lengths
) -> tuple[tuple[KernelLaunch, ...], tuple[Reason, ...], tuple[int, ...]]:
    """Launches, reasons, and the splits of each request."""
    longest = max(call.seqlen_k, max(lengths.seqlens_k))
    why_not = against_hip(call, longest)
    if why_not:
        launch = KernelLaunch(TRITON_DECODE, (call.batch, call.num_heads_k, 1), (WAVES * WAVE, 1, 1))
        return (launch,), (
            Reason("decode", TRITON_DECODE, f"Triton's, for {why_not}"),
            Reason("num_splits", "1", "Triton's paged decode never splits keys"),
            Reason("grid", f"{call.batch}x{call.num_heads_k}", f"requests x KV heads, {_SKIPPED}"),
        ), (1,) * call.batch  # fmt: skip
    groups = call.num_heads // call.num_heads_k
    main = MFMA4 if groups <= MFMA4_GROUPS else MFMA16
    made = launches(main, call.batch, longest, call.num_heads, call.num_heads_k, call.head_dim)
    held = "partitions with keys, of requests with one query"
    splits = tuple(
        max(ceil_div(keys, PARTITION), 1) if queries == 1 else 1
        for queries, keys in zip(lengths.seqlens_q, lengths.seqlens_k, strict=True)
    )
    return made, (
        Reason("decode", main, f"HIP's paged attention, {groups} query heads per KV head"),
        Reason("partitions", str(made[0].grid[1]), f"of {PARTITION} keys, for the longest: {longest}"),
        Reason("num_splits", split_range(splits), lengths.said(held)),
        Reason("grid", "x".join(map(str, made[0].grid)), f"requests x partitions x KV heads, {_SKIPPED}"),
        Reason("combine", "follows", "always, over heads and requests"),
    ), splits  # fmt: skip
