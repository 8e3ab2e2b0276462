"""From launches of AITER's over a paged cache back to the calls that make them.

Paged decode's kernels are read as vLLM's, whose copies they are.
"""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION
from attnprof.dispatch.aiter_paged.dispatch import PREFILL, PREFILL_THREADS
from attnprof.dispatch.aiter_paged.read_unified import LIBRARY, constants_of, read_unified
from attnprof.dispatch.aiter_paged.rules import (
    PREFILL_BLOCK_M,
    PREFILL_HEAD_DIM,
    SMALL_BLOCK_M,
    prefill_tile,
)
from attnprof.dispatch.aiter_paged.unified import UNIFIED_2D, WAVE
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.dispatch.names.spelled_constants import REDUCE, UNIFIED_3D
from attnprof.dispatch.vllm_rocm.read_back import Maker

__all__ = ["constants_of", "read_back"]
_PAGED = Maker(LIBRARY, DEFAULT_VERSION, "fwd_kvcache", vllms=False)


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of other kernels."""
    name = seen.main.kernel
    if PREFILL in name:
        return _prefill(seen, gpu)
    if name.startswith((UNIFIED_2D, UNIFIED_3D)):
        return read_unified(seen, gpu)
    if name.startswith(f"{REDUCE}_") and constants_of(name):
        return ReadBack(nearest="kernel before it", cut=True)
    return _PAGED.read_back(seen)


def _prefill(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """Paged prefill: its tile, where the name states it, is the one for so many blocks on these CUs."""
    heads, batch, blocks = seen.main.grid
    named = dict(parse_kernel_name(seen.main.kernel).stated)
    stated, waves = named.get("block_m"), named.get("waves")
    threads = waves * WAVE if isinstance(waves, int) else PREFILL_THREADS
    if seen.unread:
        return ReadBack((_prompts(None, None, Interval(1, None)),), seen.unread)
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    if seen.main.block != (threads, 1, 1):
        return ReadBack(nearest="block")
    found = []
    for rows in (SMALL_BLOCK_M, PREFILL_BLOCK_M):
        taken = {prefill_tile(batch, heads, blocks * rows, one.num_sms)[0] for one in gpu.candidates()}
        if rows in taken and stated in (None, rows) and min(seen.main.grid) > 0:
            found.append(_prompts(batch, heads, Interval((blocks - 1) * rows + 1, blocks * rows)))
    return ReadBack(tuple(found), nearest="" if found else "tile")


def _prompts(batch: int | None, heads: int | None, seqlen_q: Interval) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "varlen_fwd", False, batch, heads,
        batch * heads if batch and heads else None, seqlen_q, Interval(1, PREFILL_HEAD_DIM), 1, True,
        (Interval(1, None),),
    )  # fmt: skip
