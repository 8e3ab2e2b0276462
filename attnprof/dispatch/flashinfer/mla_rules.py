"""FlashInfer's plan of multi-head latent attention, backends fa2 and fa3: clusters, key chunks, work items.

Source: include/flashinfer/attention/scheduler.cuh ``MLAPlan`` of the flashinfer-python 0.7.2.post1 wheel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnprof.dispatch.heuristic import ceil_div

_TILE = 64  # packed query rows of a thread block
_SMALL_CHUNKS = ((8, 32), (16, 64), (32, 128), (64, 192))  # keys each cluster would get -> keys of a chunk
_STEP = 256
TOO_MANY_MERGES = (
    "Internal Error: merge_cta_counter should be less than or equal to num_sm, please report this bug to the "
    "developers"
)


@dataclass(frozen=True, slots=True)
class MlaPlan:
    """What the planner answers.

    ``grid``: thread blocks of a cluster, clusters.  ``kv_chunk_size`` is in keys.  ``num_split``: work items
    whose result is partial.  ``num_merging``: thread blocks that add these up, in the same kernel.
    """

    grid: tuple[int, int, int]
    kv_chunk_size: int
    num_work_items: int
    num_split: int
    num_merging: int
    most_chunks: int

    def fields(self) -> dict[str, object]:
        """As golden data names them."""
        return {
            "split_kv": self.num_split > 0,
            "num_work_items": self.num_work_items,
            "kv_chunk_size": self.kv_chunk_size,
            "num_split": self.num_split,
            "num_merging": self.num_merging,
            "grid": list(self.grid),
        }


def plan_mla(
    seqlens_q: Sequence[int], seqlens_k: Sequence[int], num_heads: int, causal: bool, num_sms: int
) -> MlaPlan | str:
    """The plan, or upstream's words where it refuses."""
    cluster = 2 if sum(seqlens_q) * num_heads // len(seqlens_q) > _TILE else 1
    clusters = num_sms // cluster
    tile = cluster * _TILE
    works = [  # (rows of the tile, keys that it attends to)
        (min(tile, queries * num_heads - index * tile), keys)
        for queries, length in zip(seqlens_q, seqlens_k, strict=True)
        for index, keys in _tiles(queries, length, num_heads, tile, causal)
    ]
    share = max(ceil_div(sum(keys for _, keys in works), clusters), 1)
    chunk = next((size for most, size in _SMALL_CHUNKS if share <= most), ceil_div(share, _STEP) * _STEP)
    items, split, merging, most = 0, 0, 0, 1
    for rows, keys in works:
        chunks = max(1, ceil_div(keys, chunk))
        items += chunks
        most = max(most, chunks)
        if keys > chunk:
            split += chunks
            merging += ceil_div(rows, ceil_div(rows, max(keys * cluster // chunk, 1)))
    if merging > num_sms:
        return TOO_MANY_MERGES
    return MlaPlan((cluster, clusters, 1), chunk, items, split, merging, most)


def _tiles(queries: int, length: int, group: int, tile: int, causal: bool) -> list[tuple[int, int]]:
    """(index, keys) of each query tile; all but the last see what the causal mask leaves them."""
    count = ceil_div(queries * group, tile)
    if not causal:
        return [(index, length) for index in range(count)]
    before = length - queries
    seen = (max(min(before + ceil_div((index + 1) * tile, group), length), 0) for index in range(count - 1))
    return [*enumerate(seen), (count - 1, length)] if count else []
