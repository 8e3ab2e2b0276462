"""The line of calls.jsonl that a recorder leaves of a call, by entry and library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.dispatch.library import FP8
from attnprof.dispatch.sglang_triton.rules import MAX_KV_SPLITS
from attnprof.dispatch.vllm_triton.rules import sequences_3d
from attnprof.model import AttentionCall

_NO_RECORD = ("batch_mla", "single_prefill", "single_decode")  # entries that no record names
_PACKED = ("varlen_fwd", "batch_paged", "batch_decode")
_SPARSE_BYTES = {"fp8_ds_mla": 656, "nvfp4_ds_mla": 352, "v4": 584, "v4.1": 528, "": 656}  # of a token


def is_recorded(call: AttentionCall) -> bool:
    """Whether a record says what the call was."""
    turboquant = (call.library, call.entry) == ("vllm_triton", "batch_decode")
    return call.entry not in _NO_RECORD and not turboquant


def record_of(seq: int, call: AttentionCall, *, step: int, phase: str, layer: int) -> dict[str, Any]:
    """The line of calls.jsonl for a call."""
    place = {"seq": seq, "step": step, "phase": phase, "layer": layer, "device": "cuda:0"}
    q, k, table = _tensors(call)
    v = [*k[:-1], call.head_dim_v or k[-1]]
    fields: dict[str, Any] = {
        **place, "function": call.entry, "library": call.library, "entry": call.entry, "backend": None,
        "dtype": FP8 if call.dtype == "fp8" else call.dtype, "q": q, "k": k, "v": v, "layout": "bshd",
        "causal": call.causal, "window": list(call.window), "softcap": call.softcap,
        "dropout_p": call.dropout_p, "alibi": call.alibi, "return_softmax": call.return_softmax,
        "scale": None,
    }  # fmt: skip
    if call.seqlens_q and call.seqlens_k:
        fields |= {"seqlens_q": list(call.seqlens_q), "seqlens_k": list(call.seqlens_k)}
    if call.entry in _PACKED:
        lengths = {"max_seqlen_q": call.seqlen_q, "max_seqlen_k": call.seqlen_k}
        fields |= {"batch": call.batch, **lengths, "block_table": table}
    if call.entry == "fwd_kvcache":
        new = (
            None
            if call.seqlen_knew is None
            else [call.batch, call.seqlen_knew, call.num_heads_k, call.head_dim]
        )
        fields |= {"has_cache_seqlens": call.cache_seqlens, "cache_batch_idx": False, "block_table": table}
        fields |= {"k_new": new, "num_splits": call.num_splits}
    return fields | _OF_LIBRARY.get(call.library, lambda _: {})(call)


def _tensors(call: AttentionCall) -> tuple[list[int], list[int], list[int] | None]:
    """Shapes of q and k, and of the block table where there is one."""
    heads = [call.num_heads_k, call.head_dim]
    table = None
    if call.entry in _PACKED:
        total = sum(call.seqlens_q) or call.total_q or call.batch * call.seqlen_q
        q = [total, call.num_heads, call.head_dim]
        k = [call.batch * call.seqlen_k, *heads]
    else:
        q = [call.batch, call.seqlen_q, call.num_heads, call.head_dim]
        k = [call.batch, call.seqlen_k, *heads]
    if call.page_block_size is not None:
        pages = -(-call.seqlen_k // call.page_block_size)
        table, k = [call.batch, pages], [call.batch * pages, call.page_block_size, *heads]
    return q, k, table


def _torch(call: AttentionCall) -> dict[str, Any]:
    if call.entry != "fwd":
        return {}
    q = [call.batch, call.num_heads, call.seqlen_q, call.head_dim]
    k = [call.batch, call.num_heads_k, call.seqlen_k, call.head_dim]
    return {"entry": "sdpa", "backend": "flash", "mask": None, "q": q, "k": k, "v": k}


def _flash_mla(call: AttentionCall) -> dict[str, Any]:
    _, k, _ = _tensors(call)
    told = {"function": "vllm.flash_mla_with_kvcache", "v": [*k[:-1], call.head_dim_v or 512]}
    if not call.index_topk:
        return told
    kept = [*k[:-1], _SPARSE_BYTES[call.backend]]
    return told | {
        "k": kept, "sparse": True, "index_topk": call.index_topk, "disable_split_kv": call.disable_split_kv,
    }  # fmt: skip


def _flashinfer(call: AttentionCall) -> dict[str, Any]:
    wrapper: dict[str, Any] = {"entry": "batch_paged"}
    if call.entry == "batch_decode":
        wrapper["tensor_cores"] = call.backend == "trtllm-gen"
    return wrapper | {
        "backend": call.backend, "cuda_graph": call.cuda_graph, "fixed_split_size": call.fixed_split_size,
        "disable_split_kv": call.disable_split_kv,
    }  # fmt: skip


def _vllm_triton(call: AttentionCall) -> dict[str, Any]:
    return {"threshold": sequences_3d(call.num_heads_k, call.cuda_graph)}


def _sglang_triton(call: AttentionCall) -> dict[str, Any]:
    """Decode is recorded as a paged batch of which the most splits are told."""
    if call.entry != "fwd_kvcache":
        return {}
    q = [call.batch, call.num_heads, call.head_dim]
    return {
        "entry": "batch_paged", "batch": call.batch, "q": q, "max_seqlen_q": 1, "max_seqlen_k": call.seqlen_k,
        "max_kv_splits": call.num_splits or MAX_KV_SPLITS,
    }  # fmt: skip


def _flash_attn_4(call: AttentionCall) -> dict[str, Any]:
    """Automatic is 0 to the functions, and one split to who leaves it out."""
    return {"num_splits": {-1: 0, 0: 1}.get(call.num_splits, call.num_splits)}


def _vllm_flash_attn(call: AttentionCall) -> dict[str, Any]:
    return {
        "num_splits": call.num_splits, "qv": call.has_qv, "scheduler_metadata": call.scheduler_metadata,
    }  # fmt: skip


_OF_LIBRARY: dict[str, Callable[[AttentionCall], dict[str, Any]]] = {
    "torch": _torch,
    "flash_mla": _flash_mla,
    "flashinfer": _flashinfer,
    "vllm_triton": _vllm_triton,
    "sglang_triton": _sglang_triton,
    "flash_attn_4": _flash_attn_4,
    "vllm_flash_attn": _vllm_flash_attn,
}
