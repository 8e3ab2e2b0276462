"""MLA of vLLM 0.33 on AMD's Instinct GPUs: decode by AITER with a plan, prompts by AITER's packed forward.

Read, not recorded: vllm/v1/attention/backends/mla/rocm_aiter_mla.py (``AiterMLAMetadataBuilder``,
``AiterMLAHelper``), mla/prefill/aiter_flash_attn.py and platforms/rocm.py get_mla_prefill_backend_cls of the
wheel; how cached keys are gathered in chunks is recorded (mla_prefill.py).
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.aiter.rules import TAGGED
from attnprof.dispatch.engines.layer import PREFILL_BACKEND, Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm.calls import Rules, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.conditions import quantized
from attnprof.dispatch.engines.vllm.mla_calls import reach_triton_mla
from attnprof.dispatch.engines.vllm.mla_prefill import cached_notes, context_chunks, step_of
from attnprof.model import AttentionCall

_LATENT, _ROTATED = 512, 64
_MOST_REQUESTS = 1024  # max_num_seqs where nobody gives one, on GPUs of 70 GiB and more
_PADDED = 16  # heads, to whole multiples of which queries are padded
_GFX950 = (9, 5)
_UNPLANNED_BATCH = 32
AITER = Note(
    "AITER",
    TAGGED,
    "the newest tag that was read; vLLM 0.33's image builds v0.1.26, which may launch otherwise",
)
_NO_DECODE = {
    "ROCM_AITER_TRITON_MLA": "the launches of AITER's Triton kernels for MLA are not modelled",
    "ROCM_AITER_MLA_SPARSE": "the launches of AITER's kernels for sparse MLA are not modelled",
}


def reach_amd_mla(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """What a backend for MLA calls for a step."""
    if backend == "ROCM_AITER_MLA_SPARSE":
        return Reached((graph_note(step),), why_not=_NO_DECODE[backend])
    if step.seqlen_q > 1:
        return _prompts(backend, layer, step, sm)
    if backend == "TRITON_MLA":
        return reach_triton_mla(layer, step, rules)
    if backend == "ROCM_AITER_MLA":
        return _decode(layer, step, sm)
    return Reached((graph_note(step),), why_not=_NO_DECODE[backend])


def _decode(layer: Layer, step: Step, sm: Sm) -> Reached:
    """AITER's ``mla_decode_fwd`` with a plan for as many requests as the server admits."""
    graph = graph_note(step)
    fp8 = quantized(layer.kv_dtype)
    heads = -(-layer.num_heads // _PADDED) * _PADDED
    if layer.num_heads == 24:
        why_not = "whether AITER has MLA of 24 heads natively vLLM asks it, which is not modelled"
        return Reached((graph,), why_not=why_not)
    if layer.num_heads < _PADDED and sm == _GFX950 and not fp8 and _PADDED % layer.num_heads == 0:
        why_not = "decode of fewer than 16 heads on a gfx950 is AITER's Gluon kernel, which is not modelled"
        return Reached((graph,), why_not=why_not)
    room = max(_MOST_REQUESTS, step.batch)
    notes = [
        Note("decode kernel", "mla_decode_fwd", "AITER's assembly: every head reads the cache's rows of 576"),
        Note(
            "plan", f"for {room:,} requests", "max_num_seqs, 1,024 by default: what adds up follows from it"
        ),
        AITER,
        graph,
    ]
    if heads != layer.num_heads:
        notes.insert(1, Note("heads", str(heads), f"{layer.num_heads} padded to a multiple of {_PADDED}"))
    sizes: dict[str, Any] = {
        "num_heads": heads, "num_heads_k": 1, "head_dim": _LATENT + _ROTATED, "head_dim_v": _LATENT,
        "page_block_size": 1, "scheduler_metadata": True, "plan_batch": room,
    }  # fmt: skip
    if fp8:
        sizes["dtype"] = "fp8"
    elif sm == _GFX950 and heads == _PADDED and step.batch >= _UNPLANNED_BATCH:
        wide = "of the whole list of pages, max_num_seqs x max_model_len, which --seqlen-k stands for"
        notes.insert(2, Note("keys of the search", "more than are attended", wide))
        sizes |= {"seqlen_k": room * step.seqlen_k // step.batch, "seqlens_k": ()}
    return Reached(tuple(notes), vllm_call("aiter", "fwd_kvcache", layer, step, **sizes), TAGGED)


def _prompts(backend: str, layer: Layer, step: Step, sm: Sm) -> Reached:
    """Keys and values of every head, made of the latents: new ones first, then chunks of cached ones."""
    graph = graph_note(step)
    if any(queries == 1 for queries in step.each_q):
        why_not = "a step of prompts and decode launches both, of two kinds of calls: ask for each alone"
        return Reached((graph,), why_not=why_not)
    if not layer.aiter or layer.batch_invariant:
        why_not = (
            "without VLLM_ROCM_USE_AITER prompts of MLA are FlashAttention's for ROCm, of Composable Kernel, "
            "which is not modelled"
        )
        return Reached((graph,), why_not=why_not)
    if backend == "ROCM_AITER_MLA" and quantized(layer.kv_dtype) and sm == _GFX950:
        why_not = (
            "prompts of MLA over an FP8 cache on a gfx950 are AITER's FP8 assembly, which is not modelled"
        )
        return Reached((graph,), why_not=why_not)
    contexts = tuple(keys - queries for queries, keys in zip(step.each_q, step.each_k, strict=True))
    chunks = context_chunks(contexts, layer.block_size or (1 if backend == "ROCM_AITER_MLA" else 16))
    new = Step(step.batch, step.seqlen_q, step.seqlen_q, step.cuda_graph, step.seqlens_q, step.seqlens_q)
    taken = Note(PREFILL_BACKEND, "ROCM_AITER_FA", "VLLM_ROCM_USE_AITER asks for AITER's")
    calls = [_packed(layer, new, causal=True, return_softmax=bool(chunks))]
    calls += [_packed(layer, step_of(step, one), causal=False, return_softmax=True) for one in chunks]
    notes = (taken, AITER, *cached_notes(chunks), graph)
    return Reached(notes, calls[0], TAGGED, more=tuple(calls[1:]))


def _packed(layer: Layer, step: Step, **more: Any) -> AttentionCall:
    return vllm_call(
        "aiter", "varlen_fwd", layer, step, num_heads_k=layer.num_heads, page_block_size=None,
        head_dim=layer.qk_nope_head_dim + layer.qk_rope_head_dim, head_dim_v=layer.v_head_dim or 128, **more,
    )  # fmt: skip
