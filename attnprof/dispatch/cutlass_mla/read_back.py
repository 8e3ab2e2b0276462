"""From launches of CUTLASS's MLA decode back to the steps that make them.

The reduction states the requests, and the main grid then their splits while it is below the SMs; without a
reduction the main grid states the requests alone, as far as it is not capped.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.cutlass_mla.dispatch import (
    BLOCK,
    ELEMENTS,
    KERNEL,
    REDUCTION,
    REDUCTION_BLOCK,
    kernel_name,
    reduction_name,
)
from attnprof.dispatch.cutlass_mla.rules import CLUSTER, DEFAULT_VERSION, HEADS, PAGE, grid, num_splits
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.spelling import spelling_difference

LIBRARY = "cutlass_mla"
_STEPS = tuple(1024 * thousands for thousands in (0, 4, 8, 16, 32))  # where splits may change, in keys


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of other kernels."""
    if f"{KERNEL}<" not in seen.main.kernel and not seen.main.kernel.endswith(KERNEL):
        if REDUCTION in seen.main.kernel:
            return ReadBack(nearest="kernel before it", cut=True)
        return None
    if "IndividualTileScheduler" in seen.main.kernel:
        return None  # a split count that FORCE_NUM_KV_SPLITS asks for
    if seen.unread:
        return ReadBack((_explanation(None, 1, Interval(1, None)),), seen.unread)
    if seen.main.block != BLOCK or seen.main.grid[1:] != (1, 1):
        return ReadBack(nearest="block or grid")
    combine = seen.combine
    if combine is not None and (
        REDUCTION not in combine.kernel
        or combine.block != REDUCTION_BLOCK
        or combine.grid[:2] != (HEADS, 1)
        or combine.grid[2] < 1
    ):
        return ReadBack(nearest="kernel after it")
    if not any(_named(dtype, seen) for dtype in ELEMENTS):
        return ReadBack(nearest="template")
    found = tuple(_explanations(seen, gpu))
    if found:
        return ReadBack(found)
    return ReadBack(nearest="grid", cut=combine is None)


def _named(dtype: str, seen: Observed) -> bool:
    """Whether both kernels are named as for this element, as far as their names can be read."""
    pairs = [(kernel_name(dtype), seen.main), (reduction_name(dtype), seen.combine)]
    return not any(each and spelling_difference(name, each.kernel) for name, each in pairs)


def _explanations(seen: Observed, gpu: GpuFacts) -> Iterator[Explanation]:
    """One for each batch and stretch of keys that gives the grids, on any GPU that it may be."""
    blocks, split = seen.main.grid[0], seen.combine is not None
    counts = {one.num_sms for one in gpu.candidates() if one.sm_major == 10}
    for sms in sorted(counts):
        most = sms // CLUSTER * CLUSTER
        if not 1 < blocks <= most:
            continue
        if seen.combine is None and blocks == most:  # capped: any batch that fills it
            yield _explanation(None, 1, Interval(1, None))
            continue
        batch = blocks // CLUSTER if seen.combine is None else seen.combine.grid[2]
        for low, after in zip(_STEPS, (*_STEPS[1:], None), strict=True):
            splits = num_splits(batch, low or PAGE, sms)
            if (splits > 1) == split and grid(batch, splits, sms) == seen.main.grid:
                high = None if after is None else after - PAGE
                yield _explanation(batch, splits, Interval(low + 1 - PAGE if low else 1, high))


def _explanation(batch: int | None, splits: int, seqlen_k: Interval) -> Explanation:
    return Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "fwd_kvcache", False, batch, None, None, Interval(1, 1),
        Interval(576, 576), splits, True, (seqlen_k,),
    )  # fmt: skip
