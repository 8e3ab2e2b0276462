"""Scenes of a server whose attention is FlashInfer's: planned batches, CUDA-core decode, trtllm-gen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from attnprof.dispatch import libraries
from attnprof.dispatch.flashinfer.dispatch import block
from attnprof.dispatch.flashinfer.launch_rules import (
    GROUPS,
    SINGLE_DECODE,
    SINGLE_PREFILL,
    decode_lanes,
    merge_one,
)
from attnprof.dispatch.flashinfer.rules import cta_tile_q
from attnprof.dispatch.flashinfer.trtllm_gen import stated
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Library

VERSIONS: dict[Library, tuple[str, ...]] = {"flashinfer": ("0.7.2.post1",)}
_GPUS = ("a100", "h100", "l40s", "b200")
_HEADS = ((32, 8), (16, 16), (8, 8), (64, 8), (16, 1), (8, 2))
_PERCENT = (100, *range(50, 200, 5))
_BASE = AttentionCall("flashinfer", "batch_paged", 1, 1, 1, 1, 1, 128, causal=True, page_block_size=1)
Step = tuple[int, int, str, AttentionCall]  # generation, step, phase, the call of a layer
Launches = tuple[KernelLaunch, ...]


def draw(rng: Random) -> tuple[Library, str, Gpu, list[Step]]:
    """Library, version, GPU and the steps of a server: requests come and go, so the batch changes."""
    kind = rng.choice(("fa2", "fa2", "cores", "trtllm-gen"))
    heads, heads_k = rng.choice(_HEADS)
    base = replace(
        _BASE, batch=rng.choice((1, 2, 8, 17)), num_heads=heads, num_heads_k=heads_k,
        head_dim=rng.choice((64, 128)), page_block_size=rng.choice((16, 64)),
        cuda_graph=kind != "trtllm-gen" and rng.random() < 0.3, backend="" if kind == "cores" else kind,
        entry="batch_paged" if kind == "fa2" else "batch_decode",
    )  # fmt: skip
    gpu = gpu_by_name("b200" if kind == "trtllm-gen" else rng.choice(_GPUS))
    return "flashinfer", "0.7.2.post1", gpu, [_step(rng, base, number) for number in range(rng.randint(4, 9))]


def _step(rng: Random, base: AttentionCall, number: int) -> Step:
    batch = rng.choice((base.batch, base.batch, base.batch + 1, base.batch * 2))
    fresh = base.entry == "batch_paged" and (number == 0 or rng.random() < 0.3)
    queries = tuple(rng.randint(2, 600) if fresh and rng.random() < 0.5 else 1 for _ in range(batch))
    keys = tuple(one + rng.randint(0, 9000) for one in queries)
    call = replace(
        base, batch=batch, seqlen_q=max(queries), seqlen_k=max(keys), seqlens_q=queries, seqlens_k=keys
    )
    return 0, number, "prefill" if max(queries) > 1 else "decode", call


def witness(launches: Launches, gpu: Gpu, base: AttentionCall) -> AttentionCall | None:
    """A call that launches just these, by the forward prediction; None where none is near.

    Also of the lengths of ``base``, with other heads.
    """
    if not all(min(one.grid) > 0 for one in launches):
        return None
    if launches[0].kernel == SINGLE_DECODE and (found := _query_of_other_dims(launches, base)):
        return found
    if launches[0].kernel == SINGLE_PREFILL and (found := _prompt_of_other_dims(launches, gpu, base)):
        return found
    other = replace(base, dtype="fp16" if base.dtype == "bf16" else "bf16")
    for call in (*_with_heads(base, launches[0]), other, *_near(launches, gpu)):
        try:
            if _shown(libraries.predict(call, gpu).launches) == _shown(launches):
                return call
        except UsageError:
            continue
    return None


def _shown(launches: Launches) -> list[object]:
    """What a trace holds of launches; no recorder of these writes their shared memory."""
    return [(one.kernel, one.grid, one.block) for one in launches]


def _with_heads(base: AttentionCall, main: KernelLaunch) -> Iterator[AttentionCall]:
    """The call with other heads, and with its keys longer or shorter by a share."""
    for heads_k in {*main.grid[1:]}:
        for group in dict.fromkeys((base.num_heads // base.num_heads_k, *GROUPS)):
            sized = replace(base, num_heads=heads_k * group, num_heads_k=heads_k)
            for percent in _PERCENT:
                keys = tuple(max(one * percent // 100, 1) for one in base.seqlens_k or ())
                if keys:
                    yield replace(sized, seqlens_k=keys, seqlen_k=max(keys))


def _near(launches: Launches, gpu: Gpu) -> Iterator[AttentionCall]:
    """Calls whose sizes follow from the grids, as the planners' arithmetic can be turned around."""
    main, merge = launches[0], launches[1] if len(launches) > 1 else None
    if "BatchPrefillWithPagedKVCacheKernel" in main.kernel:
        yield from _paged(main, merge, gpu)
    elif "BatchDecodeWithPagedKVCacheKernel" in main.kernel:
        yield from _cores(main, merge, gpu)
    elif "SingleDecodeWithKVCacheKernel" in main.kernel:
        yield from _one_query(main)
    elif "SinglePrefillWithKVCacheKernel" in main.kernel:
        yield from _one_prompt(main, merge)
    elif "PrefillWithKVCacheKernel" in main.kernel:
        yield from _hopper(main)
    elif "SeparateQkv" in main.kernel:
        yield from _separate(main)
    elif "TokenSparse" in main.kernel:
        yield from _picked(main)
    elif main.kernel.startswith("fmhaSm10"):
        yield from _trtllm_gen(main, gpu)


