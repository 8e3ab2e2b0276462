"""Scenes of servers on FlashAttention-4, its package and vLLM's copy, and on FlexAttention."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Library
from tests.spoil.served import Drawn, draw_prompts, draw_steps, with_changes

VERSIONS: dict[Library, tuple[str, ...]] = {
    "flash_attn_4": ("4.0.0b36", "vllm-0.33.0"),
    "flex_attention": ("2.13.0",),
}
_HEADS = ((64, 8), (32, 8), (16, 16), (28, 4), (8, 1))
_GPUS = ("b200", "b200", "b300", "gb200", "h100")
_WINDOW = (127, 0)  # gpt-oss's


def flash_attn_4(rng: Random) -> Drawn:
    """Packed batches over pages, of layers alike or a window in every other; MLA's decode on Blackwell."""
    heads, heads_k = rng.choice(_HEADS)
    base = AttentionCall(
        "flash_attn_4", "varlen_fwd", rng.choice((1, 2, 8, 17)), 1, 1, heads, heads_k,
        rng.choice((64, 128, 128)), causal=True, page_block_size=rng.choice((16, 64, 128)),
        num_splits=rng.choice((-1, -1, 0)), cuda_graph=rng.random() < 0.3,
    )  # fmt: skip
    gpu, version = rng.choice(_GPUS), rng.choice(VERSIONS["flash_attn_4"])
    latent = rng.random() < 0.25
    if latent:
        gpu = rng.choice(_GPUS[:4])
        base = replace(base, num_heads=rng.choice((16, 64, 128)), num_heads_k=1, head_dim=64, head_dim_v=512)
    captured = base.cuda_graph
    one = gpu_by_name(gpu)
    steps = draw_steps(rng, base, one) if captured or latent else draw_prompts(rng, base)
    steps = with_changes(steps, _packed)
    if not latent and rng.random() < 0.4:
        steps = with_changes(steps, lambda call: (replace(call, window=_WINDOW, causal=False), call))
    return "flash_attn_4", version, one, steps


def _packed(call: AttentionCall) -> AttentionCall:
    return replace(call, total_q=sum(call.seqlens_q) or call.batch * call.seqlen_q)


def flex_attention(rng: Random) -> Drawn:
    """vLLM's steps: the queries of all requests as one sequence, by the main kernel."""
    heads, heads_k = rng.choice(_HEADS)
    base = AttentionCall(
        "flex_attention", "batch_paged", rng.choice((1, 2, 8, 17)), 1, 1, heads, heads_k,
        rng.choice((64, 128, 128)), causal=True, page_block_size=rng.choice((16, 64)),
    )  # fmt: skip
    return "flex_attention", "2.13.0", gpu_by_name(rng.choice(("a100", *_GPUS))), draw_prompts(rng, base)
