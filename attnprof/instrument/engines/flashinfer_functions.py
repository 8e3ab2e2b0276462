"""Records FlashInfer's plain functions, which run TensorRT-LLM's kernels.

vLLM and SGLang call them by ``flashinfer.decode`` and ``flashinfer.prefill``. Several queries a request are
written as the packed queries that they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, Read, taken
from attnprof.instrument.recorder import Recorder

Described = tuple[str, str, dict[str, Any]]
_LIBRARY, _TRTLLM = "flashinfer", "trtllm-gen"


def patch_functions(recorder: Recorder, module: Any, functions: dict[str, Read]) -> list[Callable[[], None]]:
    """Hooks those of the functions that the module has; returns what undoes each."""
    return [
        entry_point.patch(recorder, module, name, _LIBRARY, read)
        for name, read in functions.items()
        if hasattr(module, name)
    ]


def read_decode(lengths: Lengths, given: dict[str, Any]) -> Described:
    """``trtllm_batch_decode_with_kv_cache``."""
    q, each = given["query"], given.get("q_len_per_req") or 1
    batch = given["seq_lens"].shape[0]
    packed = given.get("cum_seq_lens_q") is not None
    known = {} if packed else _uniform(lengths, given["seq_lens"], batch, each)
    return _paged(lengths, given, q, batch, known, causal=True)


def read_context(lengths: Lengths, given: dict[str, Any]) -> Described:
    """``trtllm_batch_context_with_kv_cache``."""
    q, batch = given["query"], given["batch_size"]
    known = lengths.packed(given["cum_seq_lens_q"], given["seq_lens"], batch)
    return _paged(lengths, given, q, batch, known, causal=bool(given.get("causal", True)))


def _paged(
    lengths: Lengths, given: dict[str, Any], q: Any, batch: int, known: dict[str, Any], *, causal: bool
) -> Described:
    cache, left = given["kv_cache"], given.get("window_left", -1)
    keys, values = cache if isinstance(cache, tuple | list) else (cache[:, 0], cache[:, 1])
    pages, *inner, head_dim = keys.shape
    heads, page = inner if given.get("kv_layout", "HND") == "HND" else inner[::-1]
    backend = given.get("backend")
    return (
        _LIBRARY,
        "batch_paged",
        taken(
            q,
            (pages, page, heads, head_dim),
            (pages, page, heads, values.shape[-1]),
            causal=causal,
            window_left=left,
            window_right=-1 if left < 0 else 0,
            batch=batch,
            max_seq_len=given.get("max_seq_len", given.get("max_kv_len")),
            backend=_TRTLLM if backend in (None, "auto") else backend,
            kv_dtype=str(keys.dtype).removeprefix("torch."),
            sinks=given.get("sinks") is not None,
            **(known or lengths.steps_of(batch)),
        ),
    )


def read_mla(lengths: Lengths, given: dict[str, Any]) -> Described:
    """``trtllm_batch_decode_with_kv_cache_mla``: one cache, V the first ``kv_lora_rank`` of each row."""
    q, cache, topk = given["query"], given["kv_cache"], given.get("sparse_mla_top_k") or 0
    heads, head_dim = q.shape[-2:]
    batch = given["seq_lens"].shape[0]
    each = q.shape[1] if q.dim() == 4 else 1
    page = cache.shape[-2]
    packed = given.get("cum_seq_lens_q") is not None
    known = {} if packed else _uniform(lengths, given["seq_lens"], batch, each)
    return (
        _LIBRARY,
        "batch_paged",
        taken(
            q,
            (cache.shape[0], page, 1, head_dim),
            (cache.shape[0], page, 1, given["kv_lora_rank"]),
            causal=True,
            batch=batch,
            max_seq_len=given.get("max_seq_len"),
            backend=_TRTLLM if given.get("backend") in (None, "auto") else given["backend"],
            index_topk=topk or None,
            kv_dtype=str(cache.dtype).removeprefix("torch."),
            sinks=given.get("sinks") is not None,
            **(known or lengths.steps_of(batch)),
        )
        | {"q": (batch * each, heads, head_dim)},
    )


def _uniform(lengths: Lengths, seq_lens: Any, batch: int, each: int) -> dict[str, Any]:
    """Every request's lengths, of which the function is told the keys alone."""
    keys = lengths.of(seq_lens)
    return {} if keys is None else {"seqlens_q": [each] * batch, "seqlens_k": keys}


def read_separate(lengths: Lengths, given: dict[str, Any]) -> Described:
    """``trtllm_ragged_attention_deepseek``: packed Q, K and V."""
    batch, left = given["batch_size"], given.get("window_left", -1)
    known = lengths.between(given["cum_seq_lens_q"], given["cum_seq_lens_kv"], batch)
    return (
        _LIBRARY,
        "varlen_fwd",
        taken(
            given["query"],
            given["key"],
            given["value"],
            causal=bool(given["is_causal"]),
            window_left=left,
            window_right=-1 if left < 0 else 0,
            batch=batch,
            max_seqlen_q=given["max_q_len"],
            max_seqlen_k=given["max_kv_len"],
            backend=given.get("backend") or _TRTLLM,
            sinks=given.get("attention_sinks") is not None,
            **known,
        ),
    )


DECODE: dict[str, Read] = {
    "trtllm_batch_decode_with_kv_cache": read_decode,
    "trtllm_batch_decode_with_kv_cache_mla": read_mla,
}
PREFILL: dict[str, Read] = {
    "trtllm_batch_context_with_kv_cache": read_context,
    "trtllm_ragged_attention_deepseek": read_separate,
}
