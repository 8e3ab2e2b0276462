"""The calls that SGLang's backends make for latent attention: decode absorbed, prompts by a method.

Source: sglang/srt/layers/attention of the wheel: flashattention_backend.py, triton_backend.py,
flashinfer_mla_backend.py, flashmla_backend.py, trtllm_mla_backend.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.sglang.amd_calls import reach_aiter_mla
from attnprof.dispatch.engines.sglang.calls import (
    CONTEXT,
    COPY,
    FA3,
    FLASHINFER,
    OWN_FA4,
    TRITON,
    TRITON_TILE,
    graph_note,
    over_keys,
    packed_cache,
    sglang_call,
    splits_note,
)
from attnprof.dispatch.engines.sglang.methods import ABSORBED, ONE_SHOT, chunks, method_of
from attnprof.dispatch.engines.sglang.selector import page_size, quantized
from attnprof.dispatch.flash_mla.rules import SGL_WHEEL
from attnprof.model import AttentionCall, Entry

_LATENT, _ROTATED = 512, 64
_ROWS: dict[str, Any] = {"num_heads_k": 1, "head_dim": _LATENT + _ROTATED, "head_dim_v": _LATENT}
_OTHERS = {
    "fa4": OWN_FA4,
    "cutedsl_mla": "FlashInfer's CuTe-DSL MLA decode is not modelled",
}


def reach_mla(backend: str, layer: Layer, step: Step, sm: Sm) -> Reached:
    """What a backend calls for a step."""
    if backend == "aiter":
        return reach_aiter_mla(layer, step)
    layer = replace(layer, block_size=page_size(backend, layer, sm[0]))
    if step.seqlen_q == 1 or step.drafts:
        return _absorbed(backend, layer, step, ())
    if backend == "cutedsl_mla":  # decode alone: its server's prompts are trtllm_mla's
        backend = "trtllm_mla"
    method = method_of(backend, layer, step, sm)
    told = Note("forward method", method.name, method.why)
    if method.name == ABSORBED:
        return _absorbed(backend, layer, step, (told,))
    return _by_head(backend, layer, step, sm, method.name, told)


def _absorbed(backend: str, layer: Layer, step: Step, told: tuple[Note, ...]) -> Reached:
    """Every head reads the cache's rows."""
    decode, graph = step.seqlen_q == 1, graph_note(step)
    if backend == "triton":
        fixed: dict[str, Any] = {"fixed_split_size": TRITON_TILE} if layer.batch_invariant else {}
        entry: Entry = "fwd_kvcache" if decode else "batch_paged"
        call = sglang_call("sglang_triton", entry, layer, step, **_ROWS, **fixed)
        return Reached((*told, graph), call, TRITON)
    if backend == "fa3":
        asked = splits_note(layer)
        queries = Note("queries", f"{_ROTATED} and {_LATENT}", "the rotated part against K, qv against V")
        rotated = _ROWS | {"head_dim": _ROTATED, "has_qv": True, "num_splits": int(asked.value)}
        context = (CONTEXT,) if decode or step.drafts else ()
        call = packed_cache("flash_attn_3", layer, step, **rotated)
        return Reached((*told, asked, COPY, queries, graph, *context), call, FA3)
    if backend == "flashinfer" or (backend == "trtllm_mla" and not (decode or step.drafts)):
        causal = Note("mask", "none" if decode else "causal", "as planned: decode has one query a request")
        call = sglang_call(
            "flashinfer", "batch_mla", layer, step, causal=not decode, **(_ROWS | {"page_block_size": 1})
        )
        return Reached((*told, causal, graph), call, FLASHINFER)
    if backend == "trtllm_mla":
        return _trtllm(layer, step, told)
    if backend == "flashmla":
        return _flash_mla(layer, step, told)
    return Reached((*told, graph), why_not=_OTHERS.get(backend, f"SGLang's {backend} has no MLA"))


def _trtllm(layer: Layer, step: Step, told: tuple[Note, ...]) -> Reached:
    first = "FlashInfer's auto takes it, but where its autotuner timed cute-dsl as faster"
    page = Note("page size", str(layer.block_size), "32 or 64")
    notes = (*told, Note("decode kernel", "trtllm-gen", first), page, graph_note(step))
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer) else {}
    call = sglang_call("flashinfer", "batch_mla", layer, step, backend="trtllm-gen", **_ROWS, **dtype)
    return Reached(notes, call, FLASHINFER)


def _flash_mla(layer: Layer, step: Step, told: tuple[Note, ...]) -> Reached:
    """FlashMLA's dense decode, causal; prompts that keep to latents are FlashInfer's."""
    if step.seqlen_q > 1 and not step.drafts:
        call = sglang_call(
            "flashinfer", "batch_mla", layer, step, causal=True, **(_ROWS | {"page_block_size": 1})
        )
        return Reached((*told, graph_note(step)), call, FLASHINFER)
    notes = (*told, Note("decode kernel", "FlashMLA", f"the older half of {SGL_WHEEL}"), graph_note(step))
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer) else {}
    call = sglang_call("flash_mla", "fwd_kvcache", layer, step, causal=True, **_ROWS, **dtype)
    return Reached(notes, call, SGL_WHEEL)


def _by_head(backend: str, layer: Layer, step: Step, sm: Sm, method: str, told: Note) -> Reached:
    """Keys and values of every head, made of the latents: all at once, or new ones, then chunks."""
    whole = method == ONE_SHOT
    rest = () if whole else chunks(step)
    notes: tuple[Note, ...] = (told,)
    if rest:
        why = f"not causally, in chunks of {max(rest[0])} keys a request; then merge_state"
        notes = (told, Note("keys of the cache", "in further calls", why))
    keys = step.each_k if whole else step.each_q
    wide, narrow = layer.qk_nope_head_dim + layer.qk_rope_head_dim, layer.v_head_dim or 128
    dims: dict[str, Any] = {
        "num_heads_k": layer.num_heads, "head_dim": wide, "head_dim_v": narrow, "page_block_size": None,
    }  # fmt: skip
    more: dict[str, Any] = {}
    if backend == "triton":
        call = sglang_call("sglang_triton", "batch_paged", layer, step, **(dims | {"page_block_size": 1}))
        return Reached((*notes, graph_note(step)), call, TRITON)
    library, version, packed = "flashinfer", FLASHINFER, True
    if backend == "trtllm_mla":
        why = "TensorRT-LLM's kernels over separate Q, K and V"
        notes = (*notes, Note("prefill kernel", "trtllm_ragged_attention_deepseek", why))
        more = {"backend": "trtllm-gen", "total_q": sum(step.each_q)}
        more |= {"dtype": "fp8"} if quantized(layer) else {}
    elif backend == "fa3":
        library, version = "flash_attn_3", FA3
        more = {"total_q": sum(step.each_q)}
        notes = (*notes, COPY)
    elif backend == "fa4":
        return Reached((*notes, graph_note(step)), why_not=OWN_FA4)
    else:
        packed = False
        more = {"backend": "cutlass" if sm[0] == 10 else "auto"}

    def made(lengths: tuple[int, ...], causal: bool) -> AttentionCall:
        kind: Entry = "varlen_fwd" if packed else "batch_ragged"
        return sglang_call(
            library, kind, layer, step, causal=causal, **dims, **more, **over_keys(step, lengths)
        )

    further = tuple(made(each, False) for each in rest)
    return Reached((*notes, graph_note(step)), made(keys, True), version, more=further)
