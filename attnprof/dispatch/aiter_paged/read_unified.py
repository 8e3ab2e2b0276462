"""From launches of AITER's unified attention back to the steps that make them, of each version.

The 2D kernel is called alike in all, and, as is 0.1.7's 3D kernel, like vLLM's before 0.20: what is read back
is AITER's part of the union, and on NVIDIA GPUs they are vLLM's. The names of v0.1.20.post1's split launches
state heads, page, head dim, tile and segments; with their grids, the requests and the longest one's keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.aiter.rules import DEFAULT_VERSION, TAGGED
from attnprof.dispatch.aiter_paged.unified import (
    BLOCKS_PER_CU,
    LONG_BLOCK_M,
    LONG_QUERIES,
    LONG_WAVES,
    MOST_SEGMENTS,
    SHORT_KEYS,
    UNIFIED_2D,
    WAVE,
    WAVES,
    WIDEST,
    block_m,
    key_tile,
    names_3d,
    segments,
    tagged_segments,
)
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval, Intervals, union
from attnprof.dispatch.names.spelled_constants import REDUCE, UNIFIED_3D, constants
from attnprof.model import AttentionCall, Gpu

LIBRARY = "aiter_paged"
_PAGES = (16, 64)  # one of each kind
_FEW, _MANY = (WAVES * WAVE, 1, 1), (LONG_WAVES * WAVE, 1, 1)
_ANY_QUERIES, _ANY_DIM, _ANY_KEYS = Interval(1, None), Interval(1, None), (Interval(1, None),)
_LONGER = (Interval(SHORT_KEYS + 1, None),)
_OF = "AITER's"
_NONE_KNOWN = f"grid or block, of AITER {DEFAULT_VERSION} and {TAGGED} and of vLLM's before 0.20"


def read_unified(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every step that launches exactly ``seen``; None of other kernels, and on NVIDIA GPUs."""
    name = seen.main.kernel
    if gpu.vendor != "amd":
        return None
    if stated := constants(name):
        return _read_tagged(seen, gpu, stated)
    if name not in (UNIFIED_2D, UNIFIED_3D):
        return None
    if seen.unread:
        return ReadBack((_explanation(DEFAULT_VERSION),), seen.unread, of=_OF)
    found = tuple(_in_2d(seen) if name == UNIFIED_2D else _in_3d(seen, gpu))
    if found:
        return ReadBack(found, of=_OF, windowed=name == UNIFIED_2D)
    return ReadBack(nearest=_NONE_KNOWN, cut=name == UNIFIED_3D and seen.combine is None)


def constants_of(kernel: str) -> tuple[tuple[str, object], ...] | None:
    """What the name of a split launch of v0.1.20.post1, or of what adds it up, states; None of others."""
    return tuple(constants(kernel).items()) or None


def _in_2d(seen: Observed) -> Iterator[Explanation]:
    """Of both versions; newer blocks are many waves for wide heads, and few for long prompts of these too."""
    heads_k, blocks, depth = seen.main.grid
    if seen.combine is not None or depth != 1 or min(heads_k, blocks) < 1:
        return
    if seen.main.block == _FEW:
        yield _explanation(DEFAULT_VERSION, seqlen_q=Interval(1, LONG_QUERIES - 1))
        yield _explanation(TAGGED)
    elif seen.main.block == _MANY:
        if blocks > LONG_QUERIES // LONG_BLOCK_M:  # so many queries of one request are in more blocks
            yield _explanation(DEFAULT_VERSION, seqlen_q=Interval(LONG_QUERIES, None))
            yield _explanation(TAGGED, seqlen_q=Interval(LONG_QUERIES, None))
        yield _explanation(TAGGED, head_dim=Interval(WIDEST, None))


