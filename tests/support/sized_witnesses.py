"""Calls whose sizes follow from the grids of launches, where a library's arithmetic can be turned around."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from attnprof.dispatch.explanation import ReadBack
from attnprof.dispatch.flashinfer import xqa
from attnprof.dispatch.vllm_rocm.dispatch import PREFILL, TRITON_DECODE
from attnprof.dispatch.vllm_rocm.paged import MFMA4, MFMA16
from attnprof.dispatch.vllm_rocm.rules import BLOCK_M, WAVE, WAVES
from attnprof.model import AttentionCall, KernelLaunch

Launches = tuple[KernelLaunch, ...]
_LONG_BLOCK, _LONG_WAVES = 128, 4  # of AITER's unified attention, for prompts
_SHARES = (1, 64, 128, 256, 512, 1024, 4096)  # keys of a thread block
_LONGER = 4096  # keys than what is never split


def sized(launches: Launches, call: AttentionCall, back: ReadBack) -> Iterator[AttentionCall]:
    """Calls that may launch just these; none of libraries whose sizes are not turned around here."""
    kernel = launches[0].kernel
    if call.library == "vllm_rocm":
        yield from _rocm_attn(launches, call)
    if kernel in (MFMA4, MFMA16) and len(launches) == 2:
        yield from _paged(launches, call)
    elif kernel == xqa.KERNEL:
        yield from _xqa(launches[0], call)
    elif call.library == "flash_attn_4" and call.index_topk and len(launches) == 1:
        yield from _gathered(launches[0], call)
    elif call.library == "aiter_paged":
        yield from _unified_3d(launches, call, back) if len(launches) == 2 else _unified_2d(launches, call)
    elif call.library == "aiter":
        yield from _aiter_mla(launches[0], call)
        if len(launches) == 1:
            yield from _aiter_forward(launches[0], call)
    elif call.library == "flashinfer" and call.entry == "batch_mla":
        yield from _trtllm_mla(launches, call)
    elif call.library == "tokenspeed_mla":
        yield from _tokenspeed(launches, call, back)
    elif call.library == "flash_mla" and call.index_topk and len(launches) == 1:
        queries, batch, _ = launches[0].grid  # unsplit: of 128 heads, a half
        yield replace(call, batch=batch, seqlen_q=queries, num_heads=64)


def _gathered(launch: KernelLaunch, call: AttentionCall) -> Iterator[AttentionCall]:
    """As many queries as the grid has tiles, of 64 heads; of several KV heads over pages, one a request."""
    x, heads_k, batch = launch.grid
    for queries, heads in ((x, 64), (x, 16), (x // 2, 128)):
        yield replace(
            call, entry="fwd", batch=batch, seqlen_q=queries, seqlen_k=1 << 16, num_heads=heads, total_q=None
        )
    yield replace(
        call, entry="varlen_fwd", batch=x, seqlen_q=1, total_q=x, num_heads=64 * heads_k, num_heads_k=heads_k,
        index_topk=0, page_block_size=16, num_splits=0,
    )  # fmt: skip


def _xqa(launch: KernelLaunch, call: AttentionCall) -> Iterator[AttentionCall]:
    """Steps of one head a KV head, and drafts of as many queries as fill a grid's blocks."""
    sized = replace(
        call,
        page_block_size=16,
        entry="batch_decode",
        head_dim=128,
        seqlens_q=(),
        seqlens_k=(),
        window=(-1, -1),
    )
    if launch.block == xqa.THREADS_MLA:
        latent = {"num_heads": 128, "num_heads_k": 1, "head_dim": 576, "seqlen_q": 1}
        yield replace(sized, entry="batch_mla", batch=launch.grid[2], **latent)
        return
    hopper = launch.block == xqa.THREADS_HOPPER
    x, y, z = launch.grid
    blocks, splits = (x, y) if hopper else (y, x)
    for each in (count for count in range(1, blocks + 1) if blocks % count == 0):  # of a KV head
        heads = 1 if hopper else blocks // each
        rows = (blocks if hopper else each) * (xqa.ROWS_HOPPER if hopper else xqa.ROWS)
        queries = 1 if rows in (xqa.ROWS, xqa.ROWS_HOPPER) else rows
        yield replace(
            sized, batch=z, seqlen_q=queries, num_heads=heads, num_heads_k=heads,
            dtype="fp8" if hopper else "bf16", seqlen_k=splits * (xqa.KEYS_HOPPER if hopper else xqa.KEYS),
        )  # fmt: skip


