"""A call of FlashInfer's trtllm-gen backend: the kernel, its grid, and the steps that lead there."""

from __future__ import annotations

from attnprof.dispatch.flashinfer.backends import Choice
from attnprof.dispatch.flashinfer.rules import OLDER, OLDEST, Rules
from attnprof.dispatch.flashinfer.trtllm_gen_ask import Ask, MissingKernelError
from attnprof.dispatch.flashinfer.trtllm_gen_kernels import DTYPES, Kind, Mode, Sparse, Traits
from attnprof.dispatch.flashinfer.trtllm_gen_select import Selected, keys_to_share, select
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, Prediction, Reason
from attnprof.nouns import count_of

_PAGE_SIZE = 16
_NEEDS = "Unsupported architecture"
_KINDS = {
    Kind.CONTEXT: "a kernel of prefill",
    Kind.SWAPS: "a decode kernel for few rows, whose operands are swapped",
    Kind.KEEPS: "a decode kernel for many rows",
}
_MEETS = {
    Mode.NONE: "no keys are shared out",
    Mode.GLOBAL: "their results meet in global memory, in the same kernel",
    Mode.REDUCTION_KERNEL: "fmhaReductionKernel adds up their results",
    Mode.CLUSTER: "they are a cluster, and their results meet in its shared memory",
}


def predict_trtllm_gen(call: AttentionCall, gpu: Gpu, rules: Rules, choice: Choice) -> Prediction:
    """What the launcher of decode (batch_decode, batch_mla) or prefill launches.

    Prefill is batch_paged over pages, varlen_fwd over Q, K and V of their own.
    """
    if rules.oldest and call.entry == "batch_paged" and not call.causal:
        raise UsageError(f"trtllm-gen of flashinfer {OLDEST} has no prompts without a causal mask")
    if rules.oldest and (call.index_topk or call.entry == "varlen_fwd"):
        raise UsageError(f"trtllm-gen of flashinfer {OLDEST} is known over pages and all keys alone")
    dtype = f"{call.dtype}/{call.kv_dtype}" if call.kv_dtype else call.dtype
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise UsageError(f"trtllm-gen is not modelled for {dtype}: known are {known}")
    if dtype == "bf16/fp8" and rules.newer:
        raise UsageError(
            "trtllm-gen of flashinfer 0.7.2 and later makes K and V of an FP8 cache bf16 apart, by kernels "
            "that no table which was published as a package holds",
            hint=f"give --version {OLDER}",
        )
    if call.kv_dtype and (rules.oldest or call.index_topk or call.entry == "varlen_fwd"):
        raise UsageError("trtllm-gen over a cache of another dtype is known for pages and all keys alone")
    if (gpu.sm_major, gpu.sm_minor) not in ((10, 0), (10, 3)):
        return Prediction(error=_NEEDS)
    ask = Ask(
        dtype, call.entry in ("batch_paged", "varlen_fwd"), call.batch, call.seqlen_q, call.seqlen_k,
        call.num_heads, call.num_heads_k, call.head_dim, call.head_dim_v or call.head_dim,
        call.page_block_size or _PAGE_SIZE, None if call.window[0] < 0 else call.window[0] + 1,
        call.causal, gpu.num_sms, gpu.sm_minor == 3, newer=rules.newer, oldest=rules.oldest,
        separate=call.entry == "varlen_fwd", topk=call.index_topk, clamps=rules.clamps,
        window_first=rules.window_first,
    )  # fmt: skip
    if ask.topk and not ask.mla:
        raise UsageError("trtllm-gen picks keys for latent attention alone: head dim 576/512 or 512/512")
    if rules.window_first and _two_queries(call, gpu):
        raise UsageError(
            "flashinfer 0.7.4 gives prompts of two queries and at most 32 keys to a decode kernel on SM "
            "10.3, which is not modelled"
        )
    if ask.head_dim % 8 or not 32 <= ask.head_dim_v <= ask.head_dim <= 1024:
        raise UsageError(f"trtllm-gen has no kernels of head dim {ask.head_dim}/{ask.head_dim_v}")
    if not call.seqlen_q:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    try:
        found = select(ask)
    except MissingKernelError as error:
        return Prediction(error=str(error))
    plan = (
        ("split_kv", found.grid.blocks_kv > 1), ("blocks_q", found.grid.blocks_q),
        ("blocks_kv", found.grid.blocks_kv), ("cta_tile_q", found.traits.tile_q),
        ("cluster", found.grid.cluster), ("grid", [found.grid.x, found.grid.y, found.grid.z]),
    )  # fmt: skip
    reasons = (*choice.reasons, *_reasons(ask, found))
    return Prediction(found.launches, found.grid.blocks_kv, reasons=reasons, plan=plan)


