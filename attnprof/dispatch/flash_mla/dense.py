"""FlashMLA over all keys: decode on Hopper, in FP8 by vLLM's extension, and prefill on Blackwell.

Source: deepseek-ai/FlashMLA csrc/api/dense_decode.cpp and csrc/sm100/prefill/dense, vllm-project/FlashMLA
csrc/extension/sm90/dense_fp8.
"""

from __future__ import annotations

from attnprof.dispatch.flash_mla import older
from attnprof.dispatch.flash_mla.rules import BLOCK_M, OLDER, Build, Plan, combine_room, plan_decode
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths, split_range
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

PAGE = 64
HEAD_DIM_V = 512
ELEMENTS = {"bf16": "cutlass::bfloat16_t", "fp16": "cutlass::half_t"}
KERNEL = "sm90::decode::dense::flash_fwd_splitkv_mla_kernel"  # behind the build's namespace of old sources
COMBINE = "smxx::decode::flash_fwd_mla_combine_kernel"
METADATA = "smxx::decode::get_mla_metadata_kernel"
FP8_KERNEL, FP8_COMBINE = "flash::flash_fwd_splitkv_mla_kernel", "flash::flash_fwd_splitkv_mla_combine_kernel"
FP8_METADATA = "get_mla_metadata_kernel"
HEAD_DIMS = (576, 512)
_SMEM = {576: 230_816, 512: 214_416}
_FP8_SMEM = 148_480
_COMBINE_HEADS = 8
THREADS, COMBINE_THREADS, FP8_COMBINE_THREADS = (256, 1, 1), (256, 1, 1), (128, 1, 1)
PREFILL_TILE, _MLA_DIMS, _PLAIN_DIMS = 256, (192, 128), (128, 128)
PREFILL_THREADS, PREFILL_DIMS = (512, 1, 1), (_MLA_DIMS, _PLAIN_DIMS)
_PREFILL_SMEM = {_MLA_DIMS: 180_448, _PLAIN_DIMS: 164_080}


def decode(call: AttentionCall, gpu: Gpu, build: Build) -> Prediction:
    """Metadata, main kernel and combine of a dense decode; in FP8 those of vLLM's extension."""
    fp8 = call.dtype == "fp8"
    if (gpu.sm_major, gpu.sm_minor) != (9, 0):
        return Prediction(
            error="Dense FP8 MLA is only supported on SM90"
            if fp8
            else "Dense decode MLA is only supported on SM90a architecture"
        )
    if refusal := _refused(call, fp8=fp8):
        return Prediction(error=refusal)
    if build.version == OLDER and call.head_dim == 512:
        return Prediction(error=older.NO_512)
    if not fp8 and call.dtype not in ELEMENTS:
        raise UsageError(f"flash_mla has no {call.dtype}: known are bf16, fp16 and fp8")
    rows = call.seqlen_q * call.num_heads // call.num_heads_k
    lengths = Lengths(call)
    plan = plan_decode(lengths.seqlens_k, gpu.num_sms, call.num_heads_k, rows)
    if not combine_room(plan.num_sm_parts):
        return Prediction(error="FlashMLA has no combine kernel for more than 160 parts")
    main = _fp8_launches(call, rows, plan) if fp8 else _launches(call, rows, plan, build)
    blocks = (
        f"{gpu.num_sms} SMs / {call.num_heads_k} KV heads / {main[1].grid[0]} blocks of {BLOCK_M} query rows"
    )
    return planned(main, plan, lengths, (Reason("parts", str(plan.num_sm_parts), blocks),))


def planned(
    launches: tuple[KernelLaunch, ...], plan: Plan, lengths: Lengths, first: tuple[Reason, ...], *,
    counted: str = "blocks of 64 keys a part, 5 of them for each start", known: bool | None = None,
) -> Prediction:  # fmt: skip
    """A prediction of launches that a plan stands before, and its reasons."""
    told = lengths.known_k if known is None else known
    why = counted if known else lengths.said(counted)
    reasons = (
        *first,
        Reason("payload", str(plan.payload), why),
        Reason(
            "num_splits", split_range(plan.num_splits), "how many a request gets depends on those before it"
        ),
        Reason("combine", "follows", "of a request of one split it returns at once: its output is written"),
        Reason("scheduler", "persistent", "a part works off its share, dealt out on the device"),
    )
    return Prediction(
        launches,
        max(plan.num_splits),
        reasons=reasons,
        plan=(
            ("num_sm_parts", plan.num_sm_parts),
            ("payload", plan.payload),
            ("num_splits", list(plan.num_splits)),
        ),
        splits_of_requests=plan.num_splits,
        all_lengths_known=told,
    )


def _refused(call: AttentionCall, *, fp8: bool) -> str:
    if fp8 and call.head_dim != 576:
        return "Only head_size_k == 576 is supported"
    if call.batch == 0:
        return "batch size must be positive"
    if call.head_dim not in _SMEM:
        return "Only head_size_k == 576 or 512 is supported"
    if (call.head_dim_v or HEAD_DIM_V) != HEAD_DIM_V:
        return "Only head_size_v == 576 is supported"  # its own message: 512 is what it checks
    if (call.page_block_size or PAGE) != PAGE:
        return "Currently page_block_size must be 64"
    if call.num_heads % call.num_heads_k:
        return "Number of heads in key/value must divide number of heads in query"
    return ""


