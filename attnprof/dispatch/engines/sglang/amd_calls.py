"""The calls that SGLang's backend aiter makes on AMD GPUs.

Source: sglang/srt/layers/attention/aiter_backend.py of the wheel, and models/deepseek_common/
attention_backend_handler.py ``handle_attention_aiter``.
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.aiter.rules import TAGGED
from attnprof.dispatch.engines.layer import Layer, Note, Reached, Step
from attnprof.dispatch.engines.sglang.calls import graph_note, over_keys, sglang_call
from attnprof.dispatch.engines.sglang.methods import CHUNK_CAPACITY, chunks
from attnprof.dispatch.heuristic import ceil_div

_LATENT, _ROTATED = 512, 64
_UNPLANNED_HEADS = (16, 128)  # of a 16-bit cache, which no plan is made for
_AITER = Note("AITER", TAGGED, "the newest that was read; a server's may launch otherwise")


def reach_aiter(layer: Layer, step: Step) -> Reached:
    """Paged attention over single tokens, or AITER's unified_attention where a model has windows."""
    graph = graph_note(step)
    if layer.window is not None or layer.sinks:
        return _unified(layer, step, graph)
    if step.seqlen_q == 1:
        kernel = Note("decode kernel", "paged_attention_ragged", "over pages of one token")
        context = Note("partitions", "of the context", "--seqlen-k stands for the server's longest")
        call = sglang_call("aiter_paged", "fwd_kvcache", layer, step, page_block_size=1, cache_seqlens=True)
        return Reached((kernel, context, graph), call)
    kernel = Note("prefill kernel", "mha_batch_prefill_func", "Composable Kernel's, over the paged cache")
    return Reached((kernel, graph), sglang_call("aiter_paged", "varlen_fwd", layer, step, page_block_size=1))


def _unified(layer: Layer, step: Step, graph: Note) -> Reached:
    """All layers of a model with windows, its prompts too; keys are counted in whole pages."""
    page = layer.block_size or 1
    fp8 = layer.kv_dtype.startswith("fp8") and step.seqlen_q == 1  # a prompt's queries stay as they are
    if layer.kv_dtype.startswith("fp8") and not fp8:
        return Reached(
            (graph,), why_not="prompts by AITER's unified_attention over an FP8 cache are not modelled"
        )
    kernel = Note("kernel", "unified_attention", "a model with windows or sinks: decode and prompts alike")
    context = "of the capture: --seqlen-k stands for the server's longest context" if step.cuda_graph else ""
    told = (Note("longest request", "of the context", context),) if context else ()
    keys = ceil_div(step.seqlen_k, page) * page
    more: dict[str, Any] = {"dtype": "fp8"} if fp8 else {}
    call = sglang_call("aiter_paged", "batch_paged", layer, step, page_block_size=page, seqlen_k=keys, **more)
    return Reached((kernel, _AITER, *told, graph), call, TAGGED)


def reach_aiter_mla(layer: Layer, step: Step) -> Reached:
    """MLA: decode over the latents, prompts as keys and values of every head."""
    graph = graph_note(step)
    if step.drafts:
        return Reached((graph,), why_not="drafts by AITER's MLA decode are not modelled")
    if layer.kv_dtype.startswith("fp8"):
        why_not = "MLA by AITER over an FP8 cache, with a plan or FP8 assembly for prompts, is not modelled"
        return Reached((graph,), why_not=why_not)
    return _mla_decode(layer, step, graph) if step.seqlen_q == 1 else _mla_prompts(layer, step, graph)


def _mla_decode(layer: Layer, step: Step, graph: Note) -> Reached:
    """AITER's ``mla_decode_fwd``, which chooses the split count itself."""
    heads = 16 if layer.num_heads < 16 else layer.num_heads
    if heads not in _UNPLANNED_HEADS or layer.num_heads == 12:
        why_not = f"SGLang hands AITER's MLA decode of {layer.num_heads} heads a plan: not modelled"
        return Reached((graph,), why_not=why_not)
    kernel = Note("decode kernel", "mla_decode_fwd", "AITER's assembly; 16 and 128 heads without a plan")
    padded = Note("heads", "16", f"{layer.num_heads} repeated") if heads != layer.num_heads else None
    context = Note("keys of the search", "of the context", "--seqlen-k stands for the server's longest")
    told = (*((padded,) if padded else ()), _AITER, *((context,) if step.cuda_graph else ()))
    more: dict[str, Any] = {"seqlens_k": ()} if step.cuda_graph else {}
    call = sglang_call(
        "aiter", "fwd_kvcache", layer, step, num_heads=heads, num_heads_k=1, head_dim=_LATENT + _ROTATED,
        head_dim_v=_LATENT, page_block_size=1, **more,
    )  # fmt: skip
    return Reached((kernel, *told, graph), call, TAGGED)


def _mla_prompts(layer: Layer, step: Step, graph: Note) -> Reached:
    """All keys in one call, or new ones and then chunks of the cache."""
    whole = sum(step.each_k) <= CHUNK_CAPACITY
    rest = () if whole else chunks(step)
    method = Note(
        "forward method", "MHA" if whole else "MHA_CHUNKED_KV",
        f"{sum(step.each_k):,} keys in all, {'at most' if whole else 'more than'} {CHUNK_CAPACITY:,}",
    )  # fmt: skip
    keys = step.each_k if whole else step.each_q
    sizes: dict[str, Any] = {
        "num_heads_k": layer.num_heads, "head_dim": layer.qk_nope_head_dim + layer.qk_rope_head_dim,
        "head_dim_v": layer.v_head_dim or 128, "page_block_size": None,
    }  # fmt: skip
    first = sglang_call(
        "aiter", "varlen_fwd", layer, step, return_softmax=not whole, **sizes, **over_keys(step, keys)
    )
    sizes |= {"causal": False, "return_softmax": True}
    further = tuple(
        sglang_call("aiter", "varlen_fwd", layer, step, **sizes, **over_keys(step, each)) for each in rest
    )
    return Reached((method, _AITER, graph), first, TAGGED, more=further)
