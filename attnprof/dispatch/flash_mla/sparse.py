"""FlashMLA over the keys that an indexer picks for each query: decode from a quantized cache, and prefill.

Source: deepseek-ai/FlashMLA csrc/api/sparse_decode.cpp, csrc/api/sparse_prefill.cpp and their kernels, and
the older ones that vllm 0.33.0 builds beside them as ``legacy``; sglang-kernel 0.4.10 has one of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from attnprof.dispatch.flash_mla import older
from attnprof.dispatch.flash_mla.dense import COMBINE_THREADS, HEAD_DIM_V, planned
from attnprof.dispatch.flash_mla.rules import (
    BLOCK_N,
    OLDER,
    OVERHEAD,
    OVERHEAD_128,
    UNSPLIT_TOPK,
    Build,
    combine_room,
    share_out,
)
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason
from attnprof.nouns import count_of

V32, V4, V41, NVFP4 = "fp8_ds_mla", "v4", "v4.1", "nvfp4_ds_mla"
_MODEL = {V32: 0, V4: 1, V41: 2, NVFP4: 4}  # ModelType in the kernels' names
_OF_HEAD_DIM = {576: (V32, NVFP4), 512: (V4, V41)}
_UNSUPPORTED = (
    "The chosen implementation does not support all required features. See message above for details."
)
_NO_NVFP4 = "kv must have shape (num_blocks, page_block_size, h_kv, kv_cache_bytes_per_token(model_type))"
_HEADS = (64, 128)
METADATA, COMBINE = "smxx::decode::get_mla_metadata_kernel", "smxx::decode::flash_fwd_mla_combine_kernel"
_DECODE = "flash_fwd_splitkv_mla_fp8_sparse_kernel"
_SM90_SMEM = {V32: 231_424, V4: 208_896}
_SM100_SMEM = {V32: 232_448, V4: 219_136, NVFP4: 225_408}
_SMALL_TOPK_SMEM = 224_640  # of V4's cache
_SMALL_TOPK = 1280  # keys of a query up to which prefill of 128 heads of 512 takes a kernel of its own
_SMALL_HEADS = {16: (128, 60_224, 54_080), 32: (256, 82_944, 74_752)}  # threads, shared memory at 576 and 512


@dataclass(frozen=True, slots=True)
class Kernel:
    """``blocks``: thread blocks a query and part.  ``times``: launches, each of 64 heads."""

    name: str
    threads: int
    smem: int
    blocks: int = 1
    times: int = 1
    overhead: int = OVERHEAD


def sparse_decode(call: AttentionCall, gpu: Gpu, build: Build) -> Prediction:
    """``sparse_decode_fwd``: ``backend`` names the cache's format, "" for fp8_ds_mla or V4's by head dim.

    ``cache_seqlens``: a count of keys per request is passed, ``extra_counted`` of those of the second cache.
    ``disable_split_kv``: batch invariance is asked of vLLM's.
    """
    kept = _format(call)
    if refusal := _decode_refused(call, gpu, kept, build):
        return Prediction(error=refusal)
    hopper, invariant = gpu.sm_major == 9, call.disable_split_kv and build.vllms
    topk = call.index_topk + call.extra_topk
    split = build.version == OLDER or hopper or not (invariant or topk <= UNSPLIT_TOPK) or kept == NVFP4
    kernel = _hopper(call, kept, build) if hopper else _blackwell(call, kept, build, split=split)
    beside = f" and {call.extra_topk} of a second cache" if call.extra_topk else ""
    keys = f"{call.index_topk} keys of each query{beside}"
    if not split:
        grid = (kernel.blocks * call.seqlen_q, call.batch, 1)
        why = "batch invariance is asked for" if invariant else f"{keys}: at most {UNSPLIT_TOPK}"
        reasons = (Reason("num_splits", "1", why), Reason("metadata", "none", "nothing is dealt out"))
        main = (KernelLaunch(kernel.name, grid, (kernel.threads, 1, 1), kernel.smem),) * kernel.times
        return Prediction(main, 1, reasons=reasons)
    a_query = call.num_heads // 64 if hopper else kernel.blocks
    parts = max(gpu.num_sms // call.seqlen_q // a_query, 1)
    blocks = ceil_div(call.index_topk, BLOCK_N) + ceil_div(call.extra_topk, BLOCK_N)
    plan = share_out([blocks] * call.batch, parts, kernel.overhead)
    if not combine_room(parts):
        return Prediction(error="FlashMLA has no combine kernel for more than 160 parts")
    grid = (
        (call.num_heads // 64, call.seqlen_q, parts) if hopper else (kernel.blocks * call.seqlen_q, parts, 1)
    )
    launches = (
        _metadata(call, build),
        *(KernelLaunch(kernel.name, grid, (kernel.threads, 1, 1), kernel.smem),) * kernel.times,
        _combine(call, parts, build),
    )
    drafts, each = count_of(call.seqlen_q, "query", "queries"), count_of(a_query, "thread block")
    shares = f"{gpu.num_sms} SMs / {drafts} a request / {each} a query"
    first = Reason("parts", str(parts), shares)
    cost = f"{keys}, in blocks of 64, and {kernel.overhead} of a part for each start"
    known = not call.cache_seqlens and not call.extra_counted
    return planned(launches, plan, Lengths(call), (first,), counted=cost, known=known)


def _metadata(call: AttentionCall, build: Build) -> KernelLaunch:
    if not build.vllms:
        smem = 4 * (build.words * call.batch + 1)
        return KernelLaunch(f"{build.shared}{METADATA}", (1, 1, 1), (32, 1, 1), smem)
    told = (call.cache_seqlens, call.extra_topk > 0, call.extra_counted)
    template = ", ".join(str(one).lower() for one in told)
    return KernelLaunch(f"{METADATA}<{template}>", (1, 1, 1), (32, 1, 1), 4 * (4 * call.batch + 1))


def _combine(call: AttentionCall, parts: int, build: Build) -> KernelLaunch:
    """vLLM's has the queries of a request apart."""
    eights = ceil_div(call.num_heads, 8)
    apart = build.vllms or build.version == OLDER
    grid = (call.batch, call.seqlen_q, eights) if apart else (call.batch * call.seqlen_q, 1, eights)
    return KernelLaunch(combine_name(parts, build), grid, COMBINE_THREADS)


