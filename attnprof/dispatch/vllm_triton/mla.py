"""vLLM's TRITON_MLA: decode over a latent cache in two stages, whose split count follows the longest request.

Source: ``_compute_num_kv_splits`` and ``forward_mqa`` of v1/attention/backends/mla/triton_mla.py, and
ops/triton_decode_attention.py, of the wheels vllm 0.10.0, 0.10.2, 0.19.1, 0.20.0 and 0.33.0.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import DIVIDES, ceil_div
from attnprof.dispatch.requests import Lengths
from attnprof.dispatch.vllm_triton.rules import WARPS, Rules
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

GROUPED, SINGLE, STAGE2 = "_fwd_grouped_kernel_stage1", "_fwd_kernel_stage1", "_fwd_kernel_stage2"
BLOCK_H = 16  # query heads of a block
KEYS_PER_SPLIT = 512
SPLITS_PER_SM = 2


def num_kv_splits(seqlen_k: int, num_sms: int, rules: Rules, *, invariant: bool) -> tuple[int, str]:
    """(splits of every request, why). seqlen_k: the longest request's keys."""
    if invariant and rules.mla_invariant:
        return 1, "batch invariance: never split"
    if rules.mla_splits:
        return rules.mla_splits, "a constant of this version"
    shares = max(1, seqlen_k // KEYS_PER_SPLIT)
    wanted, most = 1 << (shares - 1).bit_length(), SPLITS_PER_SM * num_sms
    why = f"{seqlen_k} keys // {KEYS_PER_SPLIT} on the next power of two"
    if wanted > most:
        return most, f"{why} is {wanted}, more than {SPLITS_PER_SM} an SM"
    return wanted, why


def predict_mla(call: AttentionCall, gpu: Gpu, rules: Rules) -> Prediction:
    """Both stages of a decode step. Raises UsageError for several queries where a version has no such step.

    A request's several queries are a row of the grid each.
    """
    lengths = Lengths(call)
    if not lengths.tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    if lengths.max_q > 1 and (not rules.mla_drafts or lengths.tokens != call.batch * lengths.max_q):
        raise UsageError("TRITON_MLA decodes as many queries of each request; before vLLM 0.33, one")
    splits, why = num_kv_splits(call.seqlen_k, gpu.num_sms, rules, invariant=call.disable_split_kv)
    groups = call.num_heads // call.num_heads_k
    if not groups:
        return Prediction(error=DIVIDES)
    heads = ceil_div(call.num_heads, min(BLOCK_H, groups))
    threads = (WARPS * (64 if gpu.vendor == "amd" else 32), 1, 1)
    main = GROUPED if groups > 1 else SINGLE
    shared = f"up to {BLOCK_H} heads in a block" if groups > 1 else "a head has its own keys"
    rows = f"{lengths.tokens} queries, {call.num_heads} heads, {splits} splits"
    return Prediction(
        (
            KernelLaunch(main, (lengths.tokens, heads, splits), threads),
            KernelLaunch(STAGE2, (lengths.tokens, call.num_heads, 1), threads),
        ),
        splits,
        reasons=(
            Reason("kernel", "grouped" if groups > 1 else "plain", shared),
            Reason("num_splits", str(splits), why),
            Reason("grid", f"{lengths.tokens}x{heads}x{splits}", f"{rows}: the same for each request"),
            Reason("combine", "follows", "always, over queries and heads"),
        ),
        plan=(("num_kv_splits", splits),),
        all_lengths_known=lengths.known_k,
    )  # fmt: skip
