"""From vLLM's backends for sparse MLA to the call that reaches a library: each token has keys of its own.

An indexer picks up to ``index_topk`` keys for each query, prompts' too, and prompts and decode are absorbed
alike. Source: vllm/v1/attention/backends/mla/flashmla_sparse.py, flashattn_mla_sparse.py,
flashinfer_mla_sparse.py, flashinfer_mla_sparse_sm90.py, flashinfer_mla_sparse_sm120.py and
model_executor/layers/attention/sparse_mla_attention.py of the wheel of 0.33.0. What each passes is read; the
launches of FlashMLA, FlashAttention-3 and trtllm-gen are recorded.
"""

from __future__ import annotations

from typing import Any

from attnprof.dispatch.engines.layer import Layer, Note, Reached, Sm, Step
from attnprof.dispatch.engines.vllm import old_sparse
from attnprof.dispatch.engines.vllm.calls import Rules, graph_note, vllm_call
from attnprof.dispatch.engines.vllm.conditions import UNQUANTIZED, quantized
from attnprof.dispatch.engines.vllm.mla_prefill import prompts_of, reach_prefill
from attnprof.dispatch.engines.vllm.sparse_prompts import attended_densely, attended_under_mask
from attnprof.dispatch.heuristic import ceil_div

_LATENT, _ROTATED, _ROW = 512, 64, 576
_KNOWN = "0.33.0"
_FEW_HEADS = 32  # fewer take one kernel for prompts and decode: prompts' own would be padded to 64
_DECODES = {9: {16: 128, 32: 128, 64: 256}, 10: {8: 128, 16: 128, 32: 128, 64: 256, 128: 1024}}
_MOST_DECODES = {9: 256, 10: 1024}  # queries a request, by heads, up to which it counts as decode
_AUTOMATIC_FA4 = -1
_OWN_DECODES = ("FLASHMLA_SPARSE", "FLASH_ATTN_MLA_SPARSE")  # on Hopper; others count as on Blackwell


def reach_sparse(backend: str, layer: Layer, step: Step, sm: Sm, rules: Rules) -> Reached:
    """What a backend for sparse MLA calls for a step."""
    picked = Note("keys", str(layer.index_topk or "a few"), "at most, that an indexer picks for each query")
    known = {
        "FLASHMLA_SPARSE": _flash_mla,
        "FLASH_ATTN_MLA_SPARSE": _flash_attention,
        "FLASH_ATTN_MLA_SPARSE_FA4": _flash_attention_4,
        "FLASHINFER_MLA_SPARSE": _trtllm_gen,
        "FLASHINFER_MLA_SPARSE_SM90": _flashinfer,
        "FLASHINFER_MLA_SPARSE_SM120": _sm120,
    }
    if backend not in known:
        why_not = f"the launches of vLLM's {backend} are not modelled"
        return Reached((picked, graph_note(step)), why_not=why_not)
    if backend == "FLASHMLA_SPARSE" and rules.version != _KNOWN and rules.flash_mla:
        return old_sparse.reach_flash_mla(layer, step, sm, rules, (picked, graph_note(step)))
    if rules.version != _KNOWN:
        why_not = f"what {backend} of vLLM {rules.version} calls is not modelled"
        return Reached((picked, graph_note(step)), why_not=why_not)
    limit = decode_limit(backend, layer, sm)
    prompts = step.seqlen_q > limit and not step.drafts
    longer, others = prompts_of(step, limit) if prompts else (step, ())
    if prompts and attended_densely(backend, layer, longer, sm):
        why = f"prompts of more than {limit} queries and {layer.index_topk} keys at most have all keys picked"
        return reach_prefill(layer, longer, sm, rules, Note("prompts", "attended densely", why), *others)
    if prompts and attended_under_mask(backend, layer, longer, sm):
        why = f"more than {limit} queries, where upstream measured it as faster"
        notes = (picked, Note("prompts", "under a mask of the keys picked", why), graph_note(step))
        why_not = "FlashAttention-4's launches under a mask of the keys picked are not modelled"
        return Reached(notes, why_not=why_not)
    return known[backend](layer, step, sm, rules, (picked, graph_note(step)))


def decode_limit(backend: str, layer: Layer, sm: Sm) -> int:
    """Queries of a request up to which it counts as decode, for a backend's ``reorder_batch_threshold``."""
    major = 9 if sm[0] == 9 and backend in _OWN_DECODES else 10
    return _DECODES[major].get(layer.num_heads, _MOST_DECODES[major])


def _tokens(layer: Layer, step: Step) -> Step:
    """The step as a batch of its queries, each a request of its own keys."""
    tokens = sum(step.seqlens_q) or step.batch * step.seqlen_q
    keys: tuple[int, ...] = ()
    if step.seqlen_q == 1:
        keys = tuple(min(layer.index_topk, keys) for keys in step.seqlens_k)
    return Step(tokens, 1, layer.index_topk, step.cuda_graph, (), keys)


