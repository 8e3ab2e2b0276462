"""Records FlashMLA's decoding and its sparse prefill, as the package, vLLM and SGLang bring them.

Only the wheel sgl-flash-mla's functions take ``use_legacy``, which says the half of its kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attnprof.instrument.engines import entry_point
from attnprof.instrument.engines.entry_point import Lengths, taken
from attnprof.instrument.recorder import Recorder, shape


def patch(recorder: Recorder, module: Any) -> Callable[[], None]:
    """Returns what puts the functions back; older builds lack ``flash_mla_sparse_fwd``."""
    undo = [entry_point.patch(recorder, module, "flash_mla_with_kvcache", "flash_mla", _read)]
    if hasattr(module, "flash_mla_sparse_fwd"):
        undo.append(entry_point.patch(recorder, module, "flash_mla_sparse_fwd", "flash_mla", _read_sparse))
    return entry_point.patch_all(undo)


def _read(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Keys and values are one cache; V is the first ``head_dim_v`` of each.

    Of sparse decoding, keys are counted by ``topk_length`` and not by ``cache_seqlens``.
    """
    q, cache, table = given["q"], given["k_cache"], given.get("block_table")
    batch, keys = q.shape[0], given.get("cache_seqlens")
    known, indices = lengths.of(keys), given.get("indices")
    extra = given.get("extra_indices_in_kvcache")
    counted = keys if indices is None else given.get("topk_length")
    more = {"seqlens_q": [q.shape[1]] * batch, "seqlens_k": known} if known else lengths.steps_of(batch)
    return (
        "flash_mla",
        "fwd_kvcache",
        taken(
            q,
            cache,
            (*cache.shape[:3], given["head_dim_v"]),
            causal=bool(given.get("causal")),
            scale=given.get("softmax_scale"),
            head_dim_v=given["head_dim_v"],
            block_table=None if table is None else shape(table),
            has_cache_seqlens=counted is not None,
            kv_dtype=str(cache.dtype).removeprefix("torch."),
            sparse=indices is not None,
            index_topk=None if indices is None else indices.shape[-1],
            extra_cache=given.get("extra_k_cache") is not None,
            extra_topk=None if extra is None else extra.shape[-1],
            extra_counted=given.get("extra_topk_length") is not None,
            disable_split_kv=bool(given.get("enable_batch_invariant")),
            older_half=given.get("use_legacy"),
            **more,
        ),
    )


def _read_sparse(lengths: Lengths, given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Queries of all requests in a row, each over its own keys: one call as long as all of them."""
    q, kv, head_dim_v = given["q"], given["kv"], given["d_v"]
    return (
        "flash_mla",
        "varlen_fwd",
        taken(
            q,
            kv,
            (*kv.shape[:2], head_dim_v),
            scale=given.get("sm_scale"),
            head_dim_v=head_dim_v,
            batch=1,
            max_seqlen_q=q.shape[0],
            max_seqlen_k=kv.shape[0],
            sparse=True,
            index_topk=given["indices"].shape[-1],
            counted=given.get("topk_length") is not None,
            older_half=given.get("use_legacy"),
            seqlens_q=[q.shape[0]],
            seqlens_k=[kv.shape[0]],
        ),
    )
