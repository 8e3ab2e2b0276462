"""A server's steps: requests come and go, drafts are checked, graphs are replayed; whatever attends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from attnprof.model import AttentionCall, Gpu, Library

# Generation, step, phase, and the call of each kind of layer.
Step = tuple[int, int, str, AttentionCall | tuple[AttentionCall, ...]]
Drawn = tuple[Library, str, Gpu, list[Step]]
Draw = Callable[[Random], Drawn]


@dataclass(frozen=True)
class Family:
    """How scenes of a library are drawn, and the versions that a scene of it may be of."""

    versions: tuple[str, ...]
    draw: Draw


def draw_steps(
    rng: Random, base: AttentionCall, gpu: Gpu | None = None, *, drafts: Sequence[int] = (1,)
) -> list[Step]:
    """Decode steps whose requests have lengths of their own; captured, the longest there may be.

    On an NVIDIA ``gpu``, a step of prompts is before those that are captured, and some others.
    """
    count = rng.randint(5, 10)
    first: list[Step] = []
    if gpu is not None and (base.cuda_graph or rng.random() < 0.2):
        first = [(0, 0, "prefill", _prompts(rng, base, gpu))]
    begun = int(gpu is not None)
    if base.cuda_graph:
        step = replace(base, seqlen_q=drafts[0], seqlen_k=rng.choice((4096, 32_768, 163_840)))
        return [*first, *((0, number, "decode", step) for number in range(begun, count))]
    decode = [(0, number, "decode", _decode(rng, base, rng.choice(drafts))) for number in range(begun, count)]
    return [*first, *decode]


def _prompts(rng: Random, base: AttentionCall, gpu: Gpu) -> AttentionCall:
    """Prompts before a cache is decoded: by FlashAttention, over keys that are made anew of a latent one."""
    batch = rng.choice((1, 2, 4))
    queries = tuple(rng.randint(2, 3000) for _ in range(batch))
    latent = base.num_heads_k == 1 and base.head_dim_v == 512
    return AttentionCall(
        "flash_attn_4" if gpu.sm_major == 10 else "vllm_flash_attn", "varlen_fwd", batch, max(queries),
        max(queries), base.num_heads, base.num_heads if latent else base.num_heads_k,
        192 if latent else base.head_dim, causal=True, total_q=sum(queries), seqlens_q=queries,
        head_dim_v=128 if latent and gpu.sm_major > 8 else None, seqlens_k=queries,
    )  # fmt: skip


def _decode(rng: Random, base: AttentionCall, queries: int) -> AttentionCall:
    batch = rng.choice((base.batch, base.batch, base.batch + 1, base.batch * 2))
    keys = tuple(queries + rng.randint(0, 9000) for _ in range(batch))
    return replace(
        base, batch=batch, seqlen_q=queries, seqlen_k=max(keys), seqlens_q=(queries,) * batch, seqlens_k=keys
    )


def draw_prompts(rng: Random, base: AttentionCall, *, most: int = 600) -> list[Step]:
    """Steps of a paged batch: prompts among requests that decode, and steps that only decode."""
    steps: list[Step] = []
    for number in range(rng.randint(4, 9)):
        batch = rng.choice((base.batch, base.batch, base.batch + 1, base.batch * 2))
        fresh = number == 0 or rng.random() < 0.3
        queries = tuple(rng.randint(2, most) if fresh and rng.random() < 0.5 else 1 for _ in range(batch))
        keys = tuple(one + rng.randint(0, 9000) for one in queries)
        call = replace(
            base, batch=batch, seqlen_q=max(queries), seqlen_k=max(keys), seqlens_q=queries, seqlens_k=keys
        )
        steps.append((0, number, "prefill" if max(queries) > 1 else "decode", call))
    return steps


def with_changes(
    steps: list[Step], change: Callable[[AttentionCall], AttentionCall | tuple[AttentionCall, ...]]
) -> list[Step]:
    """The steps with other calls, or with one of each kind of layer."""
    return [
        (generation, number, phase, change(call))
        for generation, number, phase, call in steps
        if isinstance(call, AttentionCall)
    ]
