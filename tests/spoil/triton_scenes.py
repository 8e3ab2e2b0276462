"""Scenes of a server whose attention is Triton's: vLLM's unified attention, SGLang's decode in two stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from attnprof.dispatch import libraries
from attnprof.errors import UsageError
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, KernelLaunch, Library

VERSIONS: dict[Library, tuple[str, ...]] = {
    "vllm_triton": ("0.10.0", "0.19.1", "0.20.0", "0.33.0"),
    "sglang_triton": ("0.5.23",),
}
_GPUS = ("a100", "h100", "h20", "l40s", "4090", "a10g", "b200", "5090")
_HEADS = ((28, 4), (32, 8), (16, 16), (8, 8), (4, 1), (40, 8), (12, 12), (64, 8), (16, 1))
Step = tuple[int, int, str, AttentionCall]  # generation, step, phase, the call of a layer of the first kind


def draw(rng: Random) -> tuple[Library, str, Gpu, list[Step]]:
    """Library, version, GPU and the steps of a server: requests come and go, so the batch changes."""
    library: Library = rng.choice(("vllm_triton", "vllm_triton", "sglang_triton"))
    heads, heads_k = rng.choice(_HEADS)
    base = AttentionCall(
        library, "batch_paged", rng.choice((1, 2, 8, 17)), 1, 1, heads, heads_k, rng.choice((64, 128, 256)),
        causal=True, page_block_size=16, cuda_graph=rng.random() < 0.3,
    )  # fmt: skip
    steps = [_step(rng, base, number) for number in range(rng.randint(4, 9))]
    gpus = (*_GPUS, "mi300x", "mi355x") if library == "vllm_triton" else _GPUS
    return library, rng.choice(VERSIONS[library]), gpu_by_name(rng.choice(gpus)), steps


def _step(rng: Random, base: AttentionCall, number: int) -> Step:
    batch = rng.choice((base.batch, base.batch, base.batch + 1, base.batch * 2))
    fresh = base.library == "vllm_triton" and (number == 0 or rng.random() < 0.3)
    queries = tuple(rng.randint(1, 600) if fresh and rng.random() < 0.5 else 1 for _ in range(batch))
    keys = tuple(one + rng.randint(0, 9000) for one in queries)
    call = replace(
        base, batch=batch, seqlen_q=max(queries), seqlen_k=max(keys), seqlens_q=queries, seqlens_k=keys
    )
    if base.library == "sglang_triton":
        call = replace(call, entry="fwd_kvcache")
    return 0, number, "prefill" if max(queries) > 1 else "decode", call


def witness(launches: tuple[KernelLaunch, ...], gpu: Gpu) -> AttentionCall | None:
    """A step of some version that launches just these, by the forward prediction; None where none is near."""
    for library, versions in VERSIONS.items():
        for call in _near(library, launches):
            for version in versions:
                try:
                    if libraries.predict(call, gpu, version).launches == launches:
                        return call
                except UsageError:
                    continue
    return None


def _near(library: Library, launches: tuple[KernelLaunch, ...]) -> Iterator[AttentionCall]:
    """Steps whose sizes follow from the grids, as their arithmetic can be turned around."""
    (x, y, z), reduce = launches[0].grid, launches[1].grid if len(launches) > 1 else None
    if library == "sglang_triton":
        heads = reduce[1] if reduce else y
        for heads_k in (n for n in range(1, heads + 1) if heads % n == 0):
            yield AttentionCall(library, "fwd_kvcache", x, 1, 4096, heads, heads_k, 128, num_splits=z)
        return
    groups = reduce[1] // y if reduce else 1
    if not groups:
        return
    rows = (16 if groups <= 16 else 1 << (groups - 1).bit_length(), 32)
    for block_q in (max(one // groups, 1) for one in rows):
        batches = {x - reduce[0] // block_q} if reduce else {1, x, *range(max(1, x - 40), x)}
        for batch in (one for one in batches if one > 0):
            tokens = reduce[0] if reduce else max((x - batch) * block_q, batch * (x == batch), 1)
            longest = range(1, 9) if reduce else (-(-tokens // batch), 9)
            for queries in (one for one in longest if one * batch >= tokens >= batch):
                for graph, head_dim in ((False, 128), (True, 128), (False, 256)):
                    yield AttentionCall(
                        library, "batch_paged", batch, queries, 4096, reduce[1] if reduce else y, y, head_dim,
                        causal=True, total_q=tokens, cuda_graph=graph, disable_split_kv=reduce is None,
                        page_block_size=16,
                    )  # fmt: skip