def combine_name(parts: int, build: Build) -> str:
    """The kernel that adds up so many parts."""
    more = ", false" * build.vllms
    return f"{build.shared}{COMBINE}<cutlass::bfloat16_t, 512, 8, {combine_room(parts)}, 256{more}>"


def decode_kernels(build: Build) -> Iterator[tuple[AttentionCall, bool, Kernel]]:
    """Every kernel of decoding with a call that takes it, and whether it splits."""
    for heads, kept in itertools.product(_HEADS, _MODEL):
        if kept == NVFP4 and not build.vllms:
            continue
        head_dim = next(one for one, formats in _OF_HEAD_DIM.items() if kept in formats)
        call = AttentionCall("flash_mla", "fwd_kvcache", 1, 1, 1, heads, 1, head_dim)
        if kept in _SM90_SMEM:
            yield call, True, _hopper(call, kept, build)
        for split in (True, False):
            if split or kept != NVFP4:
                yield call, split, _blackwell(call, kept, build, split=split)


def prefill_kernels(build: Build) -> Iterator[tuple[AttentionCall, Kernel]]:
    """Every kernel of prefill with a call that takes it."""
    few = (16, 32) if build.vllms else ()
    for heads, head_dim, topk in itertools.product((*few, *_HEADS), _OF_HEAD_DIM, (512, 2048)):
        call = AttentionCall("flash_mla", "varlen_fwd", 1, 1, 1, heads, 1, head_dim, index_topk=topk)
        for counted in (False, True):
            yield call, _hopper_prefill(replace(call, cache_seqlens=counted), build)[0]
        if heads in _HEADS:
            yield call, _blackwell_prefill(call, build)[0]


def _format(call: AttentionCall) -> str:
    formats = _OF_HEAD_DIM.get(call.head_dim, ())
    if not formats or (call.head_dim_v or HEAD_DIM_V) != HEAD_DIM_V:
        raise UsageError("flash_mla's sparse decode is known for head dims 576 or 512, and 512 of V")
    kept = call.backend or formats[0]
    if kept not in formats:
        raise UsageError(f"a cache of {kept} with head dim {call.head_dim} is not modelled")
    return kept


