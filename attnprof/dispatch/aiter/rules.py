"""AITER's split counts: Composable Kernel's, which is always one, and the search for MLA; and its threads.

Source: the amd-aiter 0.1.7.post2.dev18 wheel: aiter_meta/csrc/include/mha_common.h
``num_splits_heuristic_ck``, ``override_num_splits_if_necessary``; aiter/mla.py ``get_meta_param``;
ck_tile/ops/fmha/kernel/fmha_fwd_kernel.hpp ``GridSize``; example/ck_tile/01_fmha/codegen/ops/fmha_fwd.py.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div, num_splits_heuristic
from attnprof.errors import UsageError
from attnprof.model import AttentionCall, Gpu

DEFAULT_VERSION = "0.1.7"
VERSIONS = (DEFAULT_VERSION, "0.1.7.post2.dev18")
TAGGED = "0.1.20.post1"  # a tag of upstream's repository, of which there is no package
BLOCK_M = 128  # queries of a tile, as the library itself takes it to be
THREADS = 256
WAVE = 64  # all threads of a tile of 16 or 32 queries
_SMALL_TILE = 32  # queries that one wave works off, on gfx950
_BUCKETS = ((32, 32), (64, 64), (96, 128), (128, 128))  # head dims of Q and V, ascending
_SMALL_BUCKETS = _BUCKETS[1::2]
MOST_HEAD_DIM = 256
MAX_SPLITS = 128
_SLOTS_PER_CU = 2
_MLA_SPLITS = range(1, 17)
_OVERHEAD = 84.1  # keys that a split costs
FP8_KEYS = {16: 128, 32: 128, 48: 64, 64: 64, 128: 32, 256: 32, 384: 32, 512: 32}


def rules_for(version: str) -> str:
    """The version as it is known here. Raises UsageError for a version that nobody has read."""
    asked = version.strip().removeprefix("v")
    if asked not in (*VERSIONS, TAGGED):
        raise UsageError(
            f"aiter {version} is not modelled: the rules known are those of {', '.join((*VERSIONS, TAGGED))}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )
    return asked


def ck_splits(batch: int, num_heads: int, seqlen_q: int, head_dim_v: int, num_cus: int) -> int:
    """FlashAttention-2's heuristic, given blocks of the V head dim where it wants key blocks.

    A tile is as wide as the head dim, so there is one such block, and one block is never split.
    """
    blocks = ceil_div(head_dim_v, head_dim_v)
    tiles = batch * num_heads * ceil_div(seqlen_q, BLOCK_M)
    return num_splits_heuristic(tiles, num_cus * _SLOTS_PER_CU, blocks, MAX_SPLITS)


def ck_threads(call: AttentionCall, queries: int, gpu: Gpu) -> int:
    """Threads of Composable Kernel's forward: a wave for up to 32 rows of a batch on gfx950, else four."""
    dims = (call.head_dim, call.head_dim_v or call.head_dim)
    bucket = next((one for one in _BUCKETS if dims[0] <= one[0] and dims[1] <= one[1]), None)
    loads = (gpu.sm_major, gpu.sm_minor) == (9, 5) and bucket in _SMALL_BUCKETS and call.dtype != "fp8"
    plain = call.entry == "fwd" and not (call.alibi or call.dropout_p)
    return WAVE if loads and plain and queries <= _SMALL_TILE else THREADS


def best_splits(num_cus: int, batch: int, total_kv: int) -> int:
    """The count from 1 to 16 that fills the CUs best, less what each split costs.  Float64, as in Python."""
    keys = total_kv / batch

    def worth(splits: int) -> float:
        waves = ceil_div(batch * splits, num_cus) * num_cus
        return batch * splits / waves * keys / (keys + _OVERHEAD * splits)

    return max(_MLA_SPLITS, key=worth)  # the first of equals


def mla_splits(
    num_cus: int, batch: int, total_kv: int, num_heads: int, seqlen_q: int, fp8: bool, asked: int = 0
) -> int:
    """The best count, or the caller's; of FP8 no more than a sequence has blocks of keys.

    total_kv: keys of all sequences.  asked: the caller's, 0 for none.
    """
    keys = total_kv / batch
    best = asked or best_splits(num_cus, batch, total_kv)
    if not fp8:
        return best
    block = FP8_KEYS.get(num_heads * seqlen_q)
    if block is None:
        raise UsageError(f"AITER's FP8 MLA takes no {num_heads * seqlen_q} query rows")
    return min(best, int(keys + block - 1) // block)
