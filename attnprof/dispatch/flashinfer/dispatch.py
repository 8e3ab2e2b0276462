"""From a call to FlashInfer's plan and launches."""

from __future__ import annotations

from attnprof.dispatch.flashinfer import launch_rules
from attnprof.dispatch.flashinfer.backends import BACKENDS, TRTLLM_GEN, XQA, Choice, choose
from attnprof.dispatch.flashinfer.mla_rules import plan_mla
from attnprof.dispatch.flashinfer.registers import UnknownBlocksError
from attnprof.dispatch.flashinfer.rules import BLOCKS_PER_SM, Batch, Plan, Rules, plan_batch, plan_sm90
from attnprof.dispatch.flashinfer.trtllm_gen_call import predict_trtllm_gen
from attnprof.dispatch.flashinfer.xqa import predict_xqa
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

KERNEL = "flashinfer::BatchPrefillWithPagedKVCacheKernel"  # a template that is compiled on demand
KERNEL_RAGGED = "flashinfer::BatchPrefillWithRaggedKVCacheKernel"
KERNEL_SM90 = "flashinfer::PrefillWithKVCacheKernel"
KERNEL_MLA = "flashinfer::mla::BatchMLAPagedAttentionKernel"
KERNEL_MLA_SM90 = "flashinfer::BatchMLAPageAttentionHopperKernel"
_WRAPPER = "BatchDecodeWithPagedKVCacheWrapper"
_PAGE_SIZE = 16  # of a call that does not say: vLLM's and SGLang's least
_NO_DRAFTS = (
    "q_len_per_req > 1 requires tensor-core decode "
    "(use_tensor_cores=True or the trtllm-gen/cute-dsl/cudnn backend)."
)
_COMPILED = "as nvcc 13.0 compiles it for bf16"


def predict_call(call: AttentionCall, gpu: Gpu, rules: Rules) -> Prediction:
    """The plan and the launches.

    Raises UsageError for other entries and backends, and where the occupancy of a kernel is not known.
    """
    if call.entry not in BACKENDS:
        raise UsageError(
            f"{call.entry} of flashinfer is not modelled: known are {', '.join(BACKENDS)}",
            hint="give --entry batch_paged",
        )
    if call.batch == 0:
        return Prediction(error="a batch without sequences is not planned")
    if call.num_heads % call.num_heads_k:
        return Prediction(error=_indivisible(call))
    choice = choose(call, gpu, rules)
    if choice.name == "cudnn":
        taken = Reason("backend", "cudnn", f"what {_WRAPPER} takes")
        return Prediction(
            reasons=(taken, Reason("cudnn", "", choice.why), *choice.reasons[1:]), backend="cudnn"
        )
    if choice.name not in BACKENDS[call.entry]:
        raise UsageError(
            f"flashinfer's backend {choice.name} is not modelled for {call.entry}: known are those of "
            f"{', '.join(BACKENDS[call.entry])}",
            hint="what ran, attnprof report names by its kernels",
        )
    if call.dtype == "nvfp4" and choice.name != XQA:
        raise UsageError(f"flashinfer's backend {choice.name} over an NVFP4 cache is not modelled")
    if choice.name == TRTLLM_GEN:
        return predict_trtllm_gen(call, gpu, rules, choice)
    if call.kv_dtype:
        raise UsageError(f"flashinfer's backend {choice.name} over a cache of another dtype is not modelled")
    if call.index_topk:
        raise UsageError(
            f"keys that are picked are not modelled for flashinfer's backend {choice.name}",
            hint=f"give --backend {TRTLLM_GEN}",
        )
    if choice.name == XQA:
        return predict_xqa(call, gpu, choice)
    if choice.name == "fa3" and (gpu.sm_major, gpu.sm_minor) != (9, 0):
        return Prediction(error="backend fa3 needs SM 9.0")
    if call.entry == "batch_mla":
        return _mla(call, gpu, choice)
    by_entry = {
        "batch_paged": _paged, "batch_ragged": _paged, "batch_decode": _decode, "single_prefill": _single,
        "single_decode": _single,
    }  # fmt: skip
    return by_entry[call.entry](call, gpu, choice, rules.build)


