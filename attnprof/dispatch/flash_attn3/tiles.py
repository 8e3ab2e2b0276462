"""FlashAttention-3's tile sizes, by head dim and what else the kernel is compiled for.

Source: flash_attn tags v2.7.3 to v2.8.3.post1 and commit e2743ab5 (3.0.0), hopper/tile_size.h.
"""

from __future__ import annotations

from typing import NamedTuple


class Tile(NamedTuple):
    """Queries and keys per thread block, and how the kernel holds them.

    ``warps`` do the matrix products. sm90: P from registers (``in_registers``), QK and PV of one warp group
    overlapped (``overlap``). sm8x: Q in registers (``in_registers``), pipeline ``stages``.
    """

    block_m: int
    block_n: int
    warps: int
    in_registers: bool
    overlap: bool = False
    stages: int = 2


class TileQuery(NamedTuple):
    """What the tile of a Hopper kernel depends on; head dims are bucketed.

    ``paged``: pages are read without TMA.  ``one_mma_group``: few queries, one warp group multiplies.
    """

    head_dim: int
    head_dim_v: int
    causal: bool
    local: bool
    paged: bool
    softcap: bool
    fp8: bool
    one_mma_group: bool = False


def sm90(block_m: int, block_n: int, in_registers: bool = True, overlap: bool = True) -> Tile:
    """A Hopper tile: 4 warps multiply for every 64 queries."""
    return Tile(block_m, block_n, block_m // 16, in_registers, overlap)


def tile_sm90(query: TileQuery) -> Tile:
    """Source: tile_size_fwd_sm90, 3.0.0; V is row-major, as in every default build."""
    head_dim, head_dim_v, masked = query.head_dim, query.head_dim_v, query.causal or query.local
    if query.fp8:
        return _tile_fp8(query)
    if head_dim <= 64:
        if head_dim_v == 512:
            # V is too wide for one warp group: two share the 64 queries.
            return Tile(64, 64, 8, False, False)
        if head_dim_v == 256:
            return sm90(128, 96, True, False)
        narrow = masked or query.paged
        return sm90(192, 128 if narrow else 192, narrow)
    if head_dim <= 96:
        return sm90(192, 128 if query.local or query.paged else 144, False)
    if head_dim <= 128:
        return sm90(128, 128 if masked or query.paged else 176)
    if head_dim <= 192:
        return sm90(128, 96 if query.paged or query.local else 128 if head_dim_v <= 128 else 112)
    return sm90(128, 64 if query.local else 80)


def tile_sm90_2_8(query: TileQuery) -> Tile:
    """Source: tile_size_fwd_sm90, 2.8.0 to 2.8.3.post1: the same but for head dim 64 over pages."""
    return tile_sm90(query._replace(paged=False) if query.head_dim <= 64 else query)


def tile_sm90_2_7(query: TileQuery) -> Tile:
    """Source: tile_size_fwd_sm90, 2.7.3 to 2.7.4.post1: the same but for head dim 64."""
    return sm90(192, 128) if query.head_dim <= 64 and not query.fp8 else tile_sm90(query)


def tile_one_group(query: TileQuery) -> Tile:
    """The tile that one warp group works on, in the forks of vLLM and SGLang; head dim 64 or 128."""
    if query.fp8:
        return sm90(64, 128 if query.head_dim <= 96 else 96)
    if query.head_dim <= 64:
        return sm90(64, 192)
    return sm90(64, 128 if query.causal or query.local or query.paged else 176)


def tile_sm90_sglang(query: TileQuery) -> Tile:
    """Source: the launches of sglang-kernel 0.4.10."""
    if query.head_dim_v in (256, 512) and query.head_dim <= 64:
        return tile_sm90(query)
    if query.one_mma_group:
        return tile_one_group(query)
    if not query.fp8 and query.head_dim <= 64:
        narrow = query.causal or (query.paged and not query.local)
        return sm90(192, 128 if narrow else 192, narrow)
    return tile_sm90(query)


def _tile_fp8(query: TileQuery) -> Tile:
    head_dim, local, paged = query.head_dim, query.local, query.paged
    if head_dim <= 64:
        return sm90(192, 160)
    if head_dim <= 96:
        return sm90(192, 128)
    if head_dim <= 128:
        return sm90(128, 160 if paged else 192 if query.softcap and local else 224)
    if head_dim <= 192:
        return sm90(128, 128 if (paged or query.softcap) and local else 160)
    return sm90(128, 64 if local else 128, True, not paged)


def tile_sm8x(
    head_dim: int, *, small_smem: bool, local: bool, paged: bool, varlen_split: bool, append: bool
) -> Tile:
    """Tile of the Ampere and Ada kernel, 16 bit; ``small_smem``: sm86 and sm89.

    Source: tile_size_fwd_sm8x, the same in every version.
    """
    narrow = varlen_split or local
    if head_dim <= 64:
        return Tile(128, 80 if varlen_split else 96 if local else 112, 4, False, stages=1)
    if head_dim <= 96:
        return Tile(128, 48 if narrow else 64, 4, False, stages=1)
    if head_dim <= 128:
        if small_smem or varlen_split:
            return Tile(128, 96 if local else 112 if varlen_split else 128, 8, True, stages=1)
        return Tile(128, 48 if local else 64, 4, False, stages=1)
    if head_dim <= 192:
        narrow = narrow or append or paged
        return Tile(128, 64 if narrow else 96, 8, not narrow, stages=1 if small_smem else 2)
    if small_smem:
        return Tile(128, 32 if append else 48 if narrow else 64, 8, not append, stages=1)
    return Tile(128, 48 if append else 64 if narrow else 96, 8, False, stages=1)
