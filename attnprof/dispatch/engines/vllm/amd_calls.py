"""What vLLM's backends on AMD GPUs call: its Triton kernels are a library of ours, the rest is named.

Read, not recorded: vllm/v1/attention/backends/rocm_attn.py, rocm_aiter_fa.py, rocm_aiter_unified_attn.py and
mla/ of the wheel of 0.33.0.
"""

from __future__ import annotations

from attnprof.dispatch.engines.layer import Layer, Reached, Step
from attnprof.dispatch.engines.vllm.calls import Rules, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.mla_calls import reach_triton_mla

_OTHERS = {
    "ROCM_ATTN": "prompts run Triton's _fwd_kernel and decode vLLM's own paged_attention of HIP, or Triton's "
    "kernel_paged_attention_2d, whose launches are",
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
    if backend == "TRITON_MLA" and step.seqlen_q == 1:
        return reach_triton_mla(layer, step, rules)
    why_not = _OTHERS.get(backend, "MLA's prefill on AMD GPUs, by AITER or FlashAttention, is")
    return Reached((graph_note(step),), why_not=f"{why_not} not modelled")
