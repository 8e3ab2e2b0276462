"""From launches of TokenSpeed's MLA decode back to the steps that make them.

The reducer states the requests; with them the main grid gives the tiles of a request, and its splits the
keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attnprof.dispatch.explanation import LONGEST, Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.dispatch.tokenspeed_mla.dispatch import KERNEL, REDUCTION, REDUCTION_THREADS, THREADS
from attnprof.dispatch.tokenspeed_mla.rules import DEFAULT_VERSION, KEYS, Tiles, num_splits

LIBRARY = "tokenspeed_mla"
_EVERY = (Interval(1, None),)
_ROWS = {1: 64, 2: 128}  # thread blocks of a tile -> its rows


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of other kernels."""
    if not seen.main.kernel.startswith(KERNEL):
        return None
    if seen.unread:
        return ReadBack((_explained(None, Interval(1, None), 1, _EVERY),), seen.unread)
    cluster, tiles_of_all, splits = seen.main.grid
    if seen.main.block != THREADS or cluster not in _ROWS or min(seen.main.grid) < 1:
        return ReadBack(nearest="block or grid")
    combine = seen.combine
    if combine is None:
        if splits > 1:
            return ReadBack(nearest="kernel after it", cut=True)
        return ReadBack((_explained(None, Interval(1, None), 1, _EVERY),))
    if not combine.kernel.startswith(REDUCTION) or combine.block != REDUCTION_THREADS or splits == 1:
        return ReadBack(nearest="kernel after it")
    rows, groups, batch = combine.grid
    if min(combine.grid) < 1 or tiles_of_all % batch or tiles_of_all // batch > groups:
        return ReadBack(nearest="grid of the kernel after it")
    tiled = Tiles(_ROWS[cluster], 1, packed=tiles_of_all // batch < groups, of_request=tiles_of_all // batch)
    if tiled.packed and cluster == 1:
        return ReadBack(nearest="grid of the kernel after it")
    lengths = tuple(_lengths(batch, tiled, splits, _sms(gpu)))
    if not lengths:
        return ReadBack(nearest="number of splits")
    queries = Interval(groups, groups if tiled.packed else groups * rows)
    return ReadBack((_explained(batch, queries, splits, lengths),))


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


def _sms(gpu: GpuFacts) -> set[int]:
    return {one.num_sms for one in gpu.candidates() if one.sm_major == 10}


def _explained(batch: int | None, queries: Interval, splits: int, keys: Intervals) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "fwd_kvcache", False, batch, None, None, queries,
        Interval(576, 576), splits, True, keys,
    )  # fmt: skip
