"""Scenes of servers over a latent cache: FlashMLA, TokenSpeed's, CUTLASS's, FlashInfer's and Triton's MLA."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from attnprof.dispatch.libraries import default_version
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, Library
from tests.spoil.served import Drawn, draw_steps

_HOPPER, _BLACKWELL = ("h100", "h20", "h200", "h100-pcie"), ("b200", "b300", "gb200")
_HEADS = (16, 32, 64, 128)  # of one rank of a model of 128


def _base(rng: Random, library: Library, **given: object) -> AttentionCall:
    call = AttentionCall(
        library, "fwd_kvcache", rng.choice((1, 2, 8, 17, 64)), 1, 1, rng.choice(_HEADS), 1, 576, causal=True,
        head_dim_v=512, page_block_size=64, cache_seqlens=True, cuda_graph=rng.random() < 0.3,
    )  # fmt: skip
    return replace(call, **given)  # type: ignore[arg-type]


def _gpu(rng: Random, *names: str) -> Gpu:
    return gpu_by_name(rng.choice(names))


def flash_mla(rng: Random) -> Drawn:
    """Dense decode on Hopper, in FP8 too; over keys that an indexer picks, on Hopper and Blackwell."""
    base = _base(rng, "flash_mla")
    if rng.random() < 0.5:
        base = replace(base, dtype=rng.choice(("bf16", "bf16", "fp16", "fp8")))
        drafts = rng.choice(((1,), (1,), (2,), (1, 2, 3)))
        return "flash_mla", default_version("flash_mla"), _gpu(rng, *_HOPPER), draw_steps(
            rng, base, drafts=drafts
        )  # fmt: skip
    hopper = rng.random() < 0.5
    base = replace(
        base, num_heads=rng.choice((64, 128)), index_topk=rng.choice((512, 1024, 2048)), cache_seqlens=False,
        backend="" if hopper else rng.choice(("", "nvfp4_ds_mla")),
    )  # fmt: skip
    gpu = _gpu(rng, *(_HOPPER if hopper else _BLACKWELL))
    steps = draw_steps(rng, base, drafts=rng.choice(((1,), (1,), (2,))))
    return "flash_mla", default_version("flash_mla"), gpu, steps


def tokenspeed_mla(rng: Random) -> Drawn:
    base = _base(rng, "tokenspeed_mla", dtype="fp8", page_block_size=rng.choice((32, 64)))
    steps = draw_steps(rng, base, drafts=rng.choice(((1,), (1,), (2,), (1, 2, 4))))
    return "tokenspeed_mla", default_version("tokenspeed_mla"), _gpu(rng, *_BLACKWELL), steps


def cutlass_mla(rng: Random) -> Drawn:
    """Its splits follow from the page table's room, the longest request that the server takes."""
    base = _base(rng, "cutlass_mla", page_block_size=128, dtype=rng.choice(("bf16", "bf16", "fp16", "fp8")))
    room = rng.choice((4096, 16_384, 32_768, 131_072))
    steps = [
        (generation, number, phase, replace(call, seqlen_k=room, seqlens_q=(), seqlens_k=()))
        for generation, number, phase, call in draw_steps(rng, base)
        if isinstance(call, AttentionCall)
    ]
    return "cutlass_mla", default_version("cutlass_mla"), _gpu(rng, *_BLACKWELL), [*steps]
