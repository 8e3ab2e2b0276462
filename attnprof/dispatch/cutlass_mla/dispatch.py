"""From a decode step over a latent cache to CUTLASS's main kernel, and what adds up its splits."""

from __future__ import annotations

from attnprof.dispatch.cutlass_mla.rules import HEAD_DIMS, HEADS, PAGE, grid, most_splits, num_splits
from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

_NAMESPACE = "cutlass::fmha::kernel"
KERNEL, REDUCTION = "Sm100FmhaMlaKernelTmaWarpspecialized", "Sm100FmhaMlaReductionKernel"
ELEMENTS = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t", "fp8": "cutlass::float_e4m3_t"}
OUTPUTS = ELEMENTS | {"fp8": ELEMENTS["bf16"]}
SMEM = {"bf16": 210_944, "fp16": 210_944, "fp8": 157_696}
BLOCK, REDUCTION_BLOCK = (256, 1, 1), (128, 1, 1)


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """Both kernels. Raises UsageError for entries and queries that it does not have.

    ``seqlen_k`` is what the page table has room for, as of any cache: its lengths in use do not enter.
    """
    if call.entry != "fwd_kvcache" or call.seqlen_q != 1:
        raise UsageError(
            "cutlass_mla is decode of one query a request", hint="give --entry fwd_kvcache --seqlen-q 1"
        )
    if gpu.sm_major != 10:
        return Prediction(error="sm100_cutlass_mla_decode needs compute capability 10.x")
    dims, page = (call.head_dim, call.head_dim_v or HEAD_DIMS[1]), call.page_block_size or PAGE
    if dims != HEAD_DIMS or page != PAGE or call.num_heads > HEADS or call.num_heads_k != 1:
        raise UsageError(
            f"cutlass_mla is known for head dims {HEAD_DIMS}, pages of {PAGE} and up to {HEADS} heads of one "
            "KV head",
            hint=f"give --head-dim 576 --head-dim-v 512 --num-heads-k 1 --page-block-size {PAGE}",
        )
    if call.dtype not in ELEMENTS:
        raise UsageError(f"cutlass_mla has no {call.dtype}: known are {', '.join(ELEMENTS)}")
    if not call.batch:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    keys = ceil_div(call.seqlen_k, page) * page
    splits, most = num_splits(call.batch, keys, gpu.num_sms), most_splits(call.batch, keys)
    main = grid(call.batch, splits, gpu.num_sms)
    found = [KernelLaunch(kernel_name(call.dtype), main, BLOCK, SMEM[call.dtype])]
    if splits > 1:
        found.append(KernelLaunch(reduction_name(call.dtype), (HEADS, 1, call.batch), REDUCTION_BLOCK))
    room = f"a batch of {call.batch} over a page table of {keys} keys; what is in use does not enter"
    waves = f"{most} at most over {gpu.num_sms} SMs / {call.batch} requests, in whole waves"
    return Prediction(
        tuple(found),
        splits,
        reasons=(
            Reason("most splits", str(most), room),
            Reason("num_splits", str(splits), waves),
            Reason("grid", str(main[0]), f"2 x {call.batch} requests x {splits} splits, at most the SMs"),
            Reason("combine", "follows" if splits > 1 else "none", "where keys are split"),
        ),
        plan=(("num_kv_splits", splits),),
    )  # fmt: skip


def kernel_name(dtype: str) -> str:
    """The main kernel's demangled name."""
    tile = "cute::tuple<cute::C<128>, cute::C<128>, cute::tuple<cute::C<512>, cute::C<64> > >"
    inner = f"{tile}, {ELEMENTS[dtype]}, float, {OUTPUTS[dtype]}, float"
    return _device(f"{_NAMESPACE}::{KERNEL}<{inner}, {_NAMESPACE}::Sm100MlaPersistentTileScheduler, false>")


def reduction_name(dtype: str) -> str:
    """The name of the kernel that adds up the splits."""
    return _device(f"{_NAMESPACE}::{REDUCTION}<{OUTPUTS[dtype]}, float, float, 128ul, 512ul, 256>")


def _device(functor: str) -> str:
    return f"void cutlass::device_kernel<{functor} >({functor}::Params)"
