"""What vLLM's backends on AMD GPUs call: ROCM_ATTN and its Triton kernels are libraries of ours.

Read, not recorded: vllm/v1/attention/backends/rocm_attn.py, rocm_aiter_fa.py, rocm_aiter_unified_attn.py and
mla/ of the wheel of 0.33.0.
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.aiter.rules import TAGGED
from attnprof.dispatch.engines.layer import Layer, Note, Reached, Step
from attnprof.dispatch.engines.vllm.calls import Rules, capture_note, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.engines.vllm.mla_calls import reach_triton_mla
from attnprof.dispatch.vllm_rocm.rules import against_hip

_LEAST_PAGED_DIM = 64
_ERROR = "vLLM ends with an error:"
_EXTENDS = (
    "vLLM gathers the cached keys of a prompt in chunks and attends each beside the new ones: its workspace, "
    "from which their number follows, is not modelled"
)
_OTHER_DECODE = (
    "decode with a window, sinks or a head dim below 64 goes to AITER's unified_attention, or to its paged "
    "attention over a cut page table: not modelled"
)
_UNIFIED_PAGE = 64  # what the backend prefers
_AITER = Note(
    "AITER",
    TAGGED,
    "the newest tag that was read; vLLM 0.33's image builds v0.1.26, which may launch otherwise",
)
_OTHERS = {
    "ROCM_AITER_MLA": "MLA's decode by AITER's assembly, which vLLM gives a plan where it has made one, is",
    "ROCM_AITER_TRITON_MLA": "the launches of AITER's Triton kernels for MLA are",
    "ROCM_AITER_MLA_SPARSE": "the launches of AITER's kernels for sparse MLA are",
}


def reach(backend: str, layer: Layer, step: Step, rules: Rules) -> Reached:
    """What a backend calls for a step."""
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
    if backend == "TRITON_MLA" and step.seqlen_q == 1:
        return reach_triton_mla(layer, step, rules)
    why_not = _OTHERS.get(backend, "MLA's prefill on AMD GPUs, by AITER or FlashAttention, is")
    return Reached((graph_note(step),), why_not=f"{why_not} not modelled")


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
    return Reached((kernel, _AITER, *capture_note(step), graph_note(step)), call, TAGGED)


def _aiter_fa(layer: Layer, step: Step) -> Reached:
    """New prompts by AITER's flash_attn_varlen_func, decode by its paged attention."""
    graph = graph_note(step)
    if step.seqlen_q > 1:
        note = Note("prompts", "flash_attn_varlen_func", "AITER's, over the new keys")
        if step.seqlen_k > step.seqlen_q:
            return Reached((note, graph), why_not=_EXTENDS)
        return Reached((note, graph), vllm_call("aiter", "varlen_fwd", layer, step, page_block_size=None))
    if layer.window is not None or layer.sinks or layer.head_dim < _LEAST_PAGED_DIM:
        return Reached((graph,), why_not=_OTHER_DECODE)
    note = Note(
        "decode", "paged_attention_v1", "AITER's copy of vLLM's, unless VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT"
    )
    call = vllm_call("aiter_paged", "fwd_kvcache", layer, step, cache_seqlens=True)
    return Reached((note, *capture_note(step), graph), call)
