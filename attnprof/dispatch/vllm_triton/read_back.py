"""From launches of vLLM's Triton backend back to the steps that make them.

The 3D grid with the one that adds up its segments states queries, heads and requests; the 2D grid states KV
heads, and of queries and requests their sum in blocks. Neither states a KV length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.vllm_triton.dispatch import predict_call
from attnprof.dispatch.vllm_triton.mla import GROUPED, SINGLE
from attnprof.dispatch.vllm_triton.read_back_mla import mla_steps
from attnprof.dispatch.vllm_triton.rules import MOST_QUERIES_3D, REDUCE, VERSIONS, Rules, block_m
from attnprof.dispatch.vllm_triton.turboquant import STAGE1, read_turboquant
from attnprof.gpus import make_gpu
from attnprof.model import AttentionCall, Gpu

LIBRARY = "vllm_triton"
MAIN = frozenset(name for rules in VERSIONS.values() for name in (rules.main_2d, rules.main_3d))
_AITERS_TOO = (VERSIONS["0.10.0"].main_2d, VERSIONS["0.10.0"].main_3d)  # on AMD GPUs
_ANY_KEYS = (Interval(1, None),)
_ANY_HEAD_DIM = Interval(32, None)
_LARGE_HEAD_DIM = Interval(256, 256)
_AMD = (9, 4)  # gfx942


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of other kernels."""
    name = seen.main.kernel
    if name == STAGE1:
        return read_turboquant(seen, LIBRARY, gpu.vendor)
    if name == REDUCE:
        return ReadBack(nearest="kernel before it", cut=True)
    if name in (GROUPED, SINGLE):
        return _mla(seen, gpu)
    if name not in MAIN:
        return None
    of = "vLLM's" if gpu.vendor == "amd" and name in _AITERS_TOO else ""
    if seen.unread:
        return ReadBack(tuple(_of_name(name)), seen.unread, of=of)
    found = tuple(_of_versions(seen, gpu))
    if found:
        return ReadBack(found, of=of)
    return ReadBack(nearest=_nearest(seen), cut=seen.combine is None and seen.main.grid[2] > 1)


def _of_versions(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    for version, rules in VERSIONS.items():
        yield from _of_version(seen, gpu, version, rules)


def _mla(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """What both stages of TRITON_MLA say; None where they are cut, which SGLang's reader tells."""
    if seen.unread or seen.combine is None:
        return None
    found = tuple(
        dict.fromkeys(
            explanation
            for version, rules in VERSIONS.items()
            for explanation in mla_steps(seen, _gpus(gpu), version, rules)
        )
    )
    return ReadBack(found, nearest="" if found else "grid or block")


def _of_name(name: str) -> Iterator[Explanation]:
    """What the name alone leaves, where the trace holds no sizes."""
    for version, rules in VERSIONS.items():
        if name in (rules.main_2d, rules.main_3d):
            yield _explanation(version, None, None, Interval(1, None))


def _of_version(seen: Observed, gpu: GpuFacts, version: str, rules: Rules) -> Iterator[Explanation]:
    blocks, heads_k, segments = seen.main.grid
    if segments == 1:
        if seen.combine is None and seen.main.kernel == rules.main_2d:
            yield from _in_2d(seen, gpu, version, rules)
        return
    if seen.combine is None or seen.combine.kernel != REDUCE or seen.main.kernel != rules.main_3d:
        return
    tokens, heads, _ = seen.combine.grid
    if heads < heads_k:
        return
    groups = heads // heads_k
    batch = blocks - tokens // max(block_m(groups, rules) // groups, 1)
    if not 1 <= batch <= tokens <= batch * MOST_QUERIES_3D:
        return
    queries = [
        longest
        for longest in range(ceil_div(tokens, batch), min(MOST_QUERIES_3D, tokens - batch + 1) + 1)
        if any(_launched(seen, gpu, rules, (batch, tokens, longest, heads, heads_k)))
    ]
    if queries:
        yield _explanation(version, batch, heads, Interval(queries[0], queries[-1]), segments)


def _launched(
    seen: Observed, gpu: GpuFacts, rules: Rules, sizes: tuple[int, int, int, int, int]
) -> Iterator[bool]:
    """Whether a step of these sizes launches it, on each GPU that there may be, captured or not.

    Room for partial results is that of any draft that a server may be configured for.
    """
    batch, tokens, longest, heads, heads_k = sizes
    call = AttentionCall(
        LIBRARY, "batch_paged", batch, longest, 1, heads, heads_k, 128, causal=True, total_q=tokens,
        page_block_size=16,
    )  # fmt: skip
    drafts = (0, *range(2, MOST_QUERIES_3D + 1)) if rules.threshold == "query blocks" else (0,)
    for one, graph, drafted in product(_gpus(gpu), (False, True), drafts):
        asked = replace(call, cuda_graph=graph, uniform_q_len=drafted)
        yield predict_call(asked, one, rules).launches == seen.launches


def _in_2d(seen: Observed, gpu: GpuFacts, version: str, rules: Rules) -> Iterator[Explanation]:
    """Any step: one query of a request that is not split, as under batch invariance, or a prompt."""
    blocks, heads_k, _ = seen.main.grid
    if seen.main.block[1:] != (1, 1) or blocks < 1 or heads_k < 1:
        return
    threads, warp = seen.main.block[0], {64 if one.vendor == "amd" else 32 for one in _gpus(gpu)}
    if threads in {4 * one for one in warp}:
        yield _explanation(version, None, heads_k, Interval(1, None))
    large = rules.non_causal and any(one.vendor == "nvidia" and one.sm_major == 10 for one in _gpus(gpu))
    if large and threads == 8 * 32:
        found = _explanation(version, None, heads_k, Interval(2, None))
        yield replace(found, head_dim=_LARGE_HEAD_DIM)


def _gpus(gpu: GpuFacts) -> tuple[Gpu, ...]:
    """The GPUs it may be, AMD's among them where the trace leaves that open."""
    known = gpu.candidates()
    if gpu.sm is not None and gpu.vendor != "amd":
        return known
    amd = make_gpu("AMD", *(gpu.sm or _AMD), known[0].num_sms)  # all launch alike
    return (amd,) if gpu.vendor == "amd" else (*known, amd)


def _explanation(
    version: str, batch: int | None, heads: int | None, seqlen_q: Interval, segments: int = 1
) -> Explanation:
    return Explanation(
        LIBRARY, (version, version), "batch_paged", False, batch, heads, None, seqlen_q, _ANY_HEAD_DIM,
        segments, True, _ANY_KEYS,
    )  # fmt: skip


def _nearest(seen: Observed) -> str:
    """The field that no step gives such a value, beside the others."""
    if seen.combine is None:
        return "kernel after it" if seen.main.grid[2] > 1 else "block"
    if seen.main.grid[2] == 1:
        return "number of segments"
    if seen.main.block != (128, 1, 1) or seen.combine.block != (128, 1, 1):
        return "block or grid"
    return "grid"
