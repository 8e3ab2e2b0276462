"""From a launch of Composable Kernel's forward back to the call: heads, sequences, blocks of queries.

It never splits, so no kernel adds up after it; its tile is in its name, its block follows from the tile and
is left open. AITER's assembly kernels and MLA's are not read back: their grids are not known.
"""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import BLOCK_M, DEFAULT_VERSION
from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name
from attnprof.model import Entry

LIBRARY = "aiter"
_KERNEL = "ck_tile::FmhaFwdKernel"
_WAVE = 64


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of call that launches exactly ``seen``; None of other kernels."""
    del gpu  # what it launches depends on no GPU
    if _KERNEL not in seen.main.kernel:
        return None
    heads, blocks, batch = seen.main.grid
    stated = dict(parse_kernel_name(seen.main.kernel).stated).get("block_m")
    rows = stated if isinstance(stated, int) else BLOCK_M
    kinds: tuple[tuple[Entry, Interval], ...] = (
        ("fwd", Interval((blocks - 1) * rows + 1, blocks * rows) if blocks else Interval(1, None)),
        ("varlen_fwd", Interval(1, blocks * rows or None)),
    )
    explained = tuple(
        Explanation(
            LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), entry, False, batch or None, heads or None,
            batch * heads or None, queries, Interval(1, 256), 1, True, (Interval(1, None),),
        )
        for entry, queries in kinds
    )  # fmt: skip
    if seen.unread:
        return ReadBack(explained, seen.unread)
    if seen.combine is not None:
        return ReadBack(nearest="kernel after it")
    if seen.main.block[0] % _WAVE or seen.main.block[1:] != (1, 1):
        return ReadBack(nearest="block")
    return ReadBack(explained)