def _indivisible(call: AttentionCall) -> str:
    return f"num_qo_heads {call.num_heads} should be divisible by num_kv_heads {call.num_heads_k}"


def _lengths(call: AttentionCall) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (
        call.seqlens_q or (call.seqlen_q,) * call.batch,
        call.seqlens_k or (call.seqlen_k,) * call.batch,
    )


def _paged(call: AttentionCall, gpu: Gpu, choice: Choice, build: str) -> Prediction:
    """Prefill over pages or packed keys, and decode with tensor cores, which asks for fa2 by default."""
    seqlens_q, seqlens_k = _lengths(call)
    ragged = call.entry == "batch_ragged"
    batch = Batch(
        seqlens_q, seqlens_k, call.num_heads, call.num_heads_k, call.head_dim,
        call.head_dim_v or call.head_dim, 1 if ragged else call.page_block_size or _PAGE_SIZE, call.window[0],
        call.cuda_graph, call.fixed_split_size, call.disable_split_kv, call.uniform_q_len,
        call.fixed_uniform_q_len,
    )  # fmt: skip
    sm90 = choice.name == "fa3"
    plan = (
        plan_sm90(batch, gpu.num_sms)
        if sm90
        else plan_batch(batch, gpu.num_sms, gpu.smem_per_block_optin, gpu.sm_major)
    )
    if isinstance(plan, str):
        return Prediction(error=plan)
    fields = tuple(plan.fields().items())
    if not plan.num_work_items and not batch.cuda_graph:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),), plan=fields)
    if sm90:
        main = KernelLaunch(KERNEL_SM90, plan.grid, ((plan.cta_tile_q // 64 + 1) * 128, 1, 1))
        return Prediction((main,), 1, reasons=(*choice.reasons, *_reasons_sm90(plan, gpu)), plan=fields)
    name = KERNEL_RAGGED if ragged else KERNEL
    main = KernelLaunch(name, plan.grid, block(plan.cta_tile_q), _smem(call, plan.cta_tile_q, gpu))
    merge, told = _merge(plan, sum(seqlens_q), call, gpu, build=build)
    reasons = (*choice.reasons, *_reasons(batch, plan, gpu), told)
    return Prediction((main, *merge), plan.most_chunks, reasons=reasons, plan=fields)


def _smem(call: AttentionCall, cta_tile_q: int, gpu: Gpu) -> int:
    """Bytes of shared memory of the paged kernel, 0 where that is not known."""
    alike = call.head_dim_v in (None, call.head_dim)
    if not alike or call.head_dim >= 512 or call.dtype not in ("bf16", "fp16"):
        return 0
    try:
        return launch_rules.key_steps(cta_tile_q, call.head_dim, gpu)[1]
    except UnknownBlocksError:
        return 0


def block(cta_tile_q: int) -> tuple[int, int, int]:
    """Four warps: over the query rows of a large tile, over the keys of a small one."""
    if cta_tile_q == 32:
        return 32, 2, 2
    return (32, 4, 1) if cta_tile_q > 16 else (32, 1, 4)


def _merge(
    plan: Plan, rows: int, call: AttentionCall, gpu: Gpu, *, build: str
) -> tuple[tuple[KernelLaunch, ...], Reason]:
    """The kernel that adds up the chunks, where there are any."""
    if not plan.split_kv:
        return (), Reason("merge", "none", "no keys are split")
    try:
        dim = call.head_dim_v or call.head_dim
        launch = launch_rules.merge_lengths(rows, call.num_heads, dim, gpu, build)
    except UnknownBlocksError:
        why = "it adds up the chunks; its grid is SMs x the blocks that an SM admits, not known of this GPU"
        return (), Reason("merge", "follows", why)
    per_sm = launch.grid[0] // gpu.num_sms
    why = f"adds up the chunks: {per_sm} thread blocks on each of {gpu.num_sms} SMs, {_COMPILED}"
    return (launch,), Reason("merge", str(launch.grid[0]), why)


def _reasons(batch: Batch, plan: Plan, gpu: Gpu) -> tuple[Reason, ...]:
    most = BLOCKS_PER_SM * gpu.num_sms // batch.num_heads_k
    if batch.disable_split_kv:
        why = "the caller turned splitting off"
    elif batch.fixed_split_size:
        why = f"the caller fixed it: {batch.fixed_split_size} pages"
    else:
        room = f"{BLOCKS_PER_SM} x {gpu.num_sms} SMs / {batch.num_heads_k} KV heads = {most}"
        why = f"the smallest whose work items fit {room}"
    chunks = (
        str(plan.most_chunks)
        if plan.fewest_chunks == plan.most_chunks
        else f"{plan.fewest_chunks} to {plan.most_chunks}"
    )
    chunk = "all" if batch.disable_split_kv else f"{plan.kv_chunk_size} keys"
    padding = _padding(plan.padded_batch_size, plan.num_work_items) if batch.cuda_graph else "as many as work"
    return (
        Reason("query tile", str(plan.cta_tile_q), "rows, of queries x heads per KV head"),
        Reason("KV chunk", chunk, why),
        Reason("work items", str(plan.num_work_items), "pairs of a query tile and a KV chunk"),
        Reason("padded batch", str(plan.padded_batch_size), padding),
        Reason("num_splits", chunks, f"chunks of a sequence's keys, {chunk} each: {why}"),
    )


def _padding(padded: int, work_items: int) -> str:
    return f"a CUDA graph keeps it for any lengths: {padded - work_items} of them are padding"


def _reasons_sm90(plan: Plan, gpu: Gpu) -> tuple[Reason, ...]:
    return (
        Reason("query tile", str(plan.cta_tile_q), "queries of one head"),
        Reason("work items", str(plan.num_work_items), "query tiles, dealt out by their cost"),
        Reason("num_splits", "1", "this backend never splits keys"),
        Reason("scheduler", "persistent", f"a thread block on each of {gpu.num_sms} SMs"),
    )


def _decode(call: AttentionCall, gpu: Gpu, choice: Choice, build: str) -> Prediction:
    """Decode on CUDA cores: one query a sequence."""
    if call.seqlen_q > 1:
        return Prediction(error=_NO_DRAFTS)
    page = call.page_block_size or _PAGE_SIZE
    heads = (call.num_heads, call.num_heads_k, call.head_dim)
    plan = launch_rules.batch_decode_plan(_lengths(call)[1], *heads, page, call.cuda_graph, gpu, build)
    if isinstance(plan, str):
        return Prediction(error=plan)
    launches = launch_rules.batch_decode_launches(plan, call.batch, *heads, gpu, build)
    room = f"{plan.blocks_per_sm} blocks x {gpu.num_sms} SMs / {call.num_heads_k} KV heads"
    if plan.split_kv or call.batch * call.num_heads_k < plan.blocks_per_sm * gpu.num_sms:
        why = f"the smallest whose work items fit {room}"
    else:
        why = f"the batch alone fills {room}"
    padding = "as many as work"
    if call.cuda_graph:
        padding = _padding(plan.padded_batch_size, plan.num_work_items)
    merged = f"adds up the chunks, {_COMPILED}" if plan.split_kv else "no keys are split"
    reasons = (
        *choice.reasons,
        Reason("per SM", str(plan.blocks_per_sm), f"thread blocks that an SM admits, {_COMPILED}"),
        Reason("KV chunk", f"{plan.kv_chunk_size} keys", why),
        Reason("work items", str(plan.num_work_items), "chunks of all sequences"),
        Reason("padded batch", str(plan.padded_batch_size), padding),
        Reason("num_splits", str(plan.most_chunks), f"chunks of {plan.kv_chunk_size} keys: {why}"),
        Reason("merge", str(launches[1].grid[0]) if plan.split_kv else "none", merged),
    )
    fields = (
        ("split_kv", plan.split_kv), ("num_work_items", plan.num_work_items),
        ("padded_batch_size", plan.padded_batch_size), ("kv_chunk_size", plan.kv_chunk_size),
        ("grid", list(launches[0].grid)),
    )  # fmt: skip
    return Prediction(launches, plan.most_chunks, reasons=reasons, plan=fields)


def _mla(call: AttentionCall, gpu: Gpu, choice: Choice) -> Prediction:
    seqlens_q, seqlens_k = _lengths(call)
    plan = plan_mla(seqlens_q, seqlens_k, call.num_heads, call.causal, gpu.num_sms)
    if isinstance(plan, str):
        return Prediction(error=plan)
    sm90 = choice.name == "fa3"
    main = KernelLaunch(
        KERNEL_MLA_SM90 if sm90 else KERNEL_MLA, plan.grid, (256, 1, 1) if sm90 else (32, 4, 2)
    )
    blocks = f"{plan.grid[0]} x {plan.grid[1]}"
    merged = f"{plan.num_merging} thread blocks add up the chunks, in the same kernel"
    reasons = (
        *choice.reasons,
        Reason("clusters", blocks, "thread blocks of a cluster, 2 above 64 rows a sequence; clusters"),
        Reason("KV chunk", f"{plan.kv_chunk_size} keys", f"a share of all keys for each of {plan.grid[1]}"),
        Reason(
            "work items", str(plan.num_work_items), "pairs of a query tile and a KV chunk, dealt out by cost"
        ),
        Reason(
            "num_splits",
            str(plan.most_chunks),
            f"chunks of {plan.kv_chunk_size} keys, of the longest sequence",
        ),
        Reason("merge", "none", merged if plan.num_split else "no keys are split"),
    )
    return Prediction((main,), plan.most_chunks, reasons=reasons, plan=tuple(plan.fields().items()))


def _single(call: AttentionCall, gpu: Gpu, choice: Choice, build: str) -> Prediction:
    """One sequence, unpaged."""
    if call.batch != 1:
        return Prediction(error=f"{call.entry} takes one sequence, not {call.batch}")
    heads = (call.num_heads, call.num_heads_k, call.head_dim)
    if call.entry == "single_decode":
        found = launch_rules.single_decode(*heads, call.seqlen_k, gpu, build)
    elif choice.name == "fa3":
        return _single_sm90(call, choice)
    elif not call.seqlen_q:
        raise UsageError(
            "flashinfer's single prefill divides by its query tiles: without any the process ends"
        )
    else:
        found = launch_rules.single_prefill(*heads, call.seqlen_q, call.seqlen_k, call.causal, gpu, build)
    if isinstance(found, str):
        return Prediction(error=found)
    splits = found.num_chunks
    told = "not asked: 256 keys or fewer are not split"
    if found.blocks_per_sm is not None:
        told = f"thread blocks that an SM admits, {_COMPILED}"
    merged = f"{splits} chunks are added up" if len(found.launches) > 1 else "no keys are split"
    reasons = (
        *choice.reasons,
        Reason("query tile", str(found.cta_tile_q), "rows, of queries x heads per KV head"),
        Reason("per SM", str(found.blocks_per_sm or ""), told),
        Reason(
            "KV chunk", f"{found.kv_chunk_size} keys", "as many chunks as fit the GPU at once, of 256 or more"
        ),
        Reason("num_splits", str(splits), f"chunks of {found.kv_chunk_size} keys"),
        Reason("merge", "follows" if len(found.launches) > 1 else "none", merged),
    )
    plan = (
        ("split_kv", len(found.launches) > 1), ("num_chunks", splits),
        ("kv_chunk_size", found.kv_chunk_size), ("grid", list(found.launches[0].grid)),
    )  # fmt: skip
    return Prediction(found.launches, splits, reasons=reasons, plan=plan)


def _single_sm90(call: AttentionCall, choice: Choice) -> Prediction:
    """Source: attention/hopper/prefill_sm90.cuh ``getCTATileSize``, ``SingleTileScheduler``; only read."""
    tile = 192 if call.head_dim == 64 else 128
    grid = (ceil_div(call.seqlen_q, tile), call.num_heads, 1)
    main = KernelLaunch(KERNEL_SM90, grid, ((tile // 64 + 1) * 128, 1, 1))
    reasons = (
        *choice.reasons,
        Reason("query tile", str(tile), "queries of one head"),
        Reason("num_splits", "1", "this backend never splits keys"),
    )
    plan = (("split_kv", False), ("num_chunks", 1), ("kv_chunk_size", call.seqlen_k), ("grid", list(grid)))
    return Prediction((main,), 1, reasons=reasons, plan=plan)
