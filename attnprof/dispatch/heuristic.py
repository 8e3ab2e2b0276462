"""FlashAttention-2's choice of num_splits: the scalar rule with its derivation, and the same over arrays."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_SPLITS = 128
SPLIT_BLOCK_M = 64  # queries in a block of the split kernel, in which the heuristic counts
_BLOCK_ROWS = 16384
_ENOUGH = 0.85  # a double in the source, while everything it is compared with is float32
_FLOAT32 = struct.Struct("f")
DIVIDES = "integer division or modulo by zero"  # Python's words where a library's host code divides so


def float32(value: float) -> float:
    """``value`` rounded to the nearest float32.

    A quotient of two float32 numbers computed in double and rounded here equals the float32 quotient:
    53 bits are more than twice 24 plus one, so rounding twice is harmless.
    """
    rounded: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    return rounded


_FULL = float32(0.8)


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below a / b."""
    return -(-a // b)


class Candidate(NamedTuple):
    """An eligible split count: waves of thread blocks, and how full they are on average (0 to 1)."""

    num_splits: int
    waves: float
    efficiency: float


class SplitChoice(NamedTuple):
    """How num_splits was chosen.

    ``nearly_full_at`` is the number of thread blocks from which the library does not split at all; then
    there are no candidates. ``threshold`` is the efficiency that is enough.
    """

    num_splits: int
    nearly_full_at: float
    max_splits: int
    threshold: float
    candidates: tuple[Candidate, ...]


@lru_cache(maxsize=1024)
def _nearly_full_at(slots: int) -> float:
    """The number of thread blocks from which the library does not split."""
    return float32(_FULL * float32(slots))


@lru_cache(maxsize=4096)
def _filled(
    blocks: int, slots: int, most: int
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Waves and efficiency of 1, 2, ... ``most`` splits, 0 of none before them, and these from the best down.

    What the key blocks do not enter, so that many calls share it.
    """
    packed = struct.Struct(f"{most}f")

    def rounded(values: Iterable[float]) -> tuple[float, ...]:
        return packed.unpack(packed.pack(*values))

    full = float32(slots)
    waves = rounded(wanted / full for wanted in rounded(blocks * count for count in range(1, most + 1)))
    efficiencies = rounded(each / ceil(each) if each else 0.0 for each in waves)
    ranked = sorted(range(1, most + 1), key=lambda count: -efficiencies[count - 1])
    return (0.0, *waves), (0.0, *efficiencies), tuple(ranked)


def _divides_anew(num_n_blocks: int, num_splits: int) -> bool:
    """Whether so many splits divide the key blocks otherwise than one split fewer does."""
    return num_splits == 1 or -(-num_n_blocks // num_splits) != -(-num_n_blocks // (num_splits - 1))


@lru_cache(maxsize=65536)
def split_choice(batch_nheads_mblocks: int, num_sms: int, num_n_blocks: int, max_splits: int) -> SplitChoice:
    """The choice of :func:`num_splits_heuristic` with every candidate it weighed.

    A split count is a candidate if it divides the key blocks otherwise than one split fewer does.
    """
    nearly_full_at = _nearly_full_at(num_sms)
    if float32(batch_nheads_mblocks) >= nearly_full_at:
        return SplitChoice(1, nearly_full_at, 1, 0.0, ())
    waves, efficiencies, _ = _filled(batch_nheads_mblocks, num_sms, min(max_splits, num_sms))
    most = min(max_splits, num_sms, num_n_blocks)
    candidates = tuple(
        Candidate(count, waves[count], efficiencies[count])
        for count in range(1, most + 1)
        if _divides_anew(num_n_blocks, count)
    )
    threshold = _ENOUGH * max((candidate.efficiency for candidate in candidates), default=0.0)
    chosen = next((c.num_splits for c in candidates if c.efficiency >= threshold), 1)
    return SplitChoice(chosen, nearly_full_at, most, threshold, candidates)


def num_splits_heuristic(
    batch_nheads_mblocks: int, num_sms: int, num_n_blocks: int, max_splits: int = MAX_SPLITS
) -> int:
    """Splits of the KV axis that fill the GPU best.

    batch_nheads_mblocks: batch x heads x query blocks of 64.  num_sms: thread blocks resident at once, as
    the caller passes it (2 per SM from 2.5.7).  num_n_blocks: key blocks.
    Float32 throughout, as upstream: float64 gives another answer at ties.
    Source: flash_attn csrc/flash_attn/flash_api.cpp, unchanged from 2.2.0 to 2.8.3.post2.
    """
    nearly_full_at = _nearly_full_at(num_sms)
    # Rounding keeps order: what reaches a float32 number before it does so after.
    if batch_nheads_mblocks >= nearly_full_at or float32(batch_nheads_mblocks) >= nearly_full_at:
        return 1
    most = min(max_splits, num_sms)
    _, efficiencies, ranked = _filled(batch_nheads_mblocks, num_sms, most)
    most = min(most, num_n_blocks)
    best = next((n for n in ranked if n <= most and _divides_anew(num_n_blocks, n)), 0)
    threshold = _ENOUGH * efficiencies[best]
    for num_splits in range(1, most + 1):
        if efficiencies[num_splits] >= threshold and _divides_anew(num_n_blocks, num_splits):
            return num_splits
    return 1


def choice_in_words(choice: SplitChoice, blocks: int, slots: int) -> str:
    """The heuristic's answer in one sentence."""
    if not choice.candidates:
        return f"{blocks} thread blocks are at least 0.8 x {slots} slots: nearly full without splitting"
    best = max(choice.candidates, key=lambda candidate: candidate.efficiency)
    chosen = next(c for c in choice.candidates if c.num_splits == choice.num_splits)
    if len(choice.candidates) == 1:
        return "there is a single key block: nothing to split"
    return (
        f"smallest of {len(choice.candidates)} candidates whose efficiency ({chosen.efficiency:.3f}) reaches "
        f"85 % of the best ({best.efficiency:.3f}, {best.num_splits} splits)"
    )


def num_splits_array(
    batch_nheads_mblocks: Any, num_sms: Any, num_n_blocks: Any, max_splits: Any = MAX_SPLITS
) -> npt.NDArray[np.int32]:
    """:func:`num_splits_heuristic` over arrays that broadcast together; same answers, as int32.

    Equal rows are computed once, and rows in blocks that fit the cache, each as a loop over split counts
    (at most 128) of vectorised float32 steps.
    """
    import numpy as np

    from attnprof.arrays import distinct_rows

    columns = np.broadcast_arrays(batch_nheads_mblocks, num_sms, num_n_blocks, max_splits)
    shape = columns[0].shape
    blocks, slots, n_blocks, most = (np.ascontiguousarray(c, dtype=np.int64).ravel() for c in columns)
    most = np.minimum(np.minimum(most, slots), n_blocks)
    answer = np.ones(blocks.shape, dtype=np.int32)
    room = np.flatnonzero(blocks.astype(np.float32) < np.float32(_FULL) * slots.astype(np.float32))
    if not room.size:
        return answer.reshape(shape)
    rows, inverse = distinct_rows([column[room] for column in (most, blocks, slots, n_blocks)])
    chosen = [
        _choose(*(column[at : at + _BLOCK_ROWS] for column in rows))
        for at in range(0, len(rows[0]), _BLOCK_ROWS)
    ]
    answer[room] = np.concatenate(chosen)[inverse]
    return answer.reshape(shape)


def _choose(
    most: npt.NDArray[np.int64],
    blocks: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int64],
    n_blocks: npt.NDArray[np.int64],
) -> npt.NDArray[np.int32]:
    """The split count of rows sorted by ``most``, the largest split count each may have."""
    import numpy as np

    slots32 = slots.astype(np.float32)
    n_blocks = n_blocks.astype(np.int32)
    best = np.zeros(len(most), dtype=np.float32)
    before = np.zeros(len(most), dtype=np.int32)
    weighed: list[
        tuple[int, npt.NDArray[np.float32]]
    ] = []  # first row still considering, efficiency from there
    for num_splits in range(1, int(most[-1]) + 1):
        first = int(np.searchsorted(most, num_splits))
        per_split = -(-n_blocks[first:] // np.int32(num_splits))
        waves = (blocks[first:] * num_splits).astype(np.float32) / slots32[first:]
        efficiency = waves / np.maximum(np.ceil(waves), np.float32(1))
        efficiency[per_split == before[first:]] = -1
        before[first:] = per_split
        np.maximum(best[first:], efficiency, out=best[first:])
        weighed.append((first, efficiency))
    threshold = _ENOUGH * best.astype(np.float64)
    answer = np.ones(len(most), dtype=np.int32)
    for num_splits, (first, efficiency) in zip(range(len(weighed), 0, -1), reversed(weighed), strict=True):
        answer[first:][efficiency >= threshold[first:]] = num_splits
    return answer
