"""Scenes of servers over a latent cache: FlashMLA, TokenSpeed's, CUTLASS's, FlashInfer's and Triton's MLA."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from attnprof.dispatch.libraries import default_version
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Gpu, Library
from tests.spoil import flashinfer_scenes, triton_scenes
from tests.spoil.served import Drawn, draw_prompts, draw_steps, with_changes

_HOPPER, _BLACKWELL = ("h100", "h20", "h200", "h100-pcie"), ("b200", "b300", "gb200")
_WINDOW = (511, 0)
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
        drafts, gpu = rng.choice(((1,), (1,), (2,), (1, 2, 3))), _gpu(rng, *_HOPPER)
        return "flash_mla", default_version("flash_mla"), gpu, draw_steps(rng, base, gpu, drafts=drafts)
    hopper = rng.random() < 0.5
    base = replace(
        base, num_heads=rng.choice((64, 128)), index_topk=rng.choice((512, 1024, 2048)), cache_seqlens=False,
        backend="" if hopper else rng.choice(("", "nvfp4_ds_mla")),
    )  # fmt: skip
    gpu = _gpu(rng, *(_HOPPER if hopper else _BLACKWELL))
    steps = draw_steps(rng, base, gpu, drafts=rng.choice(((1,), (1,), (2,))))
    return "flash_mla", default_version("flash_mla"), gpu, steps


def tokenspeed_mla(rng: Random) -> Drawn:
    base = _base(rng, "tokenspeed_mla", dtype="fp8", page_block_size=rng.choice((32, 64)))
    gpu = _gpu(rng, *_BLACKWELL)
    steps = draw_steps(rng, base, gpu, drafts=rng.choice(((1,), (1,), (2,), (1, 2, 4))))
    return "tokenspeed_mla", default_version("tokenspeed_mla"), gpu, steps


def cutlass_mla(rng: Random) -> Drawn:
    """Its splits follow from the page table's room, the longest request that the server takes."""
    base = _base(rng, "cutlass_mla", page_block_size=128, dtype=rng.choice(("bf16", "bf16", "fp16", "fp8")))
    room, gpu = rng.choice((4096, 16_384, 32_768, 131_072)), _gpu(rng, *_BLACKWELL)
    steps = with_changes(
        draw_steps(rng, base, gpu),
        lambda call: (
            replace(call, seqlen_k=room, seqlens_q=(), seqlens_k=()) if call.head_dim == 576 else call
        ),
    )
    return "cutlass_mla", default_version("cutlass_mla"), gpu, steps


def flashinfer(rng: Random) -> Drawn:
    """Planned batches and trtllm-gen as ever, and MLA: fa2 and fa3, trtllm-gen on Blackwell."""
    if rng.random() < 0.5:
        library, version, gpu, steps = flashinfer_scenes.draw(rng)
        if rng.random() < 0.3:  # a window in every other layer
            steps = with_changes(steps, lambda call: (replace(call, window=_WINDOW), call))
        return library, version, gpu, steps
    backend = rng.choice(("fa2", "fa3", "trtllm-gen"))
    gpus = {"fa2": ("a100", "l40s", "h100", "b200"), "fa3": _HOPPER, "trtllm-gen": _BLACKWELL[:2]}
    base = _base(
        rng, "flashinfer", entry="batch_mla", backend=backend, page_block_size=rng.choice((32, 64)),
        cache_seqlens=False,
    )  # fmt: skip
    drafts = (1,) if backend == "trtllm-gen" else rng.choice(((1,), (1,), (2,), (1, 2, 4)))
    gpu = _gpu(rng, *gpus[backend])
    return "flashinfer", "0.7.2.post1", gpu, draw_steps(rng, base, gpu, drafts=drafts)


def vllm_triton(rng: Random) -> Drawn:
    """TRITON_ATTN as ever; TRITON_MLA, whose splits follow the longest request, and TURBOQUANT."""
    if rng.random() < 0.4:
        while (drawn := triton_scenes.draw(rng))[0] != "vllm_triton":
            pass
        return drawn
    gpu, version = _gpu(rng, "a100", "h100", "l40s", "b200"), rng.choice(("0.20.0", "0.33.0"))
    if rng.random() < 0.5:
        base = _base(
            rng, "vllm_triton", entry="batch_decode", num_heads=32, num_heads_k=8, head_dim=128,
            head_dim_v=None, cache_seqlens=False,
        )  # fmt: skip
        return "vllm_triton", version, gpu, draw_steps(rng, base, gpu)
    version = rng.choice(("0.10.0", version))
    base = _base(rng, "vllm_triton", entry="batch_mla", page_block_size=16, cache_seqlens=False)
    drafts = rng.choice(((1,), (1,), (2,))) if version == "0.33.0" else (1,)
    return "vllm_triton", version, gpu, draw_steps(rng, base, gpu, drafts=drafts)


def sglang_triton(rng: Random) -> Drawn:
    """Decode as ever, and extend: prompts on top of what is cached."""
    if rng.random() < 0.5:
        while (drawn := triton_scenes.draw(rng))[0] != "sglang_triton":
            pass
        return drawn
    heads, heads_k = rng.choice(((32, 8), (16, 16), (8, 1)))
    base = AttentionCall(
        "sglang_triton", "batch_paged", rng.choice((1, 2, 8)), 1, 1, heads, heads_k,
        rng.choice((64, 128, 256)), causal=True, page_block_size=1,
    )  # fmt: skip
    return "sglang_triton", "0.5.23", _gpu(rng, "a100", "h100", "b200"), draw_prompts(rng, base)


def vllm_flash_attn(rng: Random) -> Drawn:
    """FLASH_ATTN_MLA: the rotated part against K, q_v against V, planned ahead."""
    base = _base(
        rng, "vllm_flash_attn", entry="varlen_fwd", head_dim=64, has_qv=True, scheduler_metadata=True,
        cache_seqlens=False,
    )  # fmt: skip
    if base.cuda_graph:
        base = replace(base, num_splits=32)
    drafts = rng.choice(((1,), (1,), (2,)))
    gpu = _gpu(rng, *_HOPPER)
    steps = with_changes(
        draw_steps(rng, base, gpu, drafts=drafts),
        lambda call: replace(call, total_q=call.batch * call.seqlen_q) if call.has_qv else call,
    )
    return "vllm_flash_attn", "fa3", gpu, steps