def names(dtype: str, head_dim: int, parts: int, old: str, *, causal: bool) -> tuple[str, str]:
    """The names of the main kernel and of what adds up so many parts; ``causal`` is told in FP8 alone.

    old: the build's namespace of old sources.
    """
    room = combine_room(parts)
    if dtype == "fp8":
        traits = (
            "Flash_fwd_kernel_traits_mla<576, 64, 64, 8, cutlass::float_e4m3_t, cutlass::bfloat16_t, 512>"
        )
        told = f"{traits}, {'true' if causal else 'false'}, flash::SharedStorageMLA<{traits} >"
        return f"{FP8_KERNEL}<{told} >", f"{FP8_COMBINE}<cutlass::bfloat16_t, float, long, 512, {room}>"
    element = ELEMENTS[dtype]
    traits = f"{old}sm90::decode::dense::Traits<{element}, {head_dim}>"
    return f"{old}{KERNEL}<{traits} >", f"{old}{COMBINE}<{element}, 512, 8, {room}, 256>"


def _launches(call: AttentionCall, rows: int, plan: Plan, build: Build) -> tuple[KernelLaunch, ...]:
    main, combine = names(call.dtype, call.head_dim, plan.num_sm_parts, build.old, causal=False)
    smem = 4 * (build.words * call.batch + 1)
    eights = ceil_div(call.num_heads, _COMBINE_HEADS)
    combine_grid = (call.batch * call.seqlen_q, 1, eights)
    if build.version == OLDER:
        main, combine_grid = older.dense(ELEMENTS[call.dtype]), (call.batch, call.seqlen_q, eights)
    grid = (ceil_div(rows, BLOCK_M), call.num_heads_k, plan.num_sm_parts)
    return (
        KernelLaunch(f"{build.old}{METADATA}", (1, 1, 1), (32, 1, 1), smem),
        KernelLaunch(main, grid, THREADS, _SMEM[call.head_dim]),
        KernelLaunch(combine, combine_grid, COMBINE_THREADS),
    )


def _fp8_launches(call: AttentionCall, rows: int, plan: Plan) -> tuple[KernelLaunch, ...]:
    main, combine = names("fp8", 576, plan.num_sm_parts, "", causal=call.causal and call.seqlen_q > 1)
    grid = (ceil_div(rows, BLOCK_M), call.num_heads_k, plan.num_sm_parts)
    return (
        KernelLaunch(FP8_METADATA, (1, 1, 1), (32, 1, 1)),
        KernelLaunch(main, grid, THREADS, _FP8_SMEM),
        KernelLaunch(combine, (call.batch * call.num_heads_k * rows, 1, 1), FP8_COMBINE_THREADS),
    )


def prefill(call: AttentionCall, gpu: Gpu) -> Prediction:
    """CUTLASS's forward kernel of Blackwell, which FlashMLA brings for packed batches with keys of their own.

    Raises UsageError for other GPUs and elements.
    """
    dims = (call.head_dim, call.head_dim_v or call.head_dim)
    if dims not in _PREFILL_SMEM:
        return Prediction(error=f"No kernel instantiated for head_dim_qk={dims[0]} head_dim_vo={dims[1]}")
    if gpu.sm_major != 10:
        raise UsageError(f"packed prefill of flash_mla on {gpu.name} is not modelled: it is Blackwell's")
    if call.dtype != "bf16":
        raise UsageError(f"packed prefill of flash_mla in {call.dtype} is not modelled: known is bf16")
    if not call.batch:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    tiles = ceil_div(call.seqlen_q, PREFILL_TILE)
    each = (call.num_heads, tiles, call.batch) if call.causal else (tiles, call.num_heads, call.batch)
    launch = KernelLaunch(prefill_name(dims, causal=call.causal), each, PREFILL_THREADS, _PREFILL_SMEM[dims])
    order = "heads, tiles" if call.causal else "tiles, heads"
    why = f"{order} and requests, tiles of {PREFILL_TILE} queries of the longest"
    reasons = (Reason("grid", "one tile each", why), Reason("num_splits", "1", "prefill never splits"))
    return Prediction((launch,), 1, reasons=reasons)


def prefill_name(dims: tuple[int, int], *, causal: bool) -> str:
    """The kernel's name without its template, whose mask and scheduler ``causal`` decides."""
    loop = "Sm100MlaFwdMainloop" if dims == _MLA_DIMS else "Sm100FmhaFwdMainloop"
    mask, scheduler = ("CausalMask<false>", "CausalIndividual") if causal else ("ResidualMask", "Individual")
    parts: tuple[str, ...] = (f"{loop}TmaWarpspecialized", mask, f"{scheduler}TileScheduler")
    return _FMHA.format(*parts)


_FMHA = (
    "cutlass::device_kernel<cutlass::fmha::kernel::Sm100FmhaFwdKernelTmaWarpspecialized<"
    "cutlass::fmha::collective::{}, cutlass::fmha::collective::{}, cutlass::fmha::kernel::{}> >"
)
