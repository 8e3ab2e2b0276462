"""What vLLM's backends on AMD GPUs call: ROCM_ATTN and its Triton kernels are libraries of ours.

Read, not recorded: vllm/v1/attention/backends/rocm_attn.py, rocm_aiter_fa.py and rocm_aiter_unified_attn.py
of the wheel of 0.33.0. MLA's are in amd_mla.py.
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.aiter.rules import TAGGED
from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm.amd_mla import AITER, reach_amd_mla
from attnprof.dispatch.engines.vllm.calls import Rules, capture_note, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.vllm_rocm.rules import against_hip
from attnprof.model import AttentionCall

_LEAST_PAGED_DIM = 64
_ERROR = "vLLM ends with an error:"
_MIXED = "a step of prompts and decode launches both, of two libraries: ask for each alone"
_SLIDING = (
    "decode with a window goes to AITER's paged attention over a cut page table, prompts with one to "
    "Composable Kernel's forward over the keys that it reaches: not modelled"
)
_SINKS = "prompts with sinks by AITER's flash_attn_varlen_func, which 0.1.7 does not take, are not modelled"
_UNIFIED_PAGE = 64  # what the backend prefers
_CHUNK_ROOM = 32 * 1024  # keys of the workspace that cached ones are gathered into


def reach(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """What a backend calls for a step."""
    if layer.mla:
        return reach_amd_mla(backend, layer, step, sm, rules)
    if backend == "TRITON_ATTN":
        return Reached(
            (graph_note(step),), vllm_call("vllm_triton", "batch_paged", layer, step), rules.triton
        )
    if backend == "ROCM_ATTN":
        return _rocm_attn(layer, step, rules)
    if backend == "ROCM_AITER_FA":
        return _aiter_fa(layer, step)
    if backend == "ROCM_AITER_UNIFIED_ATTN":
        return _aiter_unified(layer, step, rules)
    return Reached((graph_note(step),), why_not=f"the launches of vLLM's {backend} are not modelled")


def _rocm_attn(layer: Layer, step: Step, rules: Rules) -> Reached:
    """Prompts by Triton, decode by HIP where its conditions hold; encoders have no cache."""
    if layer.attn_type != "decoder":
        if quantized(layer.kv_dtype):
            return Reached((), why_not=f"{_ERROR} quantization is not supported for encoder attention")
        call = vllm_call("vllm_rocm", "varlen_fwd", layer, step, page_block_size=None)
        return Reached((graph_note(step),), call, rules.version)
    call = vllm_call("vllm_rocm", "batch_paged", layer, step)
    if layer.kv_dtype == "fp8_e5m2" and not against_hip(call, step.seqlen_k):
        return Reached((), why_not=f"{_ERROR} Unsupported KV cache dtype: {layer.kv_dtype}")
    return Reached((*capture_note(step), graph_note(step)), call, rules.version)


def _aiter_unified(layer: Layer, step: Step, rules: Rules) -> Reached:
    """AITER's unified_attention; over encoders without a cache ROCM_ATTN's kernel, across to one Triton's."""
    if layer.attn_type in ("encoder", "encoder_only"):
        return _rocm_attn(layer, step, rules)
    page: dict[str, Any] = {"page_block_size": layer.block_size or _UNIFIED_PAGE}
    if layer.non_causal or layer.attn_type == "encoder_decoder":
        call = vllm_call("vllm_triton", "batch_paged", layer, step, **page, causal=False)
        return Reached((graph_note(step),), call, rules.triton)
    if quantized(layer.kv_dtype):
        page["dtype"] = "fp8"  # queries are made FP8 as well
    kernel = Note("kernel", "unified_attention", "AITER's Triton, for prompts and decode alike")
    call = vllm_call("aiter_paged", "batch_paged", layer, step, **page)
    return Reached((kernel, AITER, *capture_note(step), graph_note(step)), call, TAGGED)


def _aiter_fa(layer: Layer, step: Step) -> Reached:
    """New prompts by AITER's flash_attn_varlen_func, decode by its paged attention, or unified_attention."""
    graph = graph_note(step)
    decodes = [queries == 1 for queries in step.each_q]
    if any(decodes) and not all(decodes):
        return Reached((graph,), why_not=_MIXED)
    if all(decodes):
        return _aiter_fa_decode(layer, step)
    if layer.window is not None or layer.sinks:
        return Reached((graph,), why_not=_SLIDING if layer.window is not None else _SINKS)
    prompts = Note("prompts", "flash_attn_varlen_func", "AITER's, over the new keys")
    calls, told = _packed(layer, step)
    return Reached((prompts, *told, graph), calls[0], more=calls[1:])


def _packed(layer: Layer, step: Step) -> tuple[tuple[AttentionCall, ...], tuple[Note, ...]]:
    """Prompts without cached keys; then those with some, new keys causally and chunks of the others whole."""
    pairs = tuple(zip(step.each_q, step.each_k, strict=True))
    fresh = tuple(queries for queries, keys in pairs if keys == queries)
    further = tuple((queries, keys - queries) for queries, keys in pairs if keys > queries)
    calls = [_varlen(layer, fresh, fresh, causal=True)] if fresh else []
    if not further:
        return tuple(calls), ()
    queries = tuple(new for new, _ in further)
    calls.append(_varlen(layer, queries, queries, causal=True))
    width = _CHUNK_ROOM // len(further)
    starts = range(0, max(cached for _, cached in further), width)
    for start in starts:
        keys = tuple(min(width, max(0, cached - start)) for _, cached in further)
        calls.append(_varlen(layer, queries, keys, causal=False))
    why = f"of {width} of each request at most, without a mask: {_CHUNK_ROOM:,} are gathered at once"
    merge = "merge_attn_states, once for each chunk and layer"
    return tuple(calls), (
        Note("keys of the cache", f"in {len(starts)} chunk{'s' * (len(starts) > 1)}", why),
        Note("merge", "follows", merge),
    )


def _varlen(layer: Layer, queries: tuple[int, ...], keys: tuple[int, ...], *, causal: bool) -> AttentionCall:
    alike = len(set(queries)) == len(set(keys)) == 1
    step = Step(len(queries), max(queries), max(keys), False, *(() if alike else (queries, keys)))
    return vllm_call("aiter", "varlen_fwd", layer, step, page_block_size=None, causal=causal)


def _aiter_fa_decode(layer: Layer, step: Step) -> Reached:
    graph = graph_note(step)
    if layer.sinks or layer.head_dim < _LEAST_PAGED_DIM:
        why = "sinks and head dims below 64, which the paged kernel does not take"
        kernel = Note("decode", "unified_attention", why)
        if quantized(layer.kv_dtype):
            return Reached((kernel, graph), why_not="16-bit queries over an FP8 cache by it are not modelled")
        call = vllm_call("aiter_paged", "batch_paged", layer, step)
        return Reached((kernel, AITER, *capture_note(step), graph), call, TAGGED)
    if layer.window is not None:
        return Reached((graph,), why_not=_SLIDING)
    note = Note(
        "decode", "paged_attention_v1", "AITER's copy of vLLM's, unless VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT"
    )
    call = vllm_call("aiter_paged", "fwd_kvcache", layer, step, cache_seqlens=True)
    return Reached((note, *capture_note(step), graph), call)
