"""The calls that SGLang's backend aiter makes on AMD GPUs.

Source: sglang/srt/layers/attention/aiter_backend.py of the wheel.
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.aiter.rules import TAGGED
from attnprof.dispatch.engines.layer import Layer, Note, Reached, Step
from attnprof.dispatch.engines.sglang.calls import graph_note, sglang_call
from attnprof.dispatch.heuristic import ceil_div


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
    aiter = Note("AITER", TAGGED, "the newest that was read; a server's may launch otherwise")
    context = "of the capture: --seqlen-k stands for the server's longest context" if step.cuda_graph else ""
    told = (Note("longest request", "of the context", context),) if context else ()
    keys = ceil_div(step.seqlen_k, page) * page
    more: dict[str, Any] = {"dtype": "fp8"} if fp8 else {}
    call = sglang_call("aiter_paged", "batch_paged", layer, step, page_block_size=page, seqlen_k=keys, **more)
    return Reached((kernel, aiter, *told, graph), call, TAGGED)
