"""The KV lengths for which FlashAttention-3's heuristic answers a split count."""

from __future__ import annotations

from functools import lru_cache

from attnprof.dispatch.flash_attn3.rules import L2_BYTES, MAX_SPLITS_AUTOMATIC, split_choice
from attnprof.dispatch.intervals import Interval, Intervals, union

_INT32 = 1 << 31  # bytes of a KV head from which the library's int wraps around


@lru_cache(maxsize=4096)
def seqlens_for(
    num_splits: int, total_mblocks: int, num_m_blocks: int, num_sms: int, block_n: int, masked: bool,
    bytes_per_key: int, splits_past_l2: bool,
) -> Intervals:  # fmt: skip
    """The KV lengths that lead to ``num_splits``, ascending and disjoint; arguments as of ``split_choice``.

    block_n: keys per block, all of which are in reach.  bytes_per_key: of a key and its value.  Past 128 key
    blocks the choice is constant, until a KV head no longer fits the L2.
    """

    def chosen(blocks: int, head_bytes: int) -> bool:
        choice = split_choice(
            total_mblocks, num_sms, blocks, num_m_blocks, head_bytes, masked, MAX_SPLITS_AUTOMATIC,
            splits_past_l2,
        )  # fmt: skip
        return choice.num_splits == num_splits

    fits = [
        Interval((blocks - 1) * block_n + 1, blocks * block_n if blocks < MAX_SPLITS_AUTOMATIC else None)
        for blocks in range(1, MAX_SPLITS_AUTOMATIC + 1)
        if chosen(blocks, 0)
    ]
    if not any(
        chosen(MAX_SPLITS_AUTOMATIC, count * L2_BYTES) != chosen(MAX_SPLITS_AUTOMATIC, 0)
        for count in (2, num_splits)
    ):
        return union((tuple(fits),))
    keys = L2_BYTES // bytes_per_key
    past = (
        [Interval(1, keys)]
        if num_splits == 1
        else [Interval((num_splits - 1) * keys, num_splits * keys + num_splits)]
    )
    return union((tuple(past), (Interval(_INT32 // bytes_per_key, None),)))