def _paged(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """HIP's decode, vLLM's, and AITER's of as many queries a request as the reduction has."""
    (batch, partitions, heads_k), (heads, _, queries) = (one.grid for one in launches)
    keys, head_dim = partitions * 256, launches[1].block[0]
    sizes = replace(
        call, batch=batch, seqlen_k=keys, num_heads=heads, num_heads_k=heads_k, head_dim=head_dim,
        seqlens_q=(), seqlens_k=(),
    )  # fmt: skip
    if heads % heads_k == 0:
        yield replace(sizes, library="vllm_rocm", entry="batch_paged", seqlen_q=1)
        yield replace(sizes, library="aiter_paged", entry="fwd_kvcache", seqlen_q=queries)


def _rocm_attn(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """A step of prompts and what decodes beside them; decode by Triton; an encoder."""
    before, rest = (launches[:1], launches[1:]) if launches[0].kernel == PREFILL else ((), launches)
    queries = before[0].grid[2] * BLOCK_M if before else 1
    if before and not rest:
        (batch, heads, _), few = before[0].grid, before[0].block[0] == WAVES * WAVE
        yield replace(
            call, entry="varlen_fwd", batch=batch, seqlen_q=queries, seqlen_k=queries, num_heads=heads,
            num_heads_k=heads, head_dim=64 if few else 128, seqlens_q=(), seqlens_k=(), total_q=None,
        )  # fmt: skip
    elif rest[0].kernel == TRITON_DECODE:
        batch, heads_k, _ = rest[0].grid
        heads = before[0].grid[1] if before else heads_k
        yield replace(
            call, batch=batch, seqlen_q=queries, seqlen_k=max(call.seqlen_k, queries), num_heads=heads,
            num_heads_k=heads_k, head_dim=256, seqlens_q=(), seqlens_k=(),
        )  # fmt: skip
    elif len(rest) == 2 and before:
        for one in _paged(rest, call):
            if one.library == call.library:
                yield replace(one, seqlen_q=queries)


def _aiter_mla(launch: KernelLaunch, call: AttentionCall) -> Iterator[AttentionCall]:
    """Decode over latents in either dtype, with as many splits as were asked for."""
    _, batch, splits = launch.grid
    for heads, dtype, queries in itertools.product((16, 128), ("bf16", "fp8"), range(1, 9)):
        yield replace(
            call, entry="fwd_kvcache", batch=batch, num_heads=heads, num_heads_k=1, head_dim=576,
            head_dim_v=512, seqlen_q=queries, seqlen_k=max(call.seqlen_k, queries), dtype=dtype,
            num_splits=splits, seqlens_q=(), seqlens_k=(), total_q=None,
        )  # fmt: skip


def _aiter_forward(launch: KernelLaunch, call: AttentionCall) -> Iterator[AttentionCall]:
    """Calls of whichever entry, dtype, mask and head dim, by Composable Kernel and by the assembly."""
    x, y, z = launch.grid
    sizes = ((z, x, y * 128), (z, x, 1), (y, x, z), (z, y, x))  # requests, heads, queries or their blocks
    for (batch, heads, blocks), entry, dtype, head_dim, causal in itertools.product(
        sizes, ("fwd", "varlen_fwd"), ("bf16", "fp16"), (128, 64), (False, True)
    ):
        for rows in (1, 128, 256, 512):
            queries = blocks * rows
            yield replace(
                call, entry=entry, batch=batch, num_heads=heads, num_heads_k=heads, seqlen_q=queries,
                seqlen_k=max(queries, 2), dtype=dtype, head_dim=head_dim, causal=causal, window=(-1, -1),
                total_q=batch * queries if entry == "varlen_fwd" else None, seqlens_q=(), seqlens_k=(),
                page_block_size=None, head_dim_v=None, alibi=False, dropout_p=0.0, num_splits=0,
            )  # fmt: skip


def _unified_2d(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """A step over a window; of one query a request but for one, or a prompt alone."""
    heads_k, blocks, _ = launches[0].grid
    each = replace(call, num_heads_k=heads_k, window=(127, 0))
    if launches[0].block[0] == 64 * _LONG_WAVES:
        yield _ragged(replace(each, num_heads=heads_k), 1, (blocks - 1) * _LONG_BLOCK)
    elif blocks == 1:
        yield _ragged(replace(each, num_heads=heads_k), 1, 1)
    else:  # 16 heads share a KV head, so that each query is a block, and each request one more
        yield _ragged(replace(each, num_heads=16 * heads_k), blocks // 2, blocks - blocks // 2)


def _unified_3d(launches: Launches, call: AttentionCall, back: ReadBack) -> Iterator[AttentionCall]:
    (blocks, heads_k, _), (tokens, heads, _) = (one.grid for one in launches)
    groups = heads // heads_k
    of_block = (16 if groups <= 16 else 1 << (groups - 1).bit_length()) // max(groups, 1)
    batch = blocks - tokens // max(of_block, 1)
    if heads % heads_k == 0 and 0 < batch <= tokens:
        for page in (16, 64):
            sizes = replace(call, num_heads=heads, num_heads_k=heads_k, page_block_size=page)
            yield _ragged(sizes, batch, tokens)
            for interval in (interval for one in back.explanations for interval in one.seqlen_k):
                yield replace(_ragged(sizes, batch, tokens), seqlen_k=interval.low, seqlens_k=())


def _ragged(call: AttentionCall, batch: int, tokens: int) -> AttentionCall:
    """So many queries of so many requests, all but the first of which have one."""
    queries = (max(tokens - batch + 1, 1), *(1,) * (batch - 1))
    keys = tuple(one + _LONGER for one in queries)
    return replace(
        call, batch=batch, seqlen_q=max(queries), seqlen_k=max(keys), seqlens_q=queries, seqlens_k=keys
    )


def _tokenspeed(launches: Launches, call: AttentionCall, back: ReadBack) -> Iterator[AttentionCall]:
    """Steps whose heads, of queries that share a tile, are the rows that the reducer adds up."""
    if len(launches) == 1:
        batch = launches[0].grid[1]
        for heads in (16, 128):  # a small tile, a large one
            yield replace(call, batch=batch, seqlen_q=1, seqlen_k=128, num_heads=heads)
        return
    rows, groups, batch = launches[1].grid
    ends = {interval.low for one in back.explanations for interval in one.seqlen_k}
    for bands, heads, keys in itertools.product((1, 2), range(1, min(rows, 128) + 1), sorted(ends)):
        fold, left = divmod(rows, bands * heads)
        if not left:
            yield replace(call, batch=batch, seqlen_q=groups * fold, seqlen_k=keys, num_heads=heads)


def _trtllm_mla(launches: Launches, call: AttentionCall) -> Iterator[AttentionCall]:
    """TensorRT-LLM's decode over a latent cache: thread blocks of heads, of requests, and of keys."""
    for batch, keys, heads, queries in itertools.product(
        sorted({*launches[0].grid}), sorted({size * step for size in launches[0].grid for step in _SHARES}),
        (16, 32, 64, 128), (1, 2, 4),
    ):  # fmt: skip
        yield replace(
            call, batch=batch, seqlen_q=queries, seqlen_k=keys, num_heads=heads, seqlens_q=(), seqlens_k=()
        )
