"""From a launch of FlashMLA's dense decode back to the step: query rows and KV heads; never a length.

Each thread block works off one share of all keys, so the grid is the same whatever their lengths.
"""

from __future__ import annotations

from attnprof.dispatch.explanation import Explanation, GpuFacts, Observed, ReadBack
from attnprof.dispatch.flash_mla.dispatch import HEAD_DIMS, KERNEL
from attnprof.dispatch.flash_mla.rules import BLOCK_M, DEFAULT_VERSION, sm_parts
from attnprof.dispatch.intervals import Interval
from attnprof.dispatch.names.kernel_names import parse_kernel_name

LIBRARY = "flash_mla"
UNSEEN = 0  # split counts are each request's own: no size shows them
_THREADS = 256


def read_back(seen: Observed, gpu: GpuFacts) -> ReadBack | None:
    """Every kind of step that launches exactly ``seen``; None of kernels but dense decode on SM 9.0."""
    if KERNEL not in seen.main.kernel:
        return None
    blocks, heads_k, parts = seen.main.grid
    rows = Interval(1, blocks * BLOCK_M or None)
    explained = Explanation(
        LIBRARY, (DEFAULT_VERSION, DEFAULT_VERSION), "fwd_kvcache", False, None, heads_k or None, None, rows,
        Interval(HEAD_DIMS[0], HEAD_DIMS[0]), UNSEEN, True, (Interval(1, None),),
    )  # fmt: skip
    if seen.unread:
        return ReadBack((explained,), seen.unread)
    if seen.main.block != (_THREADS, 1, 1):
        return ReadBack(nearest="block")
    if seen.combine is not None and parse_kernel_name(seen.combine.kernel).family != "mla_combine":
        return ReadBack(nearest="kernel after it")
    if gpu.num_sms is not None and parts != sm_parts(gpu.num_sms, heads_k, blocks * BLOCK_M):
        return ReadBack(nearest="number of shares of the SMs")
    return ReadBack((explained,))
