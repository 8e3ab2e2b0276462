"""FLASHMLA_SPARSE in vLLM 0.20: prompts and decode by FlashMLA, over a bf16 cache or over fp8_ds_mla's.

Source: vllm/v1/attention/backends/mla/flashmla_sparse.py of the wheel of 0.20.2, read.
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm.calls import Rules, vllm_call
from attnprof.dispatch.engines.vllm.conditions import UNQUANTIZED

_LATENT, _ROW = 512, 576
_FEW_HEADS = 32  # fewer take one kernel for prompts and decode


def reach_flash_mla(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    """Sparse prefill of a bf16 cache's queries; of an FP8 cache's, decode where each request has one."""
    tokens = sum(step.seqlens_q) or step.batch * step.seqlen_q
    if layer.kv_dtype in UNQUANTIZED:
        kernel = Note("kernel", "sparse prefill", "a bf16 cache is attended so in decode too")
        return _prefill(layer, step, sm, tokens, rules, (kernel, *notes))
    if layer.num_heads < _FEW_HEADS:
        kernel = Note("kernel", "sparse decode", f"all tokens as one request: fewer than {_FEW_HEADS} heads")
        return _decode(layer, Step(1, tokens, step.seqlen_k, step.cuda_graph), rules, (kernel, *notes))
    if step.seqlen_q == 1 or step.drafts:
        kernel = Note("kernel", "sparse decode", "requests of one query, or of drafts alone")
        return _decode(layer, step, rules, (kernel, *notes))
    kernel = Note(
        "kernel", "sparse prefill", "the cache is made bf16 again, in chunks of the workspace's room"
    )
    return _prefill(layer, step, sm, tokens, rules, (kernel, *notes))


def _decode(layer: Layer, step: Step, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    heads = 64 if layer.num_heads <= 64 else 128
    call = vllm_call(
        "flash_mla", "fwd_kvcache", layer, step, head_dim=_ROW, backend="fp8_ds_mla", **_sizes(layer, heads)
    )
    return Reached((_padded(layer, heads), *notes), call, rules.flash_mla)


def _prefill(layer: Layer, step: Step, sm: Sm, tokens: int, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    least = 128 if sm[0] == 10 else 64
    heads = layer.num_heads if layer.num_heads % least == 0 else least
    if heads % layer.num_heads:
        why_not = f"vLLM ends with an error: {layer.num_heads} heads are no part of {least}"
        return Reached(notes, why_not=why_not)
    call = vllm_call("flash_mla", "varlen_fwd", layer, step, total_q=tokens, **_sizes(layer, heads))
    return Reached((_padded(layer, heads), *notes), call, rules.flash_mla)


def _padded(layer: Layer, heads: int) -> Note:
    return Note("heads", str(heads), "as they are" if heads == layer.num_heads else "padded for the kernel")


def _sizes(layer: Layer, heads: int) -> dict[str, Any]:
    return {
        "num_heads": heads, "num_heads_k": 1, "head_dim_v": _LATENT, "index_topk": layer.index_topk,
        "page_block_size": None, "causal": False,
    }  # fmt: skip
