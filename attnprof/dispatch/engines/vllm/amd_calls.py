"""What vLLM's backends on AMD GPUs call: ROCM_ATTN and its Triton kernels are libraries of ours.

Read, not recorded: vllm/v1/attention/backends/rocm_attn.py, rocm_aiter_fa.py, rocm_aiter_unified_attn.py and
mla/ of the wheel of 0.33.0.
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Layer, Reached, Step
from attnprof.dispatch.engines.vllm.calls import Rules, capture_note, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.engines.vllm.mla_calls import reach_triton_mla
from attnprof.dispatch.vllm_rocm.rules import against_hip

_ERROR = "vLLM ends with an error:"
_OTHERS = {
    "ROCM_AITER_FA": "the launches of AITER's flash_attn_varlen_func and its assembly of paged decode are",
    "ROCM_AITER_UNIFIED_ATTN": "the launches of AITER's own unified_attention of Triton are",
    "ROCM_AITER_MLA": "the launches of AITER's assembly for MLA's decode are",
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
