"""What vLLM's backends on AMD GPUs call: ROCM_ATTN and its Triton kernels are libraries of ours.

Read, not recorded: vllm/v1/attention/backends/rocm_attn.py, rocm_aiter_fa.py, rocm_aiter_unified_attn.py and
mla/ of the wheel of 0.33.0.
"""

from __future__ import annotations

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
_OTHERS = {
    "ROCM_AITER_UNIFIED_ATTN": "AITER's unified_attention is called with shuffled_kv_cache, which 0.1.7, the "
    "last AITER whose rules are known, does not take: a newer one's is",
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