def _in_3d(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    """Of 0.1.7, whose names state nothing."""
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
        fits = (count, seen.combine.block) in {(each, (waves * WAVE, 1, 1)) for each, waves in made}
        if fits and programs <= one.num_sms * BLOCKS_PER_CU:
            queries = Interval(-(-tokens // batch), tokens - batch + 1)
            yield _explanation(DEFAULT_VERSION, batch, heads, queries, count=count, keys=_LONGER)
            return


def _read_tagged(seen: Observed, gpu: GpuFacts, stated: dict[str, int]) -> ReadBack:
    """A split step of v0.1.20.post1: its name gives all but requests and keys."""
    heads, groups = stated["num_query_heads"], stated["num_queries_per_kv"]
    dim, count = stated["HEAD_SIZE"], stated["NUM_SEGMENTS_PER_SEQ"]
    alone, head_dim = stated["ALL_DECODE"] == 1, Interval(dim, dim)
    fp8 = stated["IS_KV_FP8"] == 1
    call = AttentionCall(
        LIBRARY, "batch_paged", 1, 1, 1, heads, max(heads // max(groups, 1), 1), dim,
        "fp8" if fp8 else "bf16", causal=True, page_block_size=stated["BLOCK_SIZE"],
    )  # fmt: skip
    tile = key_tile(stated["BLOCK_SIZE"], fp8=fp8)
    names = names_3d(call, count, tile, alone)
    if seen.main.kernel != names[0] or groups * call.num_heads_k != heads:
        return ReadBack(nearest="constants of its name")
    if seen.unread:
        queries = Interval(1, 1) if alone else _ANY_QUERIES
        told = _explanation(TAGGED, None, heads, queries, head_dim=head_dim, count=count, keys=_LONGER)
        return ReadBack((told,), seen.unread)
    waves = LONG_WAVES if dim >= WIDEST else WAVES
    if seen.main.block != (waves * WAVE, 1, 1):
        return ReadBack(nearest="block")
    if seen.main.grid[1:] != (call.num_heads_k, count):
        return ReadBack(nearest="grid")
    if seen.combine is None:
        if count > 1:
            return ReadBack(nearest="kernel after it", cut=True)
        return ReadBack(nearest="number of segments")  # of more keys than are never split there are more
    tokens = seen.combine.grid[0]
    if seen.combine.kernel != names[1] or seen.combine.grid != (tokens, heads, 1):
        return ReadBack(nearest="grid or name of the kernel after it")
    rows = block_m(groups) // groups
    blocks = seen.main.grid[0]
    batch = blocks if alone else blocks - tokens // rows
    fits = batch == tokens if alone else 1 <= batch < tokens
    if not fits:
        return ReadBack(nearest="grid")
    keys = union(_keys(call, seen, one, blocks * call.num_heads_k, count) for one in gpu.candidates())
    if not keys:
        return ReadBack(nearest="number of segments, or block of the kernel after it")
    queries = Interval(1, 1) if alone else Interval(max(2, -(-tokens // batch)), tokens - batch + 1)
    found = _explanation(TAGGED, batch, heads, queries, head_dim=head_dim, count=count, keys=keys)
    return ReadBack((found,))


def _keys(call: AttentionCall, seen: Observed, gpu: Gpu, programs: int, count: int) -> Intervals:
    """The longest requests that are cut into ``count`` segments, added up by waves as many as were seen."""
    assert seen.combine is not None
    if programs > gpu.num_sms * BLOCKS_PER_CU:
        return ()
    page, found = call.page_block_size or 1, []
    tile = key_tile(page, fp8=False)  # by which requests are counted, whatever a block loads
    first = SHORT_KEYS // tile + 1
    last = max(first, MOST_SEGMENTS)
    for tiles in range(first, last + 1):
        made, waves = tagged_segments(programs, gpu.num_sms, page, tiles * tile, call.head_dim)
        if (made, (waves * WAVE, 1, 1)) == (count, seen.combine.block):
            low = max((tiles - 1) * tile, SHORT_KEYS) + 1
            found.append(Interval(low, None if tiles == last else tiles * tile))
    return union([(one,) for one in found])


def _explanation(
    version: str, batch: int | None = None, heads: int | None = None, seqlen_q: Interval = _ANY_QUERIES,
    *, head_dim: Interval = _ANY_DIM, count: int = 1, keys: Intervals = _ANY_KEYS,
) -> Explanation:  # fmt: skip
    return Explanation(
        LIBRARY, (version, version), "batch_paged", False, batch, heads, None, seqlen_q, head_dim, count,
        True, keys,
    )  # fmt: skip
