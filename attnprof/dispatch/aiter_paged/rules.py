"""AITER's rule over a paged cache that is not unified attention's: paged prefill's tile.

Source: the amd-aiter 0.1.7.post2.dev18 wheel: ck_tile/01_fmha/codegen/ops/fmha_batch_prefill.py;
ck_tile/ops/fmha/kernel/fmha_batch_prefill_kernel.hpp ``GridSize``.
"""

from __future__ import annotations

from attnprof.dispatch.heuristic import ceil_div, float32

PREFILL_BLOCK_M, SMALL_BLOCK_M = 128, 64
PREFILL_HEAD_DIM = 128  # at most
_LEAST_FILL = float32(0.8)


def prefill_tile(batch: int, num_heads: int, seqlen_q: int, num_cus: int) -> tuple[int, str]:
    """(queries of a tile of paged prefill, why): smaller where larger ones leave a fifth of the CUs idle."""
    blocks = batch * num_heads * ceil_div(seqlen_q, PREFILL_BLOCK_M)
    few = blocks < float32(num_cus * _LEAST_FILL)
    how = "fewer than" if few else "at least"
    why = f"{blocks} blocks of {PREFILL_BLOCK_M} queries are {how} 0.8 x {num_cus} CUs"
    return (SMALL_BLOCK_M if few else PREFILL_BLOCK_M), why
