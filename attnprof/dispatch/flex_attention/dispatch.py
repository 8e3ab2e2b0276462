"""From a call of flex_attention to its decoding kernel."""

from __future__ import annotations

from attnprof.dispatch.flex_attention.rules import KERNEL, THREADS, block_m, decodes, grid
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """The decoding kernel; what sums its splits is fused elsewhere, under no name of its own.

    Raises UsageError where the main kernel runs, whose tiles are found by measuring.
    """
    groups = call.num_heads // call.num_heads_k
    if not decodes(call.seqlen_q, groups) or call.num_heads % call.num_heads_k:
        raise UsageError(
            f"flex_attention of {call.seqlen_q} queries and {groups} query heads a KV head is not modelled: "
            "it takes the main kernel, which never splits keys",
            hint="give fewer than 128 queries, and a power of two of query heads per KV head",
        )
    sizes = grid(call.batch, call.seqlen_q, call.num_heads_k, groups, gpu.num_sms)
    why = f"{gpu.num_sms} SMs // {call.batch * call.num_heads_k} x 2, whatever the keys"
    reasons = (
        Reason("kernel", "flex_decoding", "fewer than 128 queries"),
        Reason("query block", str(block_m(call.seqlen_q, groups)), "rows: queries x heads per KV head"),
        Reason("num_splits", str(sizes[2]), why),
        Reason("block", str(THREADS), "threads of Inductor's configuration without max_autotune"),
    )
    return Prediction((KernelLaunch(KERNEL, sizes, (THREADS, 1, 1)),), sizes[2], reasons=reasons)
