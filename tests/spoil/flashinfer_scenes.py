"""Scenes of a server whose attention is FlashInfer's: planned batches, CUDA-core decode, trtllm-gen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from attnprof.dispatch import libraries
from attnprof.dispatch.flashinfer.launch_rules import GROUPS, decode_lanes
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
    for call in (*_with_heads(base, launches[0]), *_near(launches, gpu)):
        try:
            if libraries.predict(call, gpu).launches == launches:
                return call
        except UsageError:
            continue
    return None


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
    main = launches[0]
    if "BatchPrefillWithPagedKVCacheKernel" in main.kernel:
        yield from _paged(main, len(launches) > 1)
    elif "BatchDecodeWithPagedKVCacheKernel" in main.kernel:
        yield from _cores(main, len(launches) > 1)
    elif main.kernel.startswith("fmhaSm100f"):
        yield from _trtllm_gen(main, gpu)


def _paged(main: KernelLaunch, split: bool) -> Iterator[AttentionCall]:
    items, _, heads_k = main.grid
    for group in (1, 2, 4, 8, 16):
        for queries in {(32, 1, 4): (1,), (32, 4, 1): (64 // group or 1, 128)}.get(main.block, ()):
            for dim in (64, 128, 256):
                sized = replace(
                    _BASE, num_heads=heads_k * group, num_heads_k=heads_k, head_dim=dim, backend="fa2"
                )
                if not split:
                    yield _batch(sized, items, queries, queries)
                    continue
                yield _batch(replace(sized, cuda_graph=True), 1, queries, 4096)
                for batch in (n for n in range(1, items // 2 + 1) if items % n == 0):
                    chunks = items // batch
                    fixed = replace(sized, fixed_split_size=queries)
                    yield _batch(fixed, batch, queries, chunks * queries)


def _cores(main: KernelLaunch, split: bool) -> Iterator[AttentionCall]:
    items, heads_k, _ = main.grid
    for dim in (64, 128, 256):
        for group in GROUPS:
            if decode_lanes(dim, group, single=False).block != main.block:
                continue
            sized = replace(
                _BASE, entry="batch_decode", num_heads=heads_k * group, num_heads_k=heads_k, head_dim=dim
            )
            if not split:
                yield _batch(sized, items, 1, 1)
                continue
            for keys in (1, 4096):
                for batch in (1, 2, 8, 17, 32, 64, 128):
                    yield _batch(replace(sized, cuda_graph=True), batch, 1, keys)
            for batch in (n for n in range(1, items // 2 + 1) if items % n == 0):
                yield _batch(sized, batch, 1, items // batch * 128)


def _trtllm_gen(main: KernelLaunch, gpu: Gpu) -> Iterator[AttentionCall]:
    x, heads_k, batch = main.grid
    for dim in (64, 128, 256):
        for group in (1, 2, 4, 8, 16, 32):
            for page in (16, 32, 64):
                sized = replace(
                    _BASE, entry="batch_decode", num_heads=heads_k * group, num_heads_k=heads_k, head_dim=dim,
                    backend="trtllm-gen", page_block_size=page,
                )  # fmt: skip
                for queries in range(1, 9):
                    for keys in {x * 512 // queries + 1, x * 512, x * 600 // queries, 1 << 17, 1}:
                        yield replace(sized, batch=batch, seqlen_q=queries, seqlen_k=max(keys, queries))


def _batch(call: AttentionCall, batch: int, queries: int, keys: int) -> AttentionCall:
    return replace(call, batch=batch, seqlen_q=queries, seqlen_k=keys)
