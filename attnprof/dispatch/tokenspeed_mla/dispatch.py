"""From a decode step over a latent cache to TokenSpeed's kernel, and what adds up its splits."""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.requests import Lengths
from attnprof.dispatch.tokenspeed_mla.rules import KEYS, num_splits, reducer_bands, reducer_room, tiles
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Prediction, Reason

_MAIN, _REDUCTION = "kernel_cutlass_split_kv_kernel_", "kernel_cutlass_reduction_kernel_"
_CLASS = "tokenspeed_mlamla_decode_{0}BlackwellMultiHeadLatentAttentionForward{1}_object_at_"
_FP8, _FP16 = _CLASS.format("fp8", "FP8"), _CLASS.format("fp16", "FP16")  # the latter of bf16 too
KERNEL, REDUCTION = f"{_MAIN}{_FP8}", f"{_REDUCTION}{_FP8}"
KERNEL_16, REDUCTION_16 = f"{_MAIN}{_FP16}", f"{_REDUCTION}{_FP16}"
_ROOM_16 = 256  # splits that the reducer is built for
THREADS, REDUCTION_THREADS = (384, 1, 1), (128, 1, 1)
HEAD_DIMS, MOST_HEADS = (576, 512), 128
CAPABILITIES = ((10, 0), (10, 3))


def predict_call(call: AttentionCall, gpu: Gpu) -> Prediction:
    """Both kernels. Raises UsageError for entries, sizes and elements that are not known."""
    if call.entry != "fwd_kvcache":
        raise UsageError("tokenspeed_mla is decode from a cache", hint="give --entry fwd_kvcache")
    capability = (gpu.sm_major, gpu.sm_minor)
    if capability not in CAPABILITIES:
        return Prediction(error=f"MLA decode requires SM100, SM103 or SM107, got {capability}")
    if call.dtype not in ("fp8", "bf16", "fp16"):
        raise UsageError(
            f"tokenspeed_mla takes fp8, bf16 and fp16, not {call.dtype}", hint="give --dtype fp8"
        )
    dims = (call.head_dim, call.head_dim_v or HEAD_DIMS[1])
    if dims != HEAD_DIMS or call.num_heads_k != 1 or call.num_heads > MOST_HEADS:
        raise UsageError(
            f"tokenspeed_mla is known for head dims {HEAD_DIMS} and up to {MOST_HEADS} heads of one KV head",
            hint="give --head-dim 576 --head-dim-v 512 --num-heads-k 1",
        )
    if not call.batch or not call.seqlen_q:
        return Prediction(reasons=(Reason("launches", "none", "there are no queries"),))
    longest = max(Lengths(call).seqlens_k)
    if longest <= 0:
        return Prediction(error=f"max_seq_len must be > 0, got {longest}")
    return _launches(call, gpu, longest)


def _launches(call: AttentionCall, gpu: Gpu, longest: int) -> Prediction:
    fp8 = call.dtype == "fp8"
    tiled = tiles(call.num_heads, call.seqlen_q, sm100=fp8 and gpu.sm_minor == 0)
    splits = num_splits(call.batch, tiled, longest, gpu.num_sms, fp8=fp8)
    grid = (tiled.cluster, call.batch * tiled.of_request, splits)
    found = [KernelLaunch(KERNEL if fp8 else KERNEL_16, grid, THREADS)]
    rows = call.num_heads * call.seqlen_q
    shape = f"{tiled.rows} rows" + (f", of {tiled.fold} queries" * (tiled.fold > 1))
    shape += ", over queries' ends" * tiled.packed
    bands = reducer_bands(call.batch, call.seqlen_q, call.num_heads, gpu.num_sms) if fp8 else 1
    if splits > 1:
        size = (call.num_heads * tiled.fold * bands, call.seqlen_q // tiled.fold, call.batch)
        smem = ceil_div(reducer_room(splits) if fp8 else _ROOM_16, 32) * 32 * 4
        found.append(KernelLaunch(REDUCTION if fp8 else REDUCTION_16, size, REDUCTION_THREADS, smem))
    share = f"{gpu.num_sms} SMs / {call.batch} requests / {tiled.of_request * tiled.cluster} thread blocks"
    keys = f"{ceil_div(longest, KEYS)} tiles of {KEYS} keys of the longest request, none of the splits empty"
    keys = keys if fp8 else "whatever the keys, at most 32"
    reasons = (
        Reason("tile", shape, f"{rows} query rows a request, in {tiled.of_request} of them"),
        Reason("num_splits", str(splits), f"{share}; {keys}"),
        Reason("grid", "x".join(map(str, grid)), "thread blocks of a tile, tiles of all requests, splits"),
        Reason("combine", "follows" if splits > 1 else "none", "where keys are split"),
    )
    return Prediction(tuple(found), splits, reasons=reasons, plan=(("split_kv", splits),))
