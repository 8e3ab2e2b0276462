"""Scenes of servers on AMD GPUs: AITER's forward and MLA, its attention over pages, ROCM_ATTN."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from attnprof.dispatch.libraries import default_version
from attnprof.gpus import gpu_by_name
from attnprof.model import AttentionCall, Entry, Gpu, Library
from tests.spoil.served import Drawn, Step, draw_prompts, draw_steps

_HEADS = ((28, 4), (32, 8), (16, 16), (8, 8), (4, 1), (40, 8), (12, 12), (64, 8), (16, 1))
UNIFIED = ("0.1.7", "0.1.20.post1")  # whose unified attention is known
_BATCHES = (1, 2, 8, 17, 64)


def _gpu(rng: Random) -> Gpu:
    return gpu_by_name(rng.choice(("mi300x", "mi300x", "mi325x", "mi355x")))


def _base(rng: Random, library: Library, entry: Entry, **given: object) -> AttentionCall:
    heads, heads_k = rng.choice(_HEADS)
    call = AttentionCall(
        library, entry, rng.choice(_BATCHES), 1, 1, heads, heads_k, 128, causal=True,
        cuda_graph=rng.random() < 0.3,
    )  # fmt: skip
    return replace(call, **given)  # type: ignore[arg-type]


def _drawn(rng: Random, library: Library, steps: list[Step]) -> Drawn:
    return library, default_version(library), _gpu(rng), steps


def aiter(rng: Random) -> Drawn:
    """MLA's decode; or prompts, each a packed batch or one of equal lengths, by the assembly or by CK."""
    if rng.random() < 0.5:
        base = _base(
            rng, "aiter", "fwd_kvcache", num_heads=rng.choice((16, 128)), num_heads_k=1, head_dim=576,
            head_dim_v=512, page_block_size=1, cache_seqlens=True, dtype=rng.choice(("bf16", "bf16", "fp8")),
        )  # fmt: skip
        return _drawn(rng, "aiter", draw_steps(rng, base, drafts=rng.choice(((1,), (1,), (2,), (1, 2, 4)))))
    entry: Entry = rng.choice(("fwd", "varlen_fwd"))
    packed = entry == "varlen_fwd"
    base = _base(
        rng, "aiter", entry, head_dim=rng.choice((64, 128, 128, 256)),
        dtype=rng.choice(("bf16", "bf16", "fp16")), cuda_graph=False,
    )  # fmt: skip
    steps: list[Step] = []
    for number in range(rng.randint(4, 9)):
        batch, queries = rng.choice((base.batch, base.batch + 1)), rng.randint(2, 3000)
        total = batch * queries - (rng.randint(0, queries - 1) if batch > 1 else 0)
        keys = queries if packed else queries + rng.choice((0, rng.randint(1, 5000)))
        call = replace(base, batch=batch, seqlen_q=queries, seqlen_k=keys, total_q=total if packed else None)
        steps.append((0, number, "prefill", call))
    return _drawn(rng, "aiter", steps)


def aiter_paged(rng: Random) -> Drawn:
    """SGLang's steps, prompts by CK and decode by HIP's kernels; or unified attention, vLLM's and SGLang's.

    Layers with a window, as gpt-oss's, are every other one there.
    """
    if rng.random() < 0.5:
        base = _base(
            rng, "aiter_paged", "batch_paged", head_dim=rng.choice((64, 128, 256)), cuda_graph=False,
            page_block_size=rng.choice((16, 64)),
        )  # fmt: skip
        steps = draw_prompts(rng, base)
        if rng.random() < 0.4:
            steps = [
                (generation, number, phase, (replace(call, window=(127, 0)), call))
                for generation, number, phase, call in steps
                if isinstance(call, AttentionCall)
            ]
        return "aiter_paged", rng.choice(UNIFIED), _gpu(rng), steps
    heads, heads_k = rng.choice([pair for pair in _HEADS if pair[0] <= 16 * pair[1]])
    base = _base(
        rng, "aiter_paged", "fwd_kvcache", num_heads=heads, num_heads_k=heads_k,
        head_dim=rng.choice((64, 128)), page_block_size=rng.choice((1, 16)), cache_seqlens=True,
    )  # fmt: skip
    context = rng.choice((None, 4096, 40_960, 131_072))  # of the server, where it is that which is asked for
    steps = []
    for generation, number, phase, call in draw_steps(rng, base):
        assert isinstance(call, AttentionCall)
        if context is not None:
            call = replace(call, seqlen_k=max(context, call.seqlen_k))
        if not base.cuda_graph and (number == 0 or rng.random() < 0.3):
            queries = tuple(rng.randint(2, 900) for _ in range(rng.randint(1, 4)))
            keys = tuple(one + rng.choice((0, 500)) for one in queries)
            phase, call = "prefill", replace(
                call, entry="varlen_fwd", batch=len(queries), seqlen_q=max(queries), seqlen_k=max(keys),
                seqlens_q=queries, seqlens_k=keys, total_q=sum(queries), cache_seqlens=False,
            )  # fmt: skip
        steps.append((generation, number, phase, call))
    return _drawn(rng, "aiter_paged", steps)


def vllm_rocm(rng: Random) -> Drawn:
    """Decode by HIP's kernels or, of other head dims, by Triton's; prompts by Triton's before it."""
    base = _base(
        rng, "vllm_rocm", "batch_paged", head_dim=rng.choice((64, 128, 128, 256)),
        page_block_size=rng.choice((16, 16, 32)), cuda_graph=False,
    )  # fmt: skip
    return _drawn(rng, "vllm_rocm", draw_prompts(rng, base))
