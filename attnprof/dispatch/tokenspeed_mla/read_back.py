"""From launches of TokenSpeed's MLA decode back to the steps that make them.

The reducer states the requests; with them the main grid gives the tiles of a request, and its splits the
keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from attnprof.dispatch.explanation import LONGEST, Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.dispatch.tokenspeed_mla.dispatch import (
    CAPABILITIES,
    KERNEL,
    KERNEL_16,
    MOST_HEADS,
    REDUCTION,
    REDUCTION_16,
    REDUCTION_THREADS,
    THREADS,
)
from attnprof.dispatch.tokenspeed_mla.rules import (
    DEFAULT_VERSION,
    KEYS,
    Tiles,
    num_splits,
    reducer_bands,
    tiles,
)
from attnprof.model import Gpu

LIBRARY = "tokenspeed_mla"
_EVERY = (Interval(1, None),)
_SMALL, _LARGE = 1, 2  # thread blocks of a tile


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of other kernels."""
    fp8 = seen.main.kernel.startswith(KERNEL)
    if not fp8 and not seen.main.kernel.startswith(KERNEL_16):
        return None
    if seen.unread:
        return ReadBack((_explained(None, Interval(1, None), 1, _EVERY),), seen.unread)
    cluster, tiles_of_all, splits = seen.main.grid
    small = fp8 and any(one.sm_minor == 0 for one in _gpus(gpu))
    made = (_SMALL, _LARGE) if small else (_LARGE,)
    if seen.main.block != THREADS or cluster not in made or min(seen.main.grid) < 1:
        return ReadBack(nearest="block or grid")
    combine = seen.combine
    if combine is None:
        if splits > 1:
            return ReadBack(nearest="kernel after it", cut=True)
        return ReadBack((_explained(None, Interval(1, None), 1, _EVERY),))
    if (
        not combine.kernel.startswith(REDUCTION if fp8 else REDUCTION_16)
        or combine.block != REDUCTION_THREADS
        or splits == 1
    ):
        return ReadBack(nearest="kernel after it")
    rows, groups, batch = combine.grid
    if min(combine.grid) < 1 or tiles_of_all % batch:
        return ReadBack(nearest="grid of the kernel after it")
    of_request = tiles_of_all // batch
    steps = [
        (one, queries, tiled)
        for one in _gpus(gpu)
        for queries, tiled in _steps(one, batch, rows, groups, fp8=fp8)
        if (tiled.cluster, tiled.of_request) == (cluster, of_request)
    ]
    if not steps:
        return ReadBack(nearest="grid of the kernel after it")
    sms = {one.num_sms for one, *_ in steps}
    lengths = tuple(_lengths(batch, steps[0][2], splits, sms))  # which rows and tiles alone tell
    if not fp8:  # whose splits follow from the batch, whatever the keys
        alike = any(num_splits(batch, steps[0][2], 1, one, fp8=False) == splits for one in sms)
        lengths = _EVERY if alike else ()
    if not lengths:
        return ReadBack(nearest="number of splits")
    queries = [queries for _, queries, _ in steps]
    return ReadBack((_explained(batch, Interval(min(queries), max(queries)), splits, lengths),))


def _steps(gpu: Gpu, batch: int, rows: int, groups: int, *, fp8: bool) -> Iterator[tuple[int, Tiles]]:
    """(queries a request, how they are tiled) of steps whose splits a reducer of this grid adds up.

    rows: heads of the queries that share a tile, times the thread blocks of an output row.  groups: of such
    queries.
    """
    for heads in range(1, min(rows, MOST_HEADS) + 1):
        for bands in (1, 2) if fp8 else (1,):
            fold, left = divmod(rows, heads * bands)
            if left or not fold:
                continue
            queries = groups * fold
            tiled = tiles(heads, queries, sm100=fp8 and gpu.sm_minor == 0)
            told = reducer_bands(batch, queries, heads, gpu.num_sms) if fp8 else 1
            if tiled.fold == fold and told == bands:
                yield queries, tiled


def _lengths(batch: int, tiled: Tiles, splits: int, sms: Iterable[int]) -> Iterator[Interval]:
    """The KV lengths of the longest request that get so many splits on one of the GPUs; above LONGEST all."""
    sms, begun = tuple(sms), 0
    of_tiles = range(1, LONGEST // KEYS + 1)
    fits = [any(num_splits(batch, tiled, n * KEYS, count) == splits for count in sms) for n in of_tiles]
    for number, fit in zip(of_tiles, fits, strict=True):
        if fit and not begun:
            begun = number
        if begun and not fit:
            yield Interval((begun - 1) * KEYS + 1, (number - 1) * KEYS)
            begun = 0
    most = max((num_splits(batch, tiled, 1 << 24, count) for count in sms), default=0)
    if begun or splits <= most:
        yield Interval((begun - 1) * KEYS + 1 if begun else LONGEST + 1, None)


def _gpus(gpu: GpuFacts) -> list[Gpu]:
    """The GPUs it may be, of every Blackwell that the library is for where a trace does not state it."""
    facts = [gpu] if gpu.sm else [replace(gpu, sm=sm) for sm in CAPABILITIES]
    return [one for told in facts for one in told.candidates() if one.sm_major == 10]


def _explained(batch: int | None, queries: Interval, splits: int, keys: Intervals) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "fwd_kvcache", False, batch, None, None, queries,
        Interval(576, 576), splits, True, keys,
    )  # fmt: skip
