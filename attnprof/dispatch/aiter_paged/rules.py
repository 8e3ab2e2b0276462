"""AITER's rules over a paged cache: paged prefill's tile; unified attention's 2D or 3D, segments and waves.

Source: the amd-aiter 0.1.7.post2.dev18 wheel: aiter/ops/triton/unified_attention.py ``use_2d_kernel``,
``select_2d_config``, ``select_3d_config``; ck_tile/01_fmha/codegen/ops/fmha_batch_prefill.py;
ck_tile/ops/fmha/kernel/fmha_batch_prefill_kernel.hpp ``GridSize``.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div, float32

PREFILL_BLOCK_M, SMALL_BLOCK_M = 128, 64
PREFILL_HEAD_DIM = 128  # at most
_LEAST_FILL = float32(0.8)
BLOCKS_PER_CU = 4
SHORT_KEYS = 512  # up to which unified attention never splits
LONG_QUERIES = 256  # from which a block has more of them
LONG_BLOCK_M = 128
MOST_SEGMENTS = 128
WAVES, LONG_WAVES = 2, 4


def prefill_tile(batch: int, num_heads: int, seqlen_q: int, num_cus: int) -> tuple[int, str]:
    """(queries of a tile of paged prefill, why): smaller where larger ones leave a fifth of the CUs idle."""
    blocks = batch * num_heads * ceil_div(seqlen_q, PREFILL_BLOCK_M)
    few = blocks < float32(num_cus * _LEAST_FILL)
    how = "fewer than" if few else "at least"
    why = f"{blocks} blocks of {PREFILL_BLOCK_M} queries are {how} 0.8 x {num_cus} CUs"
    return (SMALL_BLOCK_M if few else PREFILL_BLOCK_M), why


def block_m(groups: int) -> int:
    """Query rows of a block: 16, or from 17 query heads a KV head on the next power of two."""
    return 16 if groups <= 16 else _power_of_2(groups)


def segments(blocks: int, num_cus: int, page: int) -> tuple[int, int]:
    """(segments of each request's keys, waves of what adds them up); blocks: of the 2D grid."""
    least = 16 if page <= 16 else 8
    wanted = min(_power_of_2(ceil_div(num_cus * BLOCKS_PER_CU, blocks)), MOST_SEGMENTS)
    return (wanted, WAVES) if wanted > least else (least, 1)


def _power_of_2(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
