"""From launches of SGLang's Triton backend back to the steps that make them.

Both stages of a decode step state requests and heads; the first the most splits that the server allows. How
many each request gets is not in a grid. ``_fwd_kernel``, extend's name, is that of other programs' kernels
too: of extend's sizes a step is told, though not that it is SGLang's, and other sizes are theirs.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.limits import is_tritons_block
from attnprof.dispatch.sglang_triton import amd
from attnprof.dispatch.sglang_triton.dispatch import EXTEND, EXTEND_UNIFIED, GROUPED, REDUCE, SINGLE
from attnprof.dispatch.sglang_triton.rules import DEFAULT_VERSION, extend_tile, head_blocks
from attnprof.model import Entry

LIBRARY = "sglang_triton"
_WARPS = 4
_ANY_KEYS = (Interval(1, None),)
_SHARED = f"triton {EXTEND}, launched as SGLang's extend is; other programs' kernels are called so too"


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of other kernels."""
    name = seen.main.kernel
    if name == REDUCE:
        return ReadBack(nearest="kernel before it", cut=True)
    if name == EXTEND:
        extend = () if seen.unread or gpu.vendor == "amd" else tuple(_extend(seen, gpu))
        if extend or seen.unread or is_tritons_block(seen.main.block):
            return ReadBack(extend, shared=_SHARED) if extend else None
        return ReadBack(nearest="block")  # of whichever program it is
    if name == amd.LEAN:
        return _lean(seen, gpu)
    if name not in (GROUPED, SINGLE, EXTEND_UNIFIED):
        return None
    decodes = name != EXTEND_UNIFIED
    if seen.unread:
        entry: Entry = "fwd_kvcache" if decodes else "batch_paged"
        return ReadBack((_explanation(entry, None, None, Interval(1, None), 1),), seen.unread)
    found = tuple(_decode(seen, gpu) if decodes else _extend(seen, gpu))
    if found:
        return ReadBack(found)
    if decodes and seen.combine is None:
        return ReadBack(nearest="kernel after it", cut=True)
    return ReadBack(nearest="grid or block")


def _lean(seen: Observed, gpu: GpuFacts) -> ReadBack:
    """Work-centric decode: of any requests and heads, on as many blocks as there are CUs."""
    told = _explanation("fwd_kvcache", None, None, Interval(1, 1), 0)
    if seen.unread:
        return ReadBack((told,), seen.unread)
    if gpu.vendor != "amd":
        return ReadBack(nearest="kernel, of AMD GPUs")
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    if seen.main.block != (_WARPS * amd.WAVE, 1, 1):
        return ReadBack(nearest="block")
    cus = {count for one in gpu.candidates() for count in (one.num_sms, one.num_sms // 8 * 8)}
    fits = seen.main.grid[1:] == (1, 1) and seen.main.grid[0] in cus
    return ReadBack((told,) if fits else (), nearest="" if fits else "grid")


def _decode(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    batch, blocks, most = seen.main.grid
    if seen.combine is None or seen.combine.kernel != REDUCE:
        return
    threads = (_WARPS * (amd.WAVE if gpu.vendor == "amd" else 32), 1, 1)
    if seen.main.block != threads or seen.combine.block != threads:
        return
    of, heads, depth = seen.combine.grid
    if (of, depth) != (batch, 1) or min(batch, blocks, most, heads) < 1:
        return
    plain = seen.main.kernel == SINGLE
    groups = (1,) if plain else [n for n in range(2, heads + 1) if heads % n == 0]
    if any(head_blocks(heads, each) == blocks for each in groups):
        yield _explanation("fwd_kvcache", batch, heads, Interval(1, 1), most)


def _extend(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    batch, heads, blocks = seen.main.grid
    if seen.combine is not None or min(seen.main.grid) < 1:
        return
    if gpu.vendor == "amd":
        yield from _extend_on_amd(seen, gpu)
        return
    dims = {4: (1, 64), 8: (65, 128, 129, 256, 257, 576)}.get(seen.main.block[0] // 32, ())
    if seen.main.block not in ((128, 1, 1), (256, 1, 1)):
        return
    tiles = {extend_tile(dim, one.sm_major, one.sm_minor)[0] for dim in dims for one in gpu.candidates()}
    if tiles:
        queries = Interval((blocks - 1) * min(tiles) + 1, blocks * max(tiles))
        yield _explanation("batch_paged", batch, heads, queries, 1, Interval(dims[0], dims[-1]))


def _extend_on_amd(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    """Deterministic inference's; the other extend kernel is called as other programs' there."""
    batch, heads, blocks = seen.main.grid
    for dims in (Interval(1, 256), Interval(257, 576)):
        tiles = {amd.extend_tile(dims.high or dims.low, one) for one in gpu.candidates()}
        rows = {block_m for block_m, _, waves in tiles if seen.main.block == (waves * amd.WAVE, 1, 1)}
        if rows:
            queries = Interval((blocks - 1) * min(rows) + 1, blocks * max(rows))
            yield _explanation("batch_paged", batch, heads, queries, 1, dims)


def _explanation(
    entry: Entry,
    batch: int | None,
    heads: int | None,
    seqlen_q: Interval,
    most: int,
    head_dim: Interval | None = None,
) -> Explanation:
    """``most``: splits that the grid has room for."""
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), entry, False, batch, heads, None, seqlen_q,
        head_dim or Interval(1, None), most, True, _ANY_KEYS,
    )  # fmt: skip
