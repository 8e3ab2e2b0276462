"""Which sizes of FlashInfer's fa2 launches go together: work items, and the rows that a merge kernel adds up.

The merge kernel's grid is SMs x ceil(rows x heads / SMs), up to what an SM admits, so it states the rows in
all; with a query tile these need a least number of work items, and one more where keys are split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from attnprof.dispatch.flashinfer import launch_rules
from attnprof.dispatch.flashinfer.registers import BUILDS, UnknownBlocksError
from attnprof.dispatch.flashinfer.rules import BLOCKS_PER_SM, cta_tile_q
from attnprof.dispatch.heuristic import ceil_div
from attnprof.dispatch.intervals import Interval, Intervals
from attnprof.model import Gpu, KernelLaunch

_LARGE_MERGE = 1 << 20  # rows of which every SM gets as many blocks as it admits
LEAST_CHUNK = 256  # keys of a chunk of one sequence
_MMA_ROWS = 16
_LONGEST = 1 << 22  # query rows of a sequence, or of a batch


def merged_rows(merge: KernelLaunch, heads_k: int, dims: Iterable[int], gpu: Gpu) -> Interval | None:
    """Rows (queries x heads per KV head) that such a merge kernel adds up; None where there are none such.

    All are possible where nobody compiled the kernel for this GPU.
    """
    found = [rows for dim in dims if (rows := _rows_of(merge, heads_k, dim, gpu)) is not None]
    if not found:
        return None
    highs = [one.high for one in found]
    return Interval(min(one.low for one in found), None if None in highs else max(h for h in highs if h))


def _rows_of(merge: KernelLaunch, heads_k: int, dim: int, gpu: Gpu) -> Interval | None:
    if launch_rules.merge_one(2, 1, 1, dim).block != merge.block:
        return None
    per_sm, left = divmod(merge.grid[0], gpu.num_sms)
    try:
        large = [launch_rules.merge_lengths(_LARGE_MERGE, 64, dim, gpu, build) for build in BUILDS]
        most = {launch.grid[0] // gpu.num_sms for launch in large}
    except UnknownBlocksError:
        most = {per_sm}
    if left or not 1 <= per_sm <= max(most):
        return None
    low = (per_sm - 1) * gpu.num_sms // heads_k + 1
    high = None if per_sm in most else per_sm * gpu.num_sms // heads_k
    return Interval(low, high) if high is None or low <= high else None


def paged_fits(items: int, heads_k: int, tile: int, dim: int, rows: Interval, gpu: Gpu) -> bool:
    """Whether a split batch of so many rows in all has ``items`` work items of query tiles of ``tile`` rows.

    tile: 16, 32 or 64, which stands for 128 too.  A fixed split size makes any number above the least; a CUDA
    graph pads up to its own.
    """
    low = max(rows.low, _fewest_rows(tile, dim, gpu))
    if rows.high is not None and low > rows.high:
        return False
    if items > _least_items(low, tile, dim):
        return True
    most_items = BLOCKS_PER_SM * gpu.num_sms // heads_k
    return items >= max(most_items, _least_padded(low, rows.high, tile, dim))


def _fewest_rows(tile: int, dim: int, gpu: Gpu) -> int:
    """The fewest rows of one sequence that take a tile, as the planner chooses it."""
    for rows in (1, _MMA_ROWS + 1, 2 * _MMA_ROWS + 1):
        chosen = cta_tile_q(rows, dim, dim, gpu.smem_per_block_optin, gpu.sm_major)
        if chosen == tile or (tile == 64 and chosen == 128):
            return rows
    return _LONGEST


def _least_items(rows: int, tile: int, dim: int) -> int:
    """Query tiles of so many rows in sequences that fill them."""
    large = tile == 64 and dim < 256 and rows > 64
    return ceil_div(rows, 128 if large else tile)


def _least_padded(low: int, high: int | None, tile: int, dim: int) -> int:
    """The fewest thread blocks that a CUDA graph keeps: query tiles and one less than the sequences.

    A tile of 16 rows holds of all sequences but one a query each.
    """
    if tile != _MMA_ROWS or dim >= 512:
        return _least_items(low, tile, dim)
    found = []
    for group in range(1, _MMA_ROWS + 1):
        queries = ceil_div(low, group)
        if high is None or queries * group <= high:
            sequences = max(1, queries + 1 - _MMA_ROWS // group)
            found.append(ceil_div(queries * group, tile) + sequences - 1)
    return min(found, default=_LONGEST)


def decode_fits(items: int, heads_k: int, dim: int, group: int, rows: Interval | None, gpu: Gpu) -> bool:
    """Whether CUDA-core decode of a batch makes ``items`` chunks; ``rows``: of its merge kernel, if any."""
    if rows is None:
        return True
    batch = ceil_div(rows.low, group)
    if rows.high is not None and batch * group > rows.high:
        return False
    try:
        blocks = {launch_rules.batch_decode_blocks(dim, group, gpu, build) for build in BUILDS}
    except UnknownBlocksError:
        return items > batch
    return any(_fits(items, batch, heads_k, group, rows, one * gpu.num_sms) for one in blocks)


def _fits(items: int, batch: int, heads_k: int, group: int, rows: Interval, most: int) -> bool:
    """The same where the GPU holds ``most`` thread blocks of the kernel."""
    if batch * heads_k >= most:
        return False  # the batch alone fills the GPU
    sequences = (most - 1) // heads_k if rows.high is None else min(rows.high // group, (most - 1) // heads_k)
    empty = sequences - 1  # which the search for a chunk does not count, and the grid does
    return batch < items <= most // heads_k + empty or items == most // heads_k


def merged_sequence(
    main: KernelLaunch, merge: KernelLaunch, dims: Sequence[int], tiles: Sequence[int], gpu: Gpu | None
) -> Iterator[tuple[int, Intervals]]:
    """(queries, keys) of single prefills of which ``main`` and ``merge`` are the launches.

    The merge kernel states queries and heads; these the query tiles along x; chunks along y the keys.
    """
    query_tiles, chunks, heads_k = main.grid
    many = "LargeNumIndexSets" in merge.kernel
    queries, heads = merge.grid[0], merge.grid[1] if many else merge.block[1]
    if heads % heads_k or many != (chunks >= queries):
        return
    rows = queries * (heads // heads_k)
    for dim in dims:
        wanted = launch_rules.merge_one(chunks, queries, heads, dim)
        if (wanted.grid, wanted.block) != (merge.grid, merge.block):
            continue
        for tile in tiles:
            if gpu is None:
                if ceil_div(rows, tile) == query_tiles:
                    yield queries, (Interval(1, None),)
                continue
            if tile == cta_tile_q(rows, dim, dim, gpu.smem_per_block_optin, gpu.sm_major) and (
                ceil_div(rows, tile) == query_tiles
            ):
                lengths = _keys_of_tiles(chunks, query_tiles, heads_k, tile, dim, gpu)
                if lengths:
                    yield queries, lengths


def tiles_fit(query_tiles: int, tile: int, dims: Iterable[int], gpu: Gpu) -> bool:
    """Whether some number of rows takes so many query tiles of ``tile`` rows: few rows take a small one."""
    smem, major = gpu.smem_per_block_optin, gpu.sm_major
    last = query_tiles * tile
    return any(
        cta_tile_q(rows, dim, dim, smem, major) == tile
        for dim in dims
        for rows in range(last - tile + 1, last + 1)
    )


def _keys_of_tiles(chunks: int, query_tiles: int, heads_k: int, tile: int, dim: int, gpu: Gpu) -> Intervals:
    """Keys, with and without a causal mask, that are split into ``chunks``."""
    found: list[Interval] = []
    for causal in (False, True):
        try:
            blocks = {launch_rules.single_prefill_blocks(tile, dim, causal, gpu, build) for build in BUILDS}
        except UnknownBlocksError:
            return (Interval(1, None),)
        for one in sorted(blocks):
            found += keys_of(chunks, one * gpu.num_sms // (heads_k * query_tiles))
    return tuple(found)


def keys_of(chunks: int, most: int) -> Intervals:
    """The KV lengths that are split into ``chunks`` where at most ``most`` are made, of 256 keys or more."""
    if not 1 <= chunks <= most:
        return ()
    if chunks == most:
        return (Interval(max((most - 1) * LEAST_CHUNK, LEAST_CHUNK) + 1, None),)
    found = []
    if chunks > 1:
        found.append(Interval((chunks - 1) * LEAST_CHUNK + 1, chunks * LEAST_CHUNK))
    for chunk in range(LEAST_CHUNK + 1, most // (most - chunks) + 2):
        low = max(most * (chunk - 1), (chunks - 1) * chunk) + 1
        high = min(most * chunk, chunks * chunk)
        if low <= high:
            found.append(Interval(low, high))
    return tuple(found)
