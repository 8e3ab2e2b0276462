"""From a launch of packed prefill back to the call: requests, heads, and the longest prompt in tiles.

The kernel is that of CUTLASS's example, so of FlashMLA's sizes a call is told, but not that it is FlashMLA's.
"""

from __future__ import annotations

from collections.abc import Iterator

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_mla.dense import PREFILL_DIMS, PREFILL_THREADS, PREFILL_TILE, prefill_name
from attnprof.dispatch.flash_mla.names import template_fields
from attnprof.dispatch.flash_mla.rules import VERSIONS
from attnprof.dispatch.intervals import Interval

KERNEL = "Sm100FmhaFwdKernelTmaWarpspecialized"
SHARED = "CUTLASS's fmha, launched as FlashMLA's packed prefill is; CUTLASS's own example is called so too"


def read_prefill(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every call that launches exactly ``seen``, whose name has KERNEL; None where FlashMLA has none."""
    alone = len(seen.launches) == 1 and not seen.unread and min(seen.main.grid) > 0
    blackwell = any(one.vendor == "nvidia" and one.sm_major == 10 for one in gpu.candidates())
    if not (alone and blackwell and seen.main.block == PREFILL_THREADS):
        return None
    found = tuple(_explanations(seen))
    return ReadBack(found, shared=SHARED) if found else None


def _explanations(seen: Observed) -> Iterator[Explanation]:
    """Of a name that is cut, every head dim and mask."""
    told = template_fields(seen.main.kernel)
    for dims in PREFILL_DIMS:
        for causal in (False, True):
            if told not in (None, template_fields(prefill_name(dims, causal=causal))):
                continue
            x, y, batch = seen.main.grid
            heads, tiles = (x, y) if causal else (y, x)
            queries = Interval((tiles - 1) * PREFILL_TILE + 1, tiles * PREFILL_TILE)
            for version in VERSIONS:
                yield Explanation(
                    "flash_mla", (version, version), "varlen_fwd", False, batch, heads, None, queries,
                    Interval(dims[0], dims[0]), 1, True, (Interval(1, None),),
                )  # fmt: skip
