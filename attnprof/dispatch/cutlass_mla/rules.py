"""How many splits ``sm100_cutlass_mla_decode`` takes by itself, and its persistent grid.

Source: vllm csrc/attention/mla, sm100_cutlass_mla_kernel.cu and cutlass_sm100_mla/device/sm100_mla.hpp
(set_split_kv), as of vllm 0.33.0. The keys counted are those that the page table has room for.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div
from attnprof.errors import UsageError

DEFAULT_VERSION = "0.33.0"
VERSIONS = (DEFAULT_VERSION,)
HEADS = 128  # of a tile: fewer query heads are padded
HEAD_DIMS = (576, 512)
PAGE = 128
CLUSTER = 2  # thread blocks that share a tile
_MOST_SPLITS = (  # batch at most, thousands of keys at least, splits at most
    (4, 16, 16),
    (8, 4, 8),
    (16, 8, 4),
    (32, 16, 2),
)
_EXACT_BATCHES = {48: (32, 4), 96: (16, 2)}  # thousands of keys at least, splits at most
_THOUSAND = 1024


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has recorded."""
    if version.strip().partition("+")[0] not in VERSIONS:
        raise UsageError(
            f"cutlass_mla {version} is not modelled: recorded was that of vllm {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


def most_splits(batch: int, seqlen_k: int) -> int:
    """Splits at most, by requests and keys that the page table has room for."""
    thousands = seqlen_k / _THOUSAND
    found = [most for below, least, most in _MOST_SPLITS if batch <= below and thousands >= least]
    least, most = _EXACT_BATCHES.get(batch, (0, 1))
    return max([1, *found[:1], most if thousands >= least else 1])


def num_splits(batch: int, seqlen_k: int, num_sms: int) -> int:
    """Splits of every request: as many as fit, in waves of about as many each."""
    most = most_splits(batch, seqlen_k)
    at_once = min(most, max(1, num_sms // batch))
    return ceil_div(most, ceil_div(most, at_once))


def grid(batch: int, splits: int, num_sms: int) -> tuple[int, int, int]:
    """Thread blocks of the persistent kernel: two of a cluster for each tile, at most the SMs."""
    return (min(CLUSTER * batch * splits, num_sms // CLUSTER * CLUSTER), 1, 1)