def _decode_refused(call: AttentionCall, gpu: Gpu, kept: str, build: Build) -> str:
    if not call.batch:
        return "Expected b > 0 to be true, but got false."
    if build.version == OLDER and kept not in older.MODELS:
        return older.NO_SUCH_CACHE
    if kept == NVFP4 and not build.vllms:
        return _NO_NVFP4
    if call.num_heads not in _HEADS:
        return f"Unsupported h_q: {call.num_heads}"
    if gpu.sm_major not in (9, 10):
        return "Unsupported architecture for sparse decode fwd"
    hopper = gpu.sm_major == 9
    two_launches = not hopper and kept in (V32, NVFP4) and call.num_heads == 128
    lacking = kept in (V41, NVFP4) if hopper else False
    invariant = call.disable_split_kv and build.vllms
    if lacking or (invariant and (hopper or two_launches or kept == NVFP4)):
        return _UNSUPPORTED
    if kept == NVFP4 and call.extra_topk:
        raise UsageError("flash_mla over an NVFP4 cache with another beside it is not modelled")
    if call.index_topk % BLOCK_N:
        return f"Assertion `params.topk % {'TOPK_BLOCK_SIZE' if hopper else 'B_TOPK'} == 0`"
    if hopper and kept == V32:
        asked = "extra_kv" if call.extra_topk else "topk_length" if call.cache_seqlens else ""
        return f"Assertion `params.{asked} == nullptr`" if asked else ""
    unchecked = hopper or (call.num_heads == 128 and kept != V32)
    return "" if unchecked or not call.extra_topk % BLOCK_N else "Assertion `params.extra_topk % B_TOPK == 0`"


def _hopper(call: AttentionCall, kept: str, build: Build) -> Kernel:
    if build.version == OLDER:
        return Kernel(*older.hopper(call.num_heads, kept), _SM90_SMEM[kept])
    space = f"{build.old}sm90::decode::sparse::"
    name = f"{space}{_DECODE}<{space}KernelTemplate<(ModelType){_MODEL[kept]}, {call.num_heads}> >"
    return Kernel(name, 384, _SM90_SMEM[kept])


