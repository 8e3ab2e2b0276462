"""From a paged batch to FlashInfer's plan and main kernel."""

from __future__ import annotations

from attnprof.dispatch.flashinfer.rules import BLOCKS_PER_SM, Batch, Plan, plan_batch, plan_sm90
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

KERNEL = "flashinfer::BatchPrefillWithPagedKVCacheKernel"  # a template that is compiled on demand
KERNEL_SM90 = "flashinfer::PrefillWithKVCacheKernel"
MERGE = "PersistentVariableLengthMergeStatesKernel"
BACKENDS = ("fa2", "fa3")
_FA3_HEAD_DIMS = ((64, 64), (128, 128), (256, 256), (192, 128))
_PAGE_SIZE = 16  # of a call that does not say: vLLM's and SGLang's least


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """The plan of backend fa2 and its main kernel; the merge kernel's grid depends on what an SM admits.

    Raises UsageError for other entries and backends, and for GPUs where another backend is chosen.
    """
    backend = backend_of(call, gpu)
    if call.entry != "batch_paged":
        raise UsageError(
            f"{call.entry} of flashinfer is not modelled: known is the plan of paged batches",
            hint="give --entry batch_paged",
        )
    if backend not in BACKENDS:
        raise UsageError(
            f"flashinfer's backend {backend} is not modelled: known are those of {' and '.join(BACKENDS)}",
            hint="what a trtllm-gen kernel does, its name says: attnprof report",
        )
    if call.batch == 0:
        return Prediction(error="a batch without sequences is not planned")
    batch = Batch(
        call.seqlens_q or (call.seqlen_q,) * call.batch,
        call.seqlens_k or (call.seqlen_k,) * call.batch,
        call.num_heads, call.num_heads_k, call.head_dim, call.head_dim_v or call.head_dim,
        call.page_block_size or _PAGE_SIZE, call.window[0], call.cuda_graph, call.fixed_split_size,
        call.disable_split_kv,
    )  # fmt: skip
    sm90 = backend == "fa3"
    if sm90 and gpu.sm_major != 9:
        return Prediction(error="backend fa3 needs SM 9.0")
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
        launch = KernelLaunch(KERNEL_SM90, plan.grid, ((plan.cta_tile_q // 64 + 1) * 128, 1, 1))
        reasons: tuple[Reason, ...] = _reasons_sm90(plan, gpu)
    else:
        launch = KernelLaunch(KERNEL, plan.grid, block(plan.cta_tile_q))
        reasons = _reasons(batch, plan, gpu)
    return Prediction((launch,), plan.most_chunks, reasons=reasons, plan=fields)


def backend_of(call: AttentionCall, gpu: Gpu) -> str:
    """The backend that is asked for, or that ``auto`` takes: fa3 on SM 9.0 for its head dims, else fa2.

    Source: flashinfer/utils.py ``determine_attention_backend``; a position encoding, FP16 reduction, a custom
    mask or FP8 keys under 16-bit queries, which a call does not state here, lead to fa2 too.
    """
    if call.backend and call.backend != "auto":
        return call.backend
    hopper = gpu.sm_major == 9 and (call.head_dim, call.head_dim_v or call.head_dim) in _FA3_HEAD_DIMS
    return "fa3" if hopper else "fa2"


def block(cta_tile_q: int) -> tuple[int, int, int]:
    """Four warps: over the query rows of a large tile, over the keys of a small one."""
    if cta_tile_q == 32:
        return 32, 2, 2
    return (32, 4, 1) if cta_tile_q > 16 else (32, 1, 4)


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
    padding = (
        f"a CUDA graph keeps it: {plan.padded_batch_size} of them" if batch.cuda_graph else "as many as work"
    )
    merge = (
        f"{MERGE} adds up the chunks; its grid is SMs x the blocks that an SM admits of it"
        if plan.split_kv
        else "no keys are split"
    )
    return (
        Reason("query tile", str(plan.cta_tile_q), "rows, of queries x heads per KV head"),
        Reason("KV chunk", chunk, why),
        Reason("work items", str(plan.num_work_items), "pairs of a query tile and a KV chunk"),
        Reason("padded batch", str(plan.padded_batch_size), padding),
        Reason("num_splits", chunks, "chunks of a sequence's keys"),
        Reason("merge", "follows" if plan.split_kv else "none", merge),
    )


def _reasons_sm90(plan: Plan, gpu: Gpu) -> tuple[Reason, ...]:
    return (
        Reason("backend", "fa3", "what auto takes on SM 9.0 for head dims 64, 128, 256 and 192/128"),
        Reason("query tile", str(plan.cta_tile_q), "queries of one head"),
        Reason("work items", str(plan.num_work_items), "query tiles, dealt out by their cost"),
        Reason("num_splits", "1", "this backend never splits keys"),
        Reason("scheduler", "persistent", f"a thread block on each of {gpu.num_sms} SMs; read, not recorded"),
    )
