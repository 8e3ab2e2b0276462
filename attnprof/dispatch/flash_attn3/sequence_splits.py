"""The splits of each sequence of a packed batch, which a kernel on the device chooses.

Source: hopper/flash_prepare_scheduler.cu ``prepare_varlen_num_blocks_kernel``; read, not run.
"""

from __future__ import annotations

import math

from attnprof.dispatch.flash_attn3.launches import Settled
from attnprof.dispatch.flash_attn3.rules import MAX_PLANNED_BATCH
from attnprof.dispatch.heuristic import ceil_div, float32
from attnprof.dispatch.requests import Lengths

_MARGIN = float32(1.1)


def splits_of_requests(settled: Settled) -> tuple[int, ...]:
    """How many splits each sequence gets of those that the grid has room for.

    () where that is not asked, or the sequences' lengths are not known.

    All tiles, a tenth more, are shared out over the SMs; a sequence gets as many splits as such shares.
    """
    call, most = settled.call, settled.num_splits
    if not settled.dynamic_split or most <= 1:
        return ()
    if call.batch > MAX_PLANNED_BATCH:
        return (1,) * call.batch
    lengths, tile = Lengths(call), settled.kernel_tile()
    if not lengths.known_k:
        return ()
    groups = settled.groups if settled.pack_gqa else 1
    heads = call.num_heads_k if settled.pack_gqa else call.num_heads
    m_blocks = [ceil_div(queries * groups, tile.block_m) for queries in lengths.seqlens_q]
    n_blocks = [ceil_div(keys, tile.block_n) for keys in lengths.seqlens_k]
    total = sum(m * n for m, n in zip(m_blocks, n_blocks, strict=True))
    work = float32(float32(float32(total) * _MARGIN) * float32(heads))
    share = max(math.ceil(float32(work / float32(settled.num_sms))), 1)
    return tuple(max(min(ceil_div(blocks, share), most), 1) for blocks in n_blocks)