def _blackwell(call: AttentionCall, kept: str, build: Build, *, split: bool) -> Kernel:
    if build.version == OLDER:
        name, threads, smem, pair = older.blackwell(call.num_heads, kept)
        if pair:
            return Kernel(name, threads, smem, blocks=2, overhead=OVERHEAD_128)
        return Kernel(name, threads, smem, times=call.num_heads // 64)
    model, mode = f"(ModelType){_MODEL[kept]}", 2 if split else 1
    if kept == NVFP4:
        space = "legacy::sm100::decode::head64::"
        name = f"{space}{_DECODE}<{space}KernelTemplate<{model}> >"
        return Kernel(name, 384, _SM100_SMEM[kept], times=call.num_heads // 64)
    old = build.shared if kept == V41 else build.old
    if call.num_heads == 128 and kept != V32:
        space = f"{old}sm100::prefill::sparse_fwd_for_small_topk::head128::"
        width = "" if kept == V41 and build.vllms else "512, "
        template = f"KernelTemplate<(SparseAttnFwdMode){mode}, {width}{model}, {model}>"
        name = f"{space}{_DECODE}<{space}{template} >"
        smem = build.smem_v41[1] if kept == V41 else _SMALL_TOPK_SMEM
        return Kernel(name, 512, smem, blocks=2, overhead=OVERHEAD_128)
    space = f"{old}sm100::decode::sparse::head64::"
    config = f"{space}Config{{{model}, {model}, {'true' if split else 'false'}}}"
    name = f"{space}{_DECODE}<{space}KernelTemplate<{config}> >"
    smem = build.smem_v41[0] if kept == V41 else _SM100_SMEM[kept]
    return Kernel(name, 384, smem, times=call.num_heads // 64)


def sparse_prefill(call: AttentionCall, gpu: Gpu, build: Build) -> Prediction:
    """``sparse_prefill_fwd``: each query over its own keys in bf16; ``cache_seqlens`` as in decode."""
    if gpu.sm_major not in (9, 10):
        return Prediction(
            error="Sparse Attention Forward Kernel is only supported on SM90a and SM100f architectures."
        )
    if call.head_dim not in _OF_HEAD_DIM or (call.head_dim_v or HEAD_DIM_V) != HEAD_DIM_V:
        raise UsageError("flash_mla's sparse prefill is known for head dims 576 or 512, and 512 of V")
    if call.dtype != "bf16":
        raise UsageError(f"flash_mla's sparse prefill has no {call.dtype}: it takes bf16")
    hopper = gpu.sm_major == 9
    if call.num_heads not in ((8, 16, 32, 64, 128) if hopper and build.vllms else _HEADS):
        said = ". SM90a supports 8, 16, 32, 64 and 128 heads; SM100f supports 64 and 128." * build.vllms
        return Prediction(error=f"Unsupported h_q: {call.num_heads}{said}")
    kernel, unmet = (_hopper_prefill if hopper else _blackwell_prefill)(call, build)
    if build.version == OLDER:
        name, smem = older.prefill(call, kernel.smem, hopper=hopper)
        kernel = replace(kernel, name=name, smem=smem)
        unmet = unmet if unmet != "params.topk >= 128" else ""
    if unmet:
        return Prediction(error=f"Assertion `{unmet}`")
    tokens = Lengths(call).tokens
    if not tokens:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    launch = KernelLaunch(kernel.name, (kernel.blocks * tokens, 1, 1), (kernel.threads, 1, 1), kernel.smem)
    why = f"{kernel.blocks} thread block{'s' * (kernel.blocks > 1)} a query of {call.num_heads} heads"
    reasons = (
        Reason("grid", str(launch.grid[0]), f"{why}, {tokens} queries in all"),
        Reason("num_splits", "1", "each query's keys are attended by one kernel in one go"),
    )
    return Prediction((launch,), 1, reasons=reasons)


def _hopper_prefill(call: AttentionCall, build: Build) -> tuple[Kernel, str]:
    counted, space = "true" if call.cache_seqlens else "false", f"{build.old}sm90::prefill::sparse_fwd::"
    if call.num_heads <= 32:
        heads = max(call.num_heads, 16)
        threads, *smem = _SMALL_HEADS[heads]
        name = f"{space}sparse_attn_fwd_small_heads_kernel<{call.head_dim}, {counted}, {heads}>"
        return Kernel(name, threads, smem[call.head_dim == 512]), ""
    name = f"{space}sparse_attn_fwd_kernel<{space}KernelTemplate<{call.head_dim}, {counted}> >"
    unmet = "params.topk % (2*B_TOPK) == 0" if call.index_topk % 128 else ""
    smem_bytes = 230_864 if call.head_dim == 576 else 214_480
    return Kernel(name, 384, smem_bytes, blocks=call.num_heads // 64), unmet


def _blackwell_prefill(call: AttentionCall, build: Build) -> tuple[Kernel, str]:
    narrow, topk = call.head_dim == 512, call.index_topk
    new = narrow and build.vllms  # a kernel of this head dim alone, whose template does not state it
    space = f"{'' if new else build.old}sm100::prefill::sparse_fwd::head{call.num_heads}::"
    kernel = f"{space}sparse_attn_fwd_kernel<{space}KernelTemplate"
    if call.num_heads == 64:
        unmet = "params.topk % B_TOPK == 0" if topk % 64 else ""
        if new:
            return Kernel(f"{kernel}>", 384, 222_480), unmet
        unmet = unmet or ("params.topk >= 128" if topk < 128 else "")
        smem = 222_512 if narrow else 230_704
        return Kernel(f"{kernel}<(SparseAttnFwdMode)0, {call.head_dim}> >", 384, smem), unmet
    if narrow and topk <= _SMALL_TOPK:
        space = f"{build.shared}sm100::prefill::sparse_fwd_for_small_topk::head128::"
        model = "(ModelType)2, (ModelType)2" if new else "512, (ModelType)1, (ModelType)1"
        template = f"{space}KernelTemplate<(SparseAttnFwdMode)0, {model}> "
        name = f"{space}sparse_attn_fwd_for_small_topk_kernel<{template}>"
        unmet = "params.topk % Kernel::B_TOPK == 0" if topk % 64 else ""
        return Kernel(name, 512, 223_616, blocks=2), unmet
    unmet = "params.topk % Kernel::B_TOPK == 0" if topk % 128 else ""
    if new:
        return Kernel(f"{kernel}>", 512, 165_120, blocks=2), unmet
    smem = 165_120 if narrow else 181_504
    return Kernel(f"{kernel}<{call.head_dim}> >", 512, smem, blocks=2), unmet