def _two_queries(call: AttentionCall, gpu: Gpu) -> bool:
    """``use_tiny_gqa_generation``, as far as a call says; only read."""
    sizes = (call.num_heads, call.num_heads_k, call.head_dim, call.head_dim_v or call.head_dim)
    queries = set(call.seqlens_q) | {call.seqlen_q} == {2} and 4 <= call.batch <= 256
    alike = call.entry == "batch_paged" and sizes == (16, 1, 128, 128) and call.page_block_size == 128
    plain = call.dtype == "bf16" and call.causal and call.window[0] < 0
    return gpu.sm_minor == 3 and queries and 1 <= call.seqlen_k <= 32 and alike and plain


def _reasons(ask: Ask, found: Selected) -> tuple[Reason, ...]:
    traits, grid = found.traits, found.grid
    rows = ask.group * ask.seqlen_q
    if ask.context:
        why = "every prefill kernel has it"
    elif ask.topk and traits.tile_q < ask.group <= 32:
        why = f"half of {ask.group} query heads: one request of few queries leaves SMs idle"
    elif ask.mla:
        why = f"for {ask.group} query heads of a KV head"
    elif ask.seqlen_q > 1:
        why = f"of {rows} rows; upstream's model of the time weighs smaller tiles while SMs are idle"
    else:
        why = f"the smallest that holds {rows} query heads of a KV head"
    others = grid.blocks // max(grid.blocks_kv, 1)
    shared = f"{ask.num_sms} SMs / {others} other thread blocks, and at least {2 * traits.step_kv} keys each"
    if traits.mode is Mode.NONE and grid.blocks_kv == 1:
        shared = _not_shared(ask, traits, others)
    if ask.context:
        shared = "prefill never shares keys out"
    elif ask.newer and ask.clamps and grid.blocks_kv == 16 and traits.mode is Mode.CLUSTER:
        shared += "; no more than a cluster's 16, where each gets 4,096 keys or fewer"
    meets = _MEETS[traits.mode]
    if found.unless_clusters is not None:
        other = found.unless_clusters.name(ask.sm103)
        meets += f"; where the GPU does not hold all clusters at once, which only it tells: {other}"
    table = (
        "chosen by its traits; the table of kernels is fetched at run time, so that there is one is not known"
        if ask.newer
        else f"in the table of flashinfer-cubin {OLDEST if ask.oldest else OLDER}"
    )
    return (
        Reason("kernel", traits.kind.value, f"{_KINDS[traits.kind]}, {table}"),
        Reason("query tile", str(traits.tile_q), why),
        Reason(
            "scheduler", "persistent" if traits.persistent else "static", "by whether keys are shared out"
        ),
        Reason("num_splits", str(grid.blocks_kv), shared),
        Reason("merge", traits.mode.name.lower().replace("_", " "), meets),
        Reason("grid", f"{grid.x}x{grid.y}x{grid.z}", "query and key blocks, heads, sequences"),
        *_picked(ask),
    )


def _not_shared(ask: Ask, traits: Traits, others: int) -> str:
    keys, least = keys_to_share(ask, traits), 2 * traits.step_kv
    if keys <= least:
        return f"a sequence has {count_of(keys, 'key')}, and one thread block takes up to {least}"
    return f"{others} thread blocks on {ask.num_sms} SMs leave no SM for a second block of each"


def _picked(ask: Ask) -> tuple[Reason, ...]:
    if not ask.topk:
        return ()
    why = "each query says how many it has" if ask.sparse is Sparse.DYNAMIC else "as many for every query"
    return (Reason("keys", str(ask.keys), f"picked, at most {ask.topk} of each query: {why}"),)
