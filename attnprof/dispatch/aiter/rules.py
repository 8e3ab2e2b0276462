"""AITER's split counts: Composable Kernel's, which is always one, and the search for MLA.

Source: the amd-aiter 0.1.7.post2.dev18 wheel: aiter_meta/csrc/include/mha_common.h
``num_splits_heuristic_ck``, ``override_num_splits_if_necessary``; aiter/mla.py ``get_meta_param``;
ck_tile/ops/fmha/kernel/fmha_fwd_kernel.hpp ``GridSize``.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div, num_splits_heuristic
from attnprof.errors import UsageError

DEFAULT_VERSION = "0.1.7"
VERSIONS = (DEFAULT_VERSION, "0.1.7.post2.dev18")
BLOCK_M = 128  # queries of a tile, as the library itself takes it to be
THREADS = 256
MAX_SPLITS = 128
_SLOTS_PER_CU = 2
_MLA_SPLITS = range(1, 17)
_OVERHEAD = 84.1  # keys that a split costs
_FP8_KEYS = {16: 128, 32: 128, 48: 64, 64: 64, 128: 32, 256: 32, 384: 32, 512: 32}


def rules_for(version: str) -> None:
    """Raises UsageError for a version that nobody has read."""
    if version.strip() not in VERSIONS:
        raise UsageError(
            f"aiter {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )


def ck_splits(batch: int, num_heads: int, seqlen_q: int, head_dim_v: int, num_cus: int) -> int:
    """FlashAttention-2's heuristic, given blocks of the V head dim where it wants key blocks.

    A tile is as wide as the head dim, so there is one such block, and one block is never split.
    """
    blocks = ceil_div(head_dim_v, head_dim_v)
    tiles = batch * num_heads * ceil_div(seqlen_q, BLOCK_M)
    return num_splits_heuristic(tiles, num_cus * _SLOTS_PER_CU, blocks, MAX_SPLITS)


def mla_splits(num_cus: int, batch: int, total_kv: int, num_heads: int, seqlen_q: int, fp8: bool) -> int:
    """The count from 1 to 16 that fills the CUs best, less what each split costs; FP8: no more than blocks.

    total_kv: keys of all sequences.  Float64, as in Python.
    """
    keys = total_kv / batch

    def worth(splits: int) -> float:
        waves = ceil_div(batch * splits, num_cus) * num_cus
        return batch * splits / waves * keys / (keys + _OVERHEAD * splits)

    best = max(_MLA_SPLITS, key=worth)  # the first of equals
    if not fp8:
        return best
    block = _FP8_KEYS.get(num_heads * seqlen_q)
    if block is None:
        raise UsageError(f"AITER's FP8 MLA takes no {num_heads * seqlen_q} query rows")
    return min(best, int(keys + block - 1) // block)
