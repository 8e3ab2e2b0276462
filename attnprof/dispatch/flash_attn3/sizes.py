"""The sizes of FlashAttention-3 calls that fill observed grids: a few of each kind that rules tell apart."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from attnprof.dispatch.explanation import Observed
from attnprof.dispatch.flash_attn3.names import MainTemplate
from attnprof.dispatch.flash_attn3.rules import MAX_PLANNED_BATCH, Rules
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.names.kernel_names import parse_kernel_name

_BATCH_PER_WARP, _MAX_WARPS = 31, 32
_MOST_BATCH = 65_535  # of a grid along z
_HEAD_BLOCKS = (4, 8, 16)
_FEW_QUERIES = 64


class Sizes(NamedTuple):
    """Sizes of a call. ``most_queries``: the longest queries that fill the same grids, 0 where any do."""

    batch: int
    seqlen_q: int
    heads: int
    heads_k: int
    total_q: int
    most_queries: int = 0


def sizes_of(
    seen: Observed, main: MainTemplate, combine: Mapping[str, object] | None, rules: Rules, splits: int
) -> Iterator[Sizes]:
    """Sizes whose grids are the observed ones, as far as these follow from sizes."""
    tile_m = combine.get("combine_block_m") if combine else None
    grid = seen.combine.grid if seen.combine is not None else (0, 0, 0)
    rows_m = tile_m if isinstance(tile_m, int) and tile_m and any(grid) else 0
    batches = list(_batches(seen, main, rules))
    if "Persistent" not in main.scheduler and any(seen.main.grid):
        for batch in batches:
            yield from _of_main_grid(seen.main.grid, main, rules, splits, batch, grid[0], rows_m)
        return
    groups = (1, *_HEAD_BLOCKS) if rules.head_blocks and main.flag("PackGQA") else (1,)
    if rows_m:
        per_batch = rules.combine_by_head_dim_block
        sparse = rules.sparse_combine and grid[2] == 1
        most = 0 if sparse or not per_batch else grid[0] * rows_m
        for batch in batches:
            for total in _within(grid[0], rows_m, 1 if per_batch else batch):
                for seqlen_q in dict.fromkeys((1, 2, 3, rows_m, _FEW_QUERIES, total)):
                    if 0 < seqlen_q <= total and total % seqlen_q == 0:
                        heads = total // seqlen_q
                        yield Sizes(batch, seqlen_q, heads, heads, batch * seqlen_q, most)
                        yield Sizes(batch, seqlen_q, heads, 1, batch * seqlen_q, most)
        if sparse:
            yield from _of_sparse_combine(seen, grid[0], rows_m)
        return
    lengths = (1, 2, main.block_m, 2 * main.block_m, main.block_m + 1, _FEW_QUERIES + 1)
    for batch, seqlen_q, group in itertools.product(batches, lengths, groups):
        yield Sizes(batch, seqlen_q, group, 1, batch * seqlen_q)


def _batches(seen: Observed, main: MainTemplate, rules: Rules) -> Iterator[int]:
    """The batch that the grids show; else the least and the most that the prepare kernel leaves open."""
    low, high = _planned(seen, rules)
    if "Persistent" not in main.scheduler and any(seen.main.grid):
        yield seen.main.grid[2]
    elif seen.combine is not None and any(seen.combine.grid) and rules.combine_by_head_dim_block:
        if low <= seen.combine.grid[2] <= high:
            yield seen.combine.grid[2]
    else:
        yield low
        yield min(high, MAX_PLANNED_BATCH + 1)  # from where 2.8 plans no more


def _planned(seen: Observed, rules: Rules) -> tuple[int, int]:
    """The least and the most sequences of a batch for which the prepare kernel is the one observed."""
    if seen.before is None or parse_kernel_name(seen.before.kernel).role != "scheduler":
        return 1, _MOST_BATCH
    if not rules.plans_any_batch:
        return 1, MAX_PLANNED_BATCH
    warps = re.search(r"<(?:\(int\))?(\d{1,9})", seen.before.kernel)
    count, blocks = int(warps[1]) if warps else 1, max(1, seen.before.grid[0])
    low = 1 if count == 1 else count // 2 * _BATCH_PER_WARP + 1
    high = count * _BATCH_PER_WARP
    if count == _MAX_WARPS:
        return max(low, (blocks - 1) * MAX_PLANNED_BATCH + 1), blocks * MAX_PLANNED_BATCH
    return low, high


def _within(blocks: int, rows: int, parts: int) -> tuple[int, ...]:
    """Numbers whose ``parts``-fold takes ``blocks`` blocks of ``rows``: least, most, and round ones."""
    low, high = (blocks - 1) * rows // parts + 1, blocks * rows // parts
    if low > high:
        return ()
    return tuple(dict.fromkeys((high, low, high - high % 2 if high - high % 2 >= low else high)))


def _of_main_grid(
    grid: tuple[int, int, int], main: MainTemplate, rules: Rules, splits: int, batch: int, combine: int,
    rows_m: int,
) -> Iterator[Sizes]:  # fmt: skip
    heads, packed = grid[1] // splits, bool(main.flag("PackGQA"))
    low, high = (grid[0] - 1) * main.block_m + 1, grid[0] * main.block_m
    if rows_m:
        parts = heads if rules.combine_by_head_dim_block else heads * batch
        low, high = max(low, (combine - 1) * rows_m // parts + 1), min(high, combine * rows_m // parts)
    if low > high or not heads:
        return
    for rows in dict.fromkeys((high, low, min(low + 1, high))):
        yield Sizes(batch, rows, heads, heads, batch * rows, high)
        if packed:
            yield Sizes(batch, 1, rows * heads, heads, batch, high)


def _of_sparse_combine(seen: Observed, blocks: int, rows: int) -> Iterator[Sizes]:
    """Of the fork: packed batches that fill less than half of the query blocks of their longest sequence."""
    low, high = _planned(seen, Rules())
    for batch in range(max(3, low), min(high, blocks - 1, MAX_PLANNED_BATCH) + 1):
        total = (blocks - batch) * rows
        if total >= batch:
            yield Sizes(batch, total, 1, 1, total)
        heads = total // batch
        if heads and ceil_div(batch * heads, rows) == blocks - batch:
            yield Sizes(batch, 2, heads, heads, batch)
            return
