"""AITER's versions over a paged cache, and paged prefill's tile.

Source: the amd-aiter 0.1.7.post2.dev18 wheel: ck_tile/01_fmha/codegen/ops/fmha_batch_prefill.py;
ck_tile/ops/fmha/kernel/fmha_batch_prefill_kernel.hpp ``GridSize``.
"""

from __future__ import annotations

from attnprof.dispatch.aiter.rules import VERSIONS as PACKAGED
from attnprof.dispatch.heuristic import ceil_div, float32
from attnprof.errors import UsageError

TAGGED = "0.1.20.post1"  # a tag of upstream's repository, of which there is no package
VERSIONS = (*PACKAGED, TAGGED)
DEFAULT_VERSION = PACKAGED[0]
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


def rules_for(version: str) -> str:
    """The version's rules by name. Raises UsageError for a version that nobody has read."""
    asked = version.strip().removeprefix("v")
    if asked not in VERSIONS:
        raise UsageError(
            f"aiter {version} is not modelled: the rules known are those of {', '.join(VERSIONS)}",
            hint=f"give --version {DEFAULT_VERSION} to predict with its rules",
        )
    return asked
