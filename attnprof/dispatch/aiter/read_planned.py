"""From launches of v0.1.20.post1's MLA decode back to the steps that make them.

With a plan the first stage has a block a CU, whatever the batch; what adds up states heads, and requests that
the plan has room for. Without one both stages state requests and heads, the first the splits.
"""

from __future__ import annotations

from functools import cache

from attnprof.dispatch.aiter import planned_mla as planned
from attnprof.dispatch.aiter.assembly import MLA_THREADS, STAGE2
from attnprof.dispatch.aiter.rules import TAGGED
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.symbols import own_name

_QUERIES = range(1, 9)  # of a step without a plan
_MOST_SEARCHED = 16


@cache
def planned_names() -> dict[str, frozenset[tuple[tuple[int, int], int]]]:
    """(GPU, heads after folding) of the steps that each first stage with a plan serves."""
    found: dict[str, set[tuple[tuple[int, int], int]]] = {}
    for arch in planned.ARCHS:
        for dtype in ("bf16", "fp8"):
            for heads in range(16, 129, 16):
                if name := planned.planned_kernel(arch, dtype, heads):
                    found.setdefault(f"aiter::{name}", set()).add((arch, heads))
    return {name: frozenset(steps) for name, steps in found.items()}


@cache
def split_names() -> dict[str, frozenset[tuple[tuple[int, int], str, int, int, int]]]:
    """(GPU, dtype, heads, queries, query rows of a block) of the steps of each first stage without a plan."""
    found: dict[str, set[tuple[tuple[int, int], str, int, int, int]]] = {}
    for arch in planned.ARCHS:
        for dtype in ("bf16", "fp8"):
            for heads in (8, 16, 32, 64, 128):
                for queries in _QUERIES if heads > 8 else (1,):
                    if kernel := planned.unplanned_kernel(arch, dtype, heads, queries):
                        name, rows = kernel
                        found.setdefault(f"aiter::{name}", set()).add((arch, dtype, heads, queries, rows))
    return {name: frozenset(steps) for name, steps in found.items()}


def read_planned(seen: Observed, gpu: GpuFacts, name: str) -> ReadBack:
    """A step with a plan: ``name`` is of ``planned_names``."""
    steps = {heads for arch, heads in planned_names()[name] if gpu.sm in (None, arch)}
    if not steps:
        return ReadBack(nearest="kernel, of another GPU")
    if seen.unread:
        return ReadBack((_explanation(None, None, Interval(1, 1), 1),), seen.unread)
    if seen.main.block != (MLA_THREADS, 1, 1):
        return ReadBack(nearest="block")
    cus = {one.num_sms for one in gpu.candidates()}
    if seen.main.grid[1:] != (1, 1) or seen.main.grid[0] not in cus:
        return ReadBack(nearest="grid")
    if seen.combine is None:
        return ReadBack(nearest="kernel after it", cut=True)
    kernel, grid = own_name(seen.combine.kernel), seen.combine.grid
    if seen.combine.block != (planned.REDUCE_THREADS, 1, 1):
        return ReadBack(nearest="block of the kernel after it")
    most = seen.main.grid[0] * planned.REDUCE_BLOCKS * 2
    few = kernel == planned.REDUCE and grid[0] in steps and grid[1] == 1 and 1 <= grid[2] * grid[0] <= most
    many = kernel == planned.REDUCE_PERSISTENT and grid == (most, 1, 1)
    if not (few or many):
        return ReadBack(nearest="grid of the kernel after it")
    return ReadBack((_explanation(None, None, Interval(1, 1), 0),))


def read_split(seen: Observed, gpu: GpuFacts, name: str) -> ReadBack:
    """A step without a plan: ``name`` is of ``split_names``."""
    steps = [step for step in split_names()[name] if gpu.sm in (None, step[0])]
    if not steps:
        return ReadBack(nearest="kernel, of another GPU")
    if seen.unread:
        low = min(step[3] for step in steps)
        return ReadBack((_explanation(None, None, Interval(low, None), 1),), seen.unread)
    if seen.main.block != (MLA_THREADS, 1, 1):
        return ReadBack(nearest="block")
    blocks, batch, splits = seen.main.grid
    found = []
    for _, dtype, heads, queries, rows in sorted(steps):
        if ceil_div(queries * heads, rows) != blocks or min(batch, splits) < 1:
            continue
        whole = planned.writes_result(splits, dtype, heads, queries)
        after = seen.combine
        if (after is None) != whole:
            continue
        if after is not None and (
            own_name(after.kernel) != STAGE2
            or after.block != (planned.STAGE2_THREADS, 1, 1)
            or after.grid != (batch, heads, 1)
        ):
            continue
        found.append(_explanation(batch, heads, Interval(queries, queries), splits))
    cut = not found and seen.combine is None
    return ReadBack(tuple(dict.fromkeys(found)), nearest="" if found else "grid or kernel after it", cut=cut)


def _explanation(batch: int | None, heads: int | None, queries: Interval, splits: int) -> Explanation:
    return Explanation(
        "aiter", (TAGGED, TAGGED), "fwd_kvcache", False, batch, heads,
        batch * heads if batch and heads else None, queries, Interval(576, 576), splits,
        splits <= _MOST_SEARCHED, (Interval(1, None),),
    )  # fmt: skip