def _flash_mla(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    heads = ceil_div(layer.num_heads, 64) * 64
    padded = Note(
        "heads", str(heads), "as they are" if heads == layer.num_heads else "padded: kernels take 64 or 128"
    )
    told = (padded, *notes)
    sizes: dict[str, Any] = {
        "num_heads": heads, "num_heads_k": 1, "head_dim_v": _LATENT, "index_topk": layer.index_topk,
        "page_block_size": None, "causal": False,
    }  # fmt: skip
    if layer.kv_dtype in UNQUANTIZED:
        why = Note("kernel", "sparse prefill", "a bf16 cache is attended so in decode too")
        return _prefill(layer, step, (why, *told), sizes)
    if layer.num_heads < _FEW_HEADS:
        why = Note("kernel", "sparse decode", f"all tokens as one request: fewer than {_FEW_HEADS} heads")
        return _decode(layer, Step(1, _tokens(layer, step).batch, step.seqlen_k), (why, *told), sizes)
    limit = decode_limit("FLASHMLA_SPARSE", layer, sm)
    if len(set(step.seqlens_q)) <= 1 and step.seqlen_q <= limit:
        why = Note("kernel", "sparse decode", f"all have {step.seqlen_q} queries, of {limit} at most")
        return _decode(layer, step, (why, *told), sizes)
    why = Note("kernel", "sparse prefill", "the cache is made bf16 again, in chunks of the workspace's room")
    return _prefill(layer, step, (why, *told), sizes)


def _decode(layer: Layer, step: Step, notes: tuple[Note, ...], sizes: dict[str, Any]) -> Reached:
    kept = "nvfp4_ds_mla" if layer.kv_dtype.startswith("nvfp4") else "fp8_ds_mla"
    call = vllm_call("flash_mla", "fwd_kvcache", layer, step, head_dim=_ROW, backend=kept, **sizes)
    return Reached(notes, call)


def _prefill(layer: Layer, step: Step, notes: tuple[Note, ...], sizes: dict[str, Any]) -> Reached:
    of_tokens = {"total_q": _tokens(layer, step).batch, "cache_seqlens": True}
    call = vllm_call("flash_mla", "varlen_fwd", layer, step, **sizes, **of_tokens)
    return Reached(notes, call)


def _flash_attention(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    queries = Note("queries", f"{_ROTATED} and {_LATENT}", "the rotated part against K, q_v against V")
    pages = Note("pages", "of 1", "the keys picked are the page table, so each query is a request of its own")
    call = vllm_call(
        "vllm_flash_attn", "varlen_fwd", layer, _tokens(layer, step), num_heads_k=1, head_dim=_ROTATED,
        head_dim_v=_LATENT, has_qv=True, page_block_size=1, causal=True,
    )  # fmt: skip
    return Reached((queries, pages, *notes), call, f"fa3{rules.wheel}")


def _flashinfer(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    kernel = Note("decode kernel", "fa3", "FlashInfer's planned MLA of Hopper, of pages of 1")
    rows = Note("rows", "padded", "to the most tokens of a step, without keys: they get no work")
    if quantized(layer.kv_dtype) or layer.head_dim != _ROW:
        why_not = "FlashInfer's planned MLA is known for a bf16 cache with rows of 576"
        return Reached((kernel, *notes), why_not=why_not)
    call = vllm_call(
        "flashinfer", "batch_mla", layer, _tokens(layer, step), num_heads_k=1, head_dim=_ROW,
        head_dim_v=_LATENT, backend="fa3", page_block_size=1, causal=False,
    )  # fmt: skip
    return Reached((kernel, rows, *notes), call, rules.flashinfer_package)


def _trtllm_gen(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    """Each query is a request of one query whose page table is the keys picked, all of which it may have."""
    kernel = Note("kernel", "trtllm-gen", "the only one of FlashInfer's auto that picks keys")
    dtype: dict[str, Any] = {"dtype": "fp8"} if quantized(layer.kv_dtype) else {}
    rows = Step(_tokens(layer, step).batch, 1, layer.index_topk, step.cuda_graph)
    call = vllm_call(
        "flashinfer", "batch_mla", layer, rows, num_heads_k=1, head_dim=layer.head_dim, head_dim_v=_LATENT,
        backend="trtllm-gen", page_block_size=64, causal=False, index_topk=layer.index_topk, **dtype,
    )  # fmt: skip
    return Reached((kernel, *notes), call, rules.flashinfer_package)


def _flash_attention_4(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    """FlashAttention-4 where all of a step is decode; else the kernels of FLASHINFER_MLA_SPARSE."""
    if step.seqlen_q > decode_limit("FLASH_ATTN_MLA_SPARSE_FA4", layer, sm) and not step.drafts:
        prompts = Note("prompts", "FLASHINFER_MLA_SPARSE's", "FlashAttention-4 takes steps of decode alone")
        return _trtllm_gen(layer, step, sm, rules, (prompts, *notes))
    queries = Note("queries", f"{_ROTATED} and {_LATENT}", "the rotated part against K, q_v against V")
    gathered = Note("keys", "gathered", "the indices picked are passed, over the whole cache as one sequence")
    rows = Step(_tokens(layer, step).batch, 1, layer.index_topk, step.cuda_graph)
    call = vllm_call(
        "flash_attn_4", "varlen_fwd", layer, rows, _AUTOMATIC_FA4, num_heads_k=1, head_dim=_ROTATED,
        head_dim_v=_LATENT, has_qv=True, page_block_size=None, causal=False, index_topk=layer.index_topk,
    )  # fmt: skip
    return Reached((queries, gathered, *notes), call, rules.fork)


def _sm120(layer: Layer, step: Step, sm: Sm, rules: Rules, notes: tuple[Note, ...]) -> Reached:
    why_not = (
        "FlashInfer times its kernels for sparse MLA on SM 12.x on the GPU and takes the fastest: "
        "which one runs is not modelled"
    )
    return Reached(notes, why_not=why_not)
