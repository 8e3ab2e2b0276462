"""The calls that SGLang's backend dsa makes for models with an indexer: each query has keys of its own.

Source: sglang/srt/layers/attention/dsa_backend.py of the wheel, and arg_groups/overrides.py
_dsa_kv_cache_dtype_default and _dsa_split_backend_resolution, with which the kinds agree (tests/data/golden,
sglang_servers).
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Step
from attnprof.dispatch.engines.sglang.calls import (
    COPY,
    FA3,
    FLASHINFER,
    graph_note,
    packed_cache,
    sglang_call,
)
from attnprof.dispatch.engines.sglang.methods import CHUNK_CAPACITY
from attnprof.dispatch.flash_mla.rules import SGL_WHEEL
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import Gpu

_LATENT, _ROTATED, _PAGE = 512, 64, 64
_DENSE_UP_TO = 2048  # keys of a prompt that are all attended, SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD


def kinds(layer: Layer, gpu: Gpu) -> tuple[str, str, str]:
    """(prefill, decode, KV dtype) that the server settles on; --kv-dtype may ask for the last."""
    dtype = {"auto": "fp8_e4m3" if gpu.sm_major >= 10 else "bfloat16", "bf16": "bfloat16"}.get(
        layer.kv_dtype, layer.kv_dtype
    )
    if gpu.vendor != "nvidia":
        return "triton", "triton", dtype
    blackwell = gpu.sm_major >= 10
    if dtype == "fp8_e4m3":
        both = "trtllm" if blackwell else "flashmla_kv"
        return both, both, dtype
    return "flashmla_sparse", "trtllm" if blackwell else "fa3", dtype


def reach_sparse(layer: Layer, step: Step, gpu: Gpu) -> Reached:
    """What backend dsa calls for a step."""
    prefill, decode, dtype = kinds(layer, gpu)
    is_decode = step.seqlen_q == 1 or step.drafts
    kind, option = (decode, "decode") if is_decode else (prefill, "prefill")
    topk = layer.index_topk
    cache = Note(
        "KV cache", dtype, "the default of it on this GPU" if layer.kv_dtype == "auto" else "asked for"
    )
    picked = Note("keys", str(topk), "at most, that an indexer picks for each query")
    taken = Note(f"dsa_{option}_backend", kind, f"what the server settles on for a {dtype} cache")
    notes = (taken, cache, picked, graph_note(step))
    short = max(step.each_k) <= _DENSE_UP_TO and sum(step.each_k) <= CHUNK_CAPACITY
    if not is_decode and short and not step.cuda_graph and gpu.sm_major in (9, 10) and gpu.vendor == "nvidia":
        return _dense(layer, step, gpu, notes)
    if kind == "trtllm":
        return _trtllm(layer, step, notes, "fp8" if dtype == "fp8_e4m3" else layer.dtype)
    if kind == "flashmla_kv":
        return _decode(layer, step, notes)
    if kind == "flashmla_sparse":
        return _prefill(layer, step, gpu, notes)
    if kind != "fa3":
        return Reached(notes, why_not=f"what dsa calls by {kind} is not modelled")
    tokens = sum(step.each_q)
    keys: tuple[int, ...] = ()
    if step.seqlen_q == 1:
        keys = tuple(min(topk, each) for each in step.seqlens_k)
    rows = Step(tokens, 1, topk, step.cuda_graph, (), keys)
    pages = Note("pages", "of 1", "the keys picked are the page table, so each query is a request of its own")
    sizes: dict[str, Any] = {
        "num_heads_k": 1, "head_dim": _ROTATED, "head_dim_v": _LATENT, "has_qv": True, "page_block_size": 1,
    }  # fmt: skip
    call = packed_cache("flash_attn_3", layer, rows, causal=True, **sizes)
    return Reached((*notes, pages, COPY), call, FA3)


def _dense(layer: Layer, step: Step, gpu: Gpu, notes: tuple[Note, ...]) -> Reached:
    """A short prompt: every key is attended, by head."""
    why = f"no longer than {_DENSE_UP_TO} keys: by head, all keys at once"
    told = (Note("forward method", "MHA_ONE_SHOT", why), *notes)
    sizes: dict[str, Any] = {
        "num_heads_k": layer.num_heads, "head_dim": layer.qk_nope_head_dim + layer.qk_rope_head_dim,
        "head_dim_v": layer.v_head_dim or 128, "page_block_size": None, "total_q": sum(step.each_q),
    }  # fmt: skip
    if gpu.sm_major != 9:
        kernel = Note("prefill kernel", "trtllm_ragged_attention_deepseek", "over separate Q, K and V")
        call = sglang_call("flashinfer", "varlen_fwd", layer, step, backend="trtllm-gen", **sizes)
        return Reached((*told, kernel), call, FLASHINFER)
    call = sglang_call("flash_attn_3", "varlen_fwd", layer, step, **sizes)
    return Reached((*told, COPY), call, FA3)


def _padded(layer: Layer, width: int) -> Note:
    heads = ceil_div(layer.num_heads, width) * width
    return Note("heads", str(heads), "as they are" if heads == layer.num_heads else "padded for the kernels")


def _decode(layer: Layer, step: Step, notes: tuple[Note, ...]) -> Reached:
    """FlashMLA's sparse decode over FP8, prompts' queries each a request too."""
    heads = _padded(layer, 64 if layer.num_heads <= 64 else 128)
    rows = Step(sum(step.each_q), 1, max(step.each_k), step.cuda_graph)
    call = sglang_call(
        "flash_mla", "fwd_kvcache", layer, rows, num_heads=int(heads.value), num_heads_k=1, causal=False,
        head_dim=_LATENT + _ROTATED, head_dim_v=_LATENT, index_topk=layer.index_topk, page_block_size=None,
        backend="fp8_ds_mla",
    )  # fmt: skip
    return Reached((heads, *notes), call, SGL_WHEEL)


def _prefill(layer: Layer, step: Step, gpu: Gpu, notes: tuple[Note, ...]) -> Reached:
    """FlashMLA's sparse prefill over bf16, told how many keys each query has."""
    heads = _padded(layer, 128 if gpu.sm_major >= 10 else 64)
    call = sglang_call(
        "flash_mla", "varlen_fwd", layer, step, num_heads=int(heads.value), num_heads_k=1, causal=False,
        head_dim=_LATENT + _ROTATED, head_dim_v=_LATENT, index_topk=layer.index_topk, page_block_size=None,
        total_q=sum(step.each_q), cache_seqlens=True,
    )  # fmt: skip
    return Reached((heads, *notes), call, SGL_WHEEL)


def _trtllm(layer: Layer, step: Step, notes: tuple[Note, ...], dtype: str) -> Reached:
    """TensorRT-LLM's sparse MLA, prompts' queries each a request too."""
    rows = Step(sum(step.each_q), 1, max(step.each_k), step.cuda_graph)
    batch = Note("batch", str(rows.batch), "each query is a request of its own")
    call = sglang_call(
        "flashinfer", "batch_mla", layer, rows, backend="trtllm-gen", index_topk=layer.index_topk,
        page_block_size=_PAGE, num_heads_k=1, head_dim=_LATENT + _ROTATED, head_dim_v=_LATENT, dtype=dtype,
    )  # fmt: skip
    return Reached((*notes, batch), call, FLASHINFER)
