"""The way back: from the kernels of an attention call to the KV lengths that explain them.

Holds for calls whose num_splits the library chose itself (``fwd``, ``fwd_kvcache``, and ``varlen_fwd`` with
folded query heads); a caller who passes num_splits, or a varlen call that never asks, leaves no trace of the
KV length in the grid.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from attnprof.dispatch.flash_attn2.rules import block_n
from attnprof.dispatch.heuristic import MAX_SPLITS, SPLIT_BLOCK_M, num_splits_array
from attnprof.dispatch.intervals import InferredCall, Interval, Intervals, union
from attnprof.dispatch.limits import is_grid
from attnprof.dispatch.names.kernel_names import KernelSignature

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# From MAX_SPLITS * (MAX_SPLITS - 1) key blocks on, every split count is eligible and the choice is constant.
_ALL_ELIGIBLE = MAX_SPLITS * (MAX_SPLITS - 1)


def infer_call(signature: KernelSignature, grid: tuple[int, int, int], num_sms: int) -> InferredCall | None:
    """What the main kernel of a call implies on a GPU with ``num_sms`` SMs.

    None where its name is cut, or no GPU takes such a grid.
    """
    if (
        signature.head_dim is None
        or signature.block_m is None
        or signature.family not in ("fwd", "fwd_splitkv")
        or not is_grid(grid)
    ):
        return None
    if signature.flag("Split"):
        num_splits, batch_heads = grid[1], grid[2]
    else:
        num_splits, batch_heads = 1, grid[1] * grid[2]
    ratio = max(1, signature.block_m // SPLIT_BLOCK_M)
    query_blocks = tuple(range(ratio * (grid[0] - 1) + 1, ratio * grid[0] + 1))
    lengths = union(
        seqlens_for(num_splits, batch_heads * blocks, num_sms * per_sm, signature.head_dim)
        for blocks in query_blocks
        for per_sm in slots_per_sm(signature)
    )
    return InferredCall(num_splits, batch_heads, query_blocks, lengths)


def slots_per_sm(signature: KernelSignature) -> tuple[int, ...]:
    """How many slots per SM the versions that spell a kernel like this may count.

    flash_attn: one before 2.5.7, two from it on; 2.6.0 added Is_softcap and 2.4.0 Has_alibi to the name.
    """
    if signature.flag("Is_softcap") is not None:
        return (2,)
    return (1, 2) if signature.flag("Has_alibi") is not None else (1,)


@lru_cache(maxsize=4096)
def seqlens_for(num_splits: int, batch_nheads_mblocks: int, slots: int, head_dim: int) -> Intervals:
    """The KV lengths for which the heuristic answers ``num_splits``, ascending and disjoint."""
    import numpy as np

    keys = block_n(head_dim)
    chosen = _choices(batch_nheads_mblocks, slots) == num_splits
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    return tuple(
        Interval(int(first) * keys + 1, None if end == _ALL_ELIGIBLE else int(end) * keys)
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    )


@lru_cache(maxsize=256)
def _choices(batch_nheads_mblocks: int, slots: int) -> npt.NDArray[np.int32]:
    """The heuristic's answer for 1, 2, … key blocks."""
    import numpy as np

    return num_splits_array(batch_nheads_mblocks, slots, np.arange(1, _ALL_ELIGIBLE + 1))


def splits_at(signature: KernelSignature, call: InferredCall, num_sms: int, seqlen_k: Interval) -> set[int]:
    """The split counts that the heuristic gives a call like ``call`` for KV lengths of an interval."""
    if signature.head_dim is None or seqlen_k.high is None:
        return set()
    keys = block_n(signature.head_dim)
    blocks = slice(-(-max(1, seqlen_k.low) // keys) - 1, -(-seqlen_k.high // keys))
    chosen = (
        _choices(call.batch_heads * query_blocks, num_sms * per_sm)[blocks]
        for query_blocks in call.query_blocks
        for per_sm in slots_per_sm(signature)
    )
    return {int(count) for counts in chosen for count in counts.tolist()}
