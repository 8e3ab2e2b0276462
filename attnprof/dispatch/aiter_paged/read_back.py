"""From launches of AITER's over a paged cache back to the calls that make them.

Paged decode's kernels are read as vLLM's, whose copies they are. Those of unified attention have the names of
vLLM's before 0.20: what is read back is AITER's part of the union, and on NVIDIA GPUs they are vLLM's.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION
from attnprof.dispatch.aiter_paged.dispatch import REDUCE, UNIFIED_2D, UNIFIED_3D
from attnprof.dispatch.aiter_paged.rules import (
    BLOCKS_PER_CU,
    LONG_BLOCK_M,
    LONG_QUERIES,
    LONG_WAVES,
    SHORT_KEYS,
    WAVES,
    block_m,
    segments,
)
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.vllm_rocm.read_back import Maker

LIBRARY = "aiter_paged"
_WAVE = 64
_PAGES = (16, 64)  # one of each kind
_FEW, _MANY = (WAVES * _WAVE, 1, 1), (LONG_WAVES * _WAVE, 1, 1)
_OF = "AITER's"
_PAGED = Maker(LIBRARY, DEFAULT_VERSION, "fwd_kvcache", vllms=False)


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of other kernels."""
    name = seen.main.kernel
    if name not in (UNIFIED_2D, UNIFIED_3D):
        return _PAGED.read_back(seen)
    if gpu.vendor != "amd":
        return None
    if seen.unread:
        return ReadBack((_explanation(None, None, Interval(1, None), 1),), seen.unread, of=_OF)
    found = tuple(_in_2d(seen) if name == UNIFIED_2D else _in_3d(seen, gpu))
    if found:
        return ReadBack(found, of=_OF)
    return ReadBack(nearest="grid or block", cut=name == UNIFIED_3D and seen.combine is None)


def _in_2d(seen: Observed) -> Iterator[Explanation]:
    heads_k, blocks, depth = seen.main.grid
    if seen.combine is not None or depth != 1 or min(heads_k, blocks) < 1:
        return
    long = seen.main.block == _MANY
    if long or seen.main.block == _FEW:
        if long and blocks <= LONG_QUERIES // LONG_BLOCK_M:
            return  # so many queries of one request are in more blocks
        queries = Interval(LONG_QUERIES, None) if long else Interval(1, LONG_QUERIES - 1)
        yield _explanation(None, None, queries, 1)


def _in_3d(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    blocks, heads_k, count = seen.main.grid
    if seen.combine is None or seen.combine.kernel != REDUCE or seen.main.block != _FEW:
        return
    tokens, heads, depth = seen.combine.grid
    if depth != 1 or min(blocks, heads_k, tokens, heads) < 1 or heads % heads_k:
        return
    groups = heads // heads_k
    batch = blocks - tokens // (block_m(groups) // groups)
    programs = blocks * heads_k
    if not 1 <= batch <= tokens:
        return
    for one in gpu.candidates():
        made = (segments(programs, one.num_sms, page) for page in _PAGES)
        fits = (count, seen.combine.block) in {(each, (waves * _WAVE, 1, 1)) for each, waves in made}
        if fits and programs <= one.num_sms * BLOCKS_PER_CU:
            longest = tokens - batch + 1
            yield _explanation(batch, heads, Interval(-(-tokens // batch), longest), count)
            return


def _explanation(batch: int | None, heads: int | None, seqlen_q: Interval, count: int) -> Explanation:
    keys = Interval(1 if count == 1 else SHORT_KEYS + 1, None)
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "batch_paged", False, batch, heads, None, seqlen_q,
        Interval(1, None), count, True, (keys,),
    )  # fmt: skip