def _rows(merge: KernelLaunch, heads_k: int, gpu: Gpu) -> tuple[int, ...]:
    """Rows per KV head that a merge kernel of so many blocks adds up: the fewest, the most and others."""
    per_sm = merge.grid[0] // gpu.num_sms
    low, high = (per_sm - 1) * gpu.num_sms // heads_k + 1, per_sm * gpu.num_sms // heads_k
    near = {low, high, *range(low, min(low + 18, high + 1)), max(low, 17), max(low, 65), max(low, 129)}
    return tuple(sorted(one for one in near if one > 0))


def _paged(main: KernelLaunch, merge: KernelLaunch | None, gpu: Gpu) -> Iterator[AttentionCall]:
    """Without a merge kernel as many sequences as items; else one of them in all chunks but one of each."""
    items, _, heads_k = main.grid
    large = main.block == (32, 4, 1)
    for dim in (64, 128, 256):
        sized = replace(_BASE, num_heads=heads_k, num_heads_k=heads_k, head_dim=dim, backend="fa2")
        if merge is None:
            yield replace(_batch(sized, items, 32 if large else 1, 32), disable_split_kv=True)
            continue
        for rows in _rows(merge, heads_k, gpu):
            tile = 16 if not large else 128 if rows > 64 and dim < 256 else 64
            for batch in {-(-rows // tile), min(rows, items - 1), 1} - {0}:
                yield from _shared_out(sized, rows, batch, items)
                yield _batch(replace(sized, cuda_graph=True), batch, -(-rows // batch), 4096)


def _shared_out(sized: AttentionCall, rows: int, batch: int, items: int) -> Iterator[AttentionCall]:
    """``batch`` sequences of ``rows`` queries in all, of one chunk each and of one the rest."""
    queries = tuple(rows // batch + (number < rows % batch) for number in range(batch))
    chunks = items - batch + 1
    if chunks < 1 or not min(queries):
        return
    keys = (queries[0] * chunks, *queries[1:])
    yield replace(
        sized, batch=batch, seqlen_q=queries[0], seqlen_k=keys[0], seqlens_q=queries, seqlens_k=keys,
        fixed_split_size=queries[0], causal=False,
    )  # fmt: skip


def _cores(main: KernelLaunch, merge: KernelLaunch | None, gpu: Gpu) -> Iterator[AttentionCall]:
    items, heads_k, _ = main.grid
    for dim in (64, 128, 256):
        for group in GROUPS:
            if decode_lanes(dim, group, single=False).block != main.block:
                continue
            sized = replace(
                _BASE, entry="batch_decode", num_heads=heads_k * group, num_heads_k=heads_k, head_dim=dim
            )
            if merge is None:
                yield _batch(sized, items, 1, 1)
                continue
            rows = _rows(merge, heads_k, gpu)
            for batch in sorted(
                {-(-rows[0] // group), *(one // group for one in rows), items - 1, items} - {0}
            ):
                yield _batch(replace(sized, cuda_graph=True), batch, 1, 1)
                for empty in (0, batch - 1, max(batch - 2, 0)):
                    long = (items - batch + 1) * 128
                    if long > 0:
                        keys = (long, *(0 if number < empty else 1 for number in range(batch - 1)))
                        yield replace(sized, batch=batch, seqlen_k=long, seqlens_k=keys)


def _one_query(main: KernelLaunch) -> Iterator[AttentionCall]:
    chunks, heads_k, _ = main.grid
    for dim in (64, 128, 256):
        for group in GROUPS:
            if decode_lanes(dim, group, single=True).block == main.block:
                sized = replace(
                    _BASE, entry="single_decode", num_heads=heads_k * group, num_heads_k=heads_k, head_dim=dim
                )
                yield _batch(sized, 1, 1, 1)
                for chunk in (256, 257, 258, 260, 300, 400, 512, 1024, 4096, 65536):
                    yield _batch(sized, 1, 1, chunks * chunk)
                    yield _batch(sized, 1, 1, (chunks - 1) * chunk + 1)


def _one_prompt(main: KernelLaunch, merge: KernelLaunch | None) -> Iterator[AttentionCall]:
    tiles, chunks, heads_k = main.grid
    sized = replace(_BASE, entry="single_prefill", backend="fa2", num_heads_k=heads_k, causal=False)
    if merge is None:
        for rows in (tiles * 128, tiles * 64, tiles * 16):
            yield _batch(replace(sized, num_heads=heads_k), 1, rows, 1)
        return
    heads = merge.grid[1] if "Large" in merge.kernel else merge.block[1]
    for causal in (False, True):
        for chunk in (256, 257, 258, 260, 300, 400, 512, 1024, 65536):
            for keys in (chunks * chunk, (chunks - 1) * chunk + 1):
                call = replace(sized, num_heads=heads, causal=causal)
                yield _batch(call, 1, merge.grid[0], keys)


def _query_of_other_dims(launches: Launches, base: AttentionCall) -> AttentionCall | None:
    """A single decode of head dim 512, of which nobody compiled the kernel: its lanes and merge alone."""
    (chunks, heads_k, _), block_of = launches[0].grid, launches[0].block
    for group in GROUPS:
        added = (merge_one(chunks, 1, heads_k * group, 512),)
        if decode_lanes(512, group, single=True).block == block_of and _shown(added) == _shown(launches[1:]):
            return replace(
                base, num_heads=heads_k * group, num_heads_k=heads_k, head_dim=512, seqlen_k=256 * chunks
            )
    return None


def _prompt_of_other_dims(launches: Launches, gpu: Gpu, base: AttentionCall) -> AttentionCall | None:
    """A single prefill of a head dim of which nobody compiled the kernel: its tile, grid and merge alone."""
    (tiles, chunks, heads_k), merge = launches[0].grid, launches[1] if len(launches) > 1 else None
    many = merge is not None and "Large" in merge.kernel
    heads = heads_k if merge is None else merge.grid[1] if many else merge.block[1]
    for dim in (64, 256, 512):
        for tile in (16, 64, 128):
            queries = tiles * tile if merge is None else merge.grid[0]
            rows = queries * (heads // heads_k)
            added = () if merge is None else (merge_one(chunks, queries, heads, dim),)
            fits = -(-rows // tile) == tiles and block(tile) == launches[0].block and heads % heads_k == 0
            chosen = cta_tile_q(rows, dim, dim, gpu.smem_per_block_optin, gpu.sm_major) == tile
            if fits and chosen and _shown(launches[1:]) == _shown(added) and (merge is None or chunks > 1):
                return replace(
                    base, num_heads=heads, num_heads_k=heads_k, head_dim=dim, seqlen_q=queries,
                    seqlen_k=256 * chunks,
                )  # fmt: skip
    return None


def _hopper(main: KernelLaunch) -> Iterator[AttentionCall]:
    tiles, heads, _ = main.grid
    dim = 64 if main.block[0] == 512 else 128
    sized = replace(_BASE, entry="single_prefill", backend="fa3", num_heads=heads, num_heads_k=heads)
    yield _batch(replace(sized, head_dim=dim), 1, tiles * (192 if dim == 64 else 128), 1 << 30)


def _trtllm_gen(main: KernelLaunch, gpu: Gpu) -> Iterator[AttentionCall]:
    (x, heads_k, batch), kind = main.grid, _generated(main)
    for dim in (64, 128, 256):
        for group in (1, 2, 4, 8, 16, 32):
            for page in (16, 32, 64):
                sized = replace(
                    _BASE, entry="batch_decode", num_heads=heads_k * group, num_heads_k=heads_k, head_dim=dim,
                    backend="trtllm-gen", page_block_size=page,
                    dtype=kind.dtype, kv_dtype=kind.kv_dtype,
                )  # fmt: skip
                for queries in (*range(1, 9), *(x * share for share in (1, 2, 4, 8, 16))):
                    for keys in {x * 512 // queries + 1, x * 512, x * 256, x * 600 // queries, 1 << 17, 1}:
                        yield replace(sized, batch=batch, seqlen_q=queries, seqlen_k=max(keys, queries))


def _generated(main: KernelLaunch) -> AttentionCall:
    """A call of the dtype and head dims that a trtllm-gen kernel's name states."""
    told = dict(stated(main.kernel))
    dims = {name: int(str(told[name])) for name in ("head_dim", "head_dim_v")}
    dtype = {"fp16": "fp16", "fp8": "fp8"}.get(str(told["dtype"]), "bf16")
    kept = str(told["kv_dtype"])
    return replace(
        _BASE,
        **dims,
        dtype=dtype,
        kv_dtype="" if kept == dtype else kept,
        causal="Causal" in main.kernel,
        backend="trtllm-gen",
    )  # type: ignore[arg-type]


def _separate(main: KernelLaunch) -> Iterator[AttentionCall]:
    tiles, heads, batch = main.grid
    call = replace(_generated(main), entry="varlen_fwd", page_block_size=None)
    for tile in (128, 256):
        sized = replace(call, num_heads=heads, num_heads_k=heads)
        yield _batch(sized, batch, tiles * tile, tiles * tile)


def _picked(main: KernelLaunch) -> Iterator[AttentionCall]:
    """Sparse MLA: query blocks x the blocks that share 256 keys or more each, of what is picked."""
    x, _, batch = main.grid
    blocks = x // 2 if "2Cta" in main.kernel else x
    for queries in (one for one in range(1, blocks + 1) if blocks % one == 0):
        shares = blocks // queries
        keys = 256 * shares if shares > 1 else 128
        call = replace(_generated(main), entry="batch_mla", num_heads_k=1, page_block_size=64)
        for heads in (8, 16, 32, 64, 128):
            for picked in {keys, 2048, 1 << 20}:
                longest = min(keys, picked)
                yield _batch(replace(call, num_heads=heads, index_topk=picked), batch, queries, longest)


def _batch(call: AttentionCall, batch: int, queries: int, keys: int) -> AttentionCall:
    return replace(call, batch=batch, seqlen_q=queries, seqlen_k=keys)
