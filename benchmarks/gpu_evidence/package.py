"""Step c: the same through the flash_attn package where it is installed, with its KV cache entry."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attnprof.model import AttentionCall
from attnprof.workloads.environment import versions
from benchmarks.gpu_evidence.calls import cumulative, matrix, shapes
from benchmarks.gpu_evidence.evidence import Evidence
from benchmarks.gpu_evidence.matrix import observe_matrix

_PAGE = 256


def run(evidence: Evidence) -> None:
    """fwd, varlen and kvcache calls of the installed flash_attn."""
    version = versions()["flash_attn"]
    if version is None:
        evidence.skip(
            "flash_attn", "the flash_attn package is not installed (benchmarks/build_flash_attn.md)"
        )
        return
    calls = with_caches(matrix(evidence.matrix_calls, "flash_attn", seed=1))
    observe_matrix(evidence, "flash_attn", "flash_attn", version, calls, flash_attn_thunk)


def with_caches(calls: list[AttentionCall]) -> list[AttentionCall]:
    """Four in ten dense calls turned into kvcache calls: plain, appending, paged, num_splits given."""
    rng = random.Random(2)
    turned = []
    for call in calls:
        dense = call.entry == "fwd" and call.dropout_p == 0 and call.window == (-1, -1) and not call.alibi
        if not dense or rng.random() > 0.4:
            turned.append(call)
            continue
        cache = replace(call, entry="fwd_kvcache", cache_seqlens=True)
        kind = rng.choice(("plain", "append", "paged", "splits"))
        if kind == "append":
            cache = replace(cache, seqlen_knew=call.seqlen_q)
        elif kind == "paged":
            pages = -(-call.seqlen_k // _PAGE)
            cache = replace(cache, page_block_size=_PAGE, seqlen_k=pages * _PAGE)
        elif kind == "splits":
            cache = replace(cache, num_splits=rng.choice((1, 2, 3, 8, 17, 128)))
        turned.append(cache)
    return turned


def flash_attn_thunk(call: AttentionCall) -> Callable[[], Any]:
    """Makes the call through flash_attn's public functions."""

    def make() -> Any:
        import flash_attn
        import torch

        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[call.dtype]

        def random_tensor(*shape: int) -> Any:
            return torch.randn(shape, device="cuda", dtype=dtype)

        options: dict[str, Any] = {"causal": call.causal, "window_size": call.window}
        if call.alibi:
            options["alibi_slopes"] = torch.rand(call.num_heads, device="cuda")
        shape_q, shape_k = shapes(call)
        if call.entry == "fwd_kvcache":
            return _kvcache(call, random_tensor, options)
        q, k, v = random_tensor(*shape_q), random_tensor(*shape_k), random_tensor(*shape_k)
        options["dropout_p"] = call.dropout_p
        if call.entry == "fwd":
            return flash_attn.flash_attn_func(q, k, v, **options)
        cu_q, cu_k = (cumulative(call.batch, length) for length in (call.seqlen_q, call.seqlen_k))
        return flash_attn.flash_attn_varlen_func(q, k, v, cu_q, cu_k, call.seqlen_q, call.seqlen_k, **options)

    return make


def _kvcache(call: AttentionCall, random_tensor: Callable[..., Any], options: dict[str, Any]) -> Any:
    import flash_attn
    import torch

    heads = (call.num_heads_k, call.head_dim)
    used = call.seqlen_k - (call.seqlen_knew or 0)
    lengths = torch.full((call.batch,), used, device="cuda", dtype=torch.int32)
    if call.page_block_size:
        pages = call.seqlen_k // call.page_block_size
        cache_shape = (call.batch * pages, call.page_block_size, *heads)
        table = torch.arange(call.batch * pages, device="cuda", dtype=torch.int32).view(call.batch, pages)
        options["block_table"] = table
    else:
        cache_shape = (call.batch, call.seqlen_k, *heads)
    if call.seqlen_knew:
        new = (call.batch, call.seqlen_knew, *heads)
        options |= {"k": random_tensor(*new), "v": random_tensor(*new)}
    q = random_tensor(call.batch, call.seqlen_q, call.num_heads, call.head_dim)
    return flash_attn.flash_attn_with_kvcache(
        q, random_tensor(*cache_shape), random_tensor(*cache_shape), cache_seqlens=lengths,
        num_splits=call.num_splits, **options,
    )  # fmt: skip
