"""The calls that SGLang's backends make for layers whose heads have keys: fa3, fa4, Triton, FlashInfer's.

Source: sglang/srt/layers/attention of the wheel: flashattention_backend.py, triton_backend.py,
flashinfer_backend.py, trtllm_mha_backend.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.sglang.amd_calls import reach_aiter
from attnprof.dispatch.engines.sglang.calls import (
    CONTEXT,
    COPY,
    FA3,
    FLASHINFER,
    OWN_FA4,
    TRITON,
    TRITON_TILE,
    cached,
    graph_note,
    over_keys,
    packed_cache,
    sglang_call,
    splits_note,
)
from attnprof.dispatch.engines.sglang.selector import page_size, quantized
from attnprof.model import Entry

_DECODE_TILE, _PREFILL_TILE = 2048, 4096  # keys of FlashInfer's fixed splits when deterministic
_TENSOR_CORE_GROUPS = 4
_CUTLASS_DIMS = ((64, 64), (128, 128), (192, 128))


def reach_mha(backend: str, layer: Layer, step: Step, sm: Sm) -> Reached:
    """What a backend calls for a step."""
    layer = replace(layer, block_size=page_size(backend, layer, sm[0]))
    if backend == "triton":
        return _triton(layer, step)
    if backend == "fa3":
        return _fa3(layer, step)
    if backend == "fa4":
        return _fa4(layer, step)
    if backend == "trtllm_mha":
        return _trtllm_mha(layer, step, sm)
    if backend == "flashinfer":
        return _flashinfer(layer, step, sm)
    return reach_aiter(layer, step)


def _triton(layer: Layer, step: Step) -> Reached:
    decode = step.seqlen_q == 1
    fixed: dict[str, Any] = {"fixed_split_size": TRITON_TILE} if layer.batch_invariant else {}
    notes: tuple[Note, ...] = (graph_note(step),)
    if layer.batch_invariant:
        why = "deterministic inference: decode in splits of it, prompts by the unified kernel"
        notes = (Note("split size", f"{TRITON_TILE} keys", why), *notes)
    entry: Entry = "fwd_kvcache" if decode else "batch_paged"
    return Reached(notes, sglang_call("sglang_triton", entry, layer, step, **fixed), TRITON)


def _fa3(layer: Layer, step: Step) -> Reached:
    """Packed queries over the cache; decode of layers without a window with a plan of the whole step."""
    decode = step.seqlen_q == 1 and not step.drafts
    planned = decode and layer.window is None
    asked = splits_note(layer)
    notes: tuple[Note, ...] = (asked, COPY, graph_note(step))
    if planned:
        plan = Note(
            "scheduler metadata", "passed", "get_scheduler_metadata plans a step once, for all layers"
        )
        notes = (asked, plan, COPY, graph_note(step))
    if decode or step.drafts:
        notes = (*notes, CONTEXT)
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer) else {}
    call = packed_cache(
        "flash_attn_3", layer, step, num_splits=int(asked.value), scheduler_metadata=planned, **dtype
    )
    return Reached(notes, call, FA3)


def _fa4(layer: Layer, step: Step) -> Reached:
    notes = (
        splits_note(layer),
        Note("page size", str(layer.block_size), "128 on SM 10.x"),
        graph_note(step),
    )
    return Reached(notes, why_not=OWN_FA4)


def _trtllm_mha(layer: Layer, step: Step, sm: Sm) -> Reached:
    page = Note(
        "page size", str(layer.block_size), "TensorRT-LLM's kernels take 16, 32, 64 or 128; others become 64"
    )
    context = Note("max_seq_len passed", "the context", "--seqlen-k stands for the server's longest context")
    notes = (page, context, graph_note(step))
    decode = step.seqlen_q == 1 or step.drafts
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer) else {}
    if sm[0] != 10:
        if not decode:
            why_not = "FlashInfer's trtllm_fmha_v2_prefill, TensorRT-LLM's older kernels, is not modelled"
            return Reached(notes, why_not=why_not)
        kernel = Note("decode kernel", "xqa", "what FlashInfer takes for it on SM 9.0 and 12.x")
        call = sglang_call("flashinfer", "batch_decode", layer, step, backend="xqa", **dtype)
        return Reached((kernel, *notes), call, FLASHINFER)
    entry: Entry = "batch_decode" if decode else "batch_paged"
    call = sglang_call("flashinfer", entry, layer, step, backend="trtllm-gen", **dtype)
    return Reached(notes, call, FLASHINFER)


def _flashinfer(layer: Layer, step: Step, sm: Sm) -> Reached:
    if step.seqlen_q == 1:
        return _flashinfer_decode(layer, step)
    if step.drafts:
        mask = Note("mask", "custom", "the drafts' tree, over a paged batch: its plan is that of a prompt")
        call = sglang_call("flashinfer", "batch_paged", layer, step, backend="fa2")
        return Reached((mask, graph_note(step)), call, FLASHINFER)
    if layer.batch_invariant:
        page = layer.block_size or 1
        split = Note("split size", f"{_PREFILL_TILE} keys", "deterministic inference fixes it")
        call = sglang_call(
            "flashinfer", "batch_paged", layer, step, backend="fa2", fixed_split_size=_PREFILL_TILE // page
        )
        return Reached((split, graph_note(step)), call, FLASHINFER)
    return _flashinfer_prompt(layer, step, sm)


def _flashinfer_decode(layer: Layer, step: Step) -> Reached:
    groups, graph = layer.num_heads // layer.num_heads_k, graph_note(step)
    keys: dict[str, Any] = {}
    if layer.window is not None:  # the wrapper of windows is planned over them alone
        keys = over_keys(step, tuple(min(each, layer.window) for each in step.each_k))
    if not layer.batch_invariant and not quantized(layer) and groups < _TENSOR_CORE_GROUPS:
        cores = Note("tensor cores", "no", f"{groups} query heads per KV head: 4 are needed")
        call = sglang_call("flashinfer", "batch_decode", layer, step, backend="fa2", **keys)
        return Reached((cores, graph), call, FLASHINFER)
    tile = _DECODE_TILE if layer.batch_invariant else None
    page = layer.block_size or 1
    fixed: dict[str, Any] = {}
    if tile is not None:  # what is captured is not split at all
        fixed = {"disable_split_kv": True} if step.cuda_graph else {"fixed_split_size": tile // page}
    split = Note(
        "split size",
        "automatic" if tile is None else "none" if step.cuda_graph else f"{tile} keys",
        "FlashInfer plans it" if tile is None else "deterministic inference fixes it",
    )
    call = sglang_call("flashinfer", "batch_paged", layer, step, backend="fa2", **(keys | fixed))
    return Reached((split, graph), call, FLASHINFER)


def _flashinfer_prompt(layer: Layer, step: Step, sm: Sm) -> Reached:
    """New keys as they are, unpaged; those of the cache by a further call, both merged."""
    known = sm[0] == 10 and (layer.head_dim, layer.v_head_dim or layer.head_dim) in _CUTLASS_DIMS
    backend = "cutlass" if known else "fa2" if sm[0] == 10 else "auto"
    before = cached(step)
    new = Note("new keys", "unpaged", "BatchPrefillWithRaggedKVCacheWrapper attends them causally")
    kernel = Note("prefill kernel", backend, "CUTLASS's where it has the head dims, on SM 10.x")
    told = (new, kernel, graph_note(step))
    window = (-1, -1) if not any(before) or layer.window is None else (layer.window - 1, 0)
    call = sglang_call(
        "flashinfer", "batch_ragged", layer, step, backend=backend, page_block_size=None,
        window=window, **over_keys(step, step.each_q),
    )  # fmt: skip
    if not any(before):
        return Reached(told, call, FLASHINFER)
    if layer.window is not None:
        before = tuple(min(each, layer.window - 1) for each in before)
    rest = Note("keys of the cache", "in a further call", "paged, every one in sight; then merge_state")
    further = sglang_call(
        "flashinfer", "batch_paged", layer, step, backend="fa2", causal=False, window=window,
        **over_keys(step, before),
    )  # fmt: skip
    return Reached((new, rest, *told[1:]), call, FLASHINFER, more=(further,))
