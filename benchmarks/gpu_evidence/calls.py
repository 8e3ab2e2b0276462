"""Attention calls to make on the GPU: which ones, and how torch and flash_attn are called with them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from attnprof.model import AttentionCall, Gpu, Library

_HEADS = ((28, 4), (32, 32), (32, 8), (64, 8), (40, 8), (14, 2), (12, 12), (71, 1), (16, 16), (8, 8))
_BATCHES = (1, 1, 1, 2, 3, 8, 16, 33, 34, 64, 128)
_SEQLEN_Q = (1, 1, 1, 1, 2, 7, 16, 17, 63, 64, 65, 127, 128, 129, 513, 1024)
_HEAD_DIMS = (128, 128, 128, 64, 64, 96, 32, 40, 80, 160, 192, 224, 256)
_KEY_BLOCKS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 62, 63, 64, 65, 100, 128, 256)
_NO_ALIBI = ("flash_attn_3", "vllm_flash_attn")  # nor dropout
_MAX_BYTES = 1 << 29  # of keys and values, and of queries


def matrix(count: int, library: Library, *, seed: int = 0) -> list[AttentionCall]:
    """``count`` calls at the boundaries of key blocks, the same for the same seed."""
    rng = random.Random(seed)
    calls: dict[AttentionCall, None] = {}
    while len(calls) < count:
        call = _draw(rng, library)
        if _fits(call):
            calls[call] = None
    return list(calls)


def _draw(rng: random.Random, library: Library) -> AttentionCall:
    num_heads, num_heads_k = rng.choice(_HEADS)
    head_dim, seqlen_q = rng.choice(_HEAD_DIMS), rng.choice(_SEQLEN_Q)
    block = 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64
    seqlen_k = max(seqlen_q, rng.choice(_KEY_BLOCKS) * block + rng.choice((-1, 0, 1)))
    batch = rng.choice(_BATCHES)
    call = AttentionCall(
        library, "fwd", batch, seqlen_q, seqlen_k, num_heads, num_heads_k, head_dim,
        dtype=rng.choice(("bf16", "fp16")), causal=rng.random() < 0.5,
    )  # fmt: skip
    extra = rng.random()
    if extra < 0.25:
        return replace(call, entry="varlen_fwd", total_q=batch * seqlen_q)
    if extra < 0.35:
        return replace(call, window=(rng.choice((16, 128, seqlen_k - 1, seqlen_k)), rng.choice((-1, 0, 64))))
    if extra < 0.40 and library not in _NO_ALIBI:
        return replace(call, alibi=True)
    if extra < 0.45 and library not in _NO_ALIBI:
        return replace(call, dropout_p=0.1)
    if extra < 0.50 and library != "torch":
        return replace(call, softcap=30.0)
    return call


def _fits(call: AttentionCall) -> bool:
    keys = 4 * call.batch * call.seqlen_k * call.num_heads_k * call.head_dim
    queries = 2 * call.batch * call.seqlen_q * call.num_heads * call.head_dim
    return keys <= _MAX_BYTES and queries <= _MAX_BYTES


def torch_thunk(call: AttentionCall) -> Callable[[], Any]:
    """Makes the call through torch's own flash operator, on random tensors made when it runs."""

    def make() -> Any:
        import torch

        shape_q, shape_k = shapes(call)
        q, k, v = (random_tensor(call, *shape) for shape in (shape_q, shape_k, shape_k))
        cu_q = cu_k = None
        if call.entry == "varlen_fwd":
            cu_q, cu_k = (cumulative(call.batch, length) for length in (call.seqlen_q, call.seqlen_k))
        options: dict[str, Any] = {}
        if call.window != (-1, -1):
            options = {"window_size_left": call.window[0], "window_size_right": call.window[1]}
        if call.alibi:
            options["alibi_slopes"] = torch.rand(call.num_heads, device="cuda")
        return torch.ops.aten._flash_attention_forward(
            q, k, v, cu_q, cu_k, call.seqlen_q, call.seqlen_k, call.dropout_p, call.causal, False, **options
        )

    return make


def random_tensor(call: AttentionCall, *shape: int) -> Any:
    """Of the call's data type, on the GPU."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[call.dtype]
    return torch.randn(shape, device="cuda", dtype=dtype)


def shapes(call: AttentionCall) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of q and of k: [batch, length, heads, head_dim], or packed [total, heads, head_dim]."""
    q, k = (call.num_heads, call.head_dim), (call.num_heads_k, call.head_dim)
    if call.entry == "varlen_fwd":
        return (call.batch * call.seqlen_q, *q), (call.batch * call.seqlen_k, *k)
    return (call.batch, call.seqlen_q, *q), (call.batch, call.seqlen_k, *k)


def cumulative(batch: int, length: int) -> Any:
    """cu_seqlens of equally long sequences, int32 on the GPU."""
    import torch

    return torch.arange(batch + 1, device="cuda", dtype=torch.int32) * length


def golden_call(call: AttentionCall, gpu: Gpu, version: str) -> dict[str, Any]:
    """The call as golden files hold it."""
    row: dict[str, Any] = {
        "library": call.library, "version": version, "entry": call.entry, "dtype": call.dtype,
        "batch": call.batch, "seqlen_q": call.seqlen_q, "seqlen_k": call.seqlen_k,
        "num_heads": call.num_heads, "num_heads_k": call.num_heads_k, "head_dim": call.head_dim,
        "causal": call.causal, "window_left": call.window[0], "window_right": call.window[1],
        "softcap": call.softcap, "alibi": call.alibi, "dropout_p": call.dropout_p,
        "return_softmax": call.return_softmax, "num_splits_arg": call.num_splits,
        "device": {name: getattr(gpu, name) for name in ("name", "sm_major", "sm_minor", "num_sms")},
    }  # fmt: skip
    optional = {"page_block_size": call.page_block_size, "seqlen_knew": call.seqlen_knew}
    row |= {name: value for name, value in optional.items() if value is not None}
    if call.cache_seqlens:
        row["cache_seqlen"] = call.seqlen_k
    flags = ("cache_batch_idx", "scheduler_metadata")
    row |= {name: True for name in flags if getattr(call, name)}
    return row


def chunks(calls: list[AttentionCall], size: int) -> Iterator[list[AttentionCall]]:
    """The calls in pieces, so that one profiler session stays small."""
    for start in range(0, len(calls), size):
        yield calls[start : start + size]
