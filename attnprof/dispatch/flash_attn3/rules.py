"""FlashAttention-3's heuristics and tiles, and what its versions changed.

Source: flash_attn tags v2.7.3 to v2.8.3.post1 and commit e2743ab5 (3.0.0), hopper/heuristics.h, tile_size.h
and flash_api.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from attnprof.dispatch.heuristic import Candidate, SplitChoice, ceil_div, float32

MAX_SPLITS_AUTOMATIC = 128
MAX_SPLITS = 256
MAX_PLANNED_BATCH = 992  # 32 warps of one thread block, 31 sequences each
L2_BYTES = 50 * 1024 * 1024
_FEW_N_BLOCKS = 4
_ENOUGH = 0.85  # doubles in the source, while everything they are compared with is float32
_PACK_PENALTY = 0.9
_FULL = float32(0.8)
HEAD_DIMS = (64, 96, 128, 192, 256)
HEAD_DIMS_V = (*HEAD_DIMS, 512)


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


@dataclass(frozen=True, slots=True)
class Rules:
    """How one state of ``hopper/`` dispatches; the defaults are those of 3.0.0.

    ``tile``: the Hopper tile.  ``splits_past_l2``: a full grid is split where a KV head exceeds the L2.
    ``head_dim_v``: V may have another head dim, and the kernels' templates name it.
    ``attention_chunk``: the argument exists.
    ``one_query_drops_causal``: a causal mask over one query is none.
    ``paged_tma``: pages may be loaded by TMA; ``local_tma``: also under a window.
    ``append_counts``: appended keys are known where splits are chosen.
    ``dynamic_split``: in packed batches a kernel before the main one chooses the splits of each sequence, for
    up to 992 of them; beyond, the batch counts. ``plans_any_batch``: that kernel takes any batch, and what it
    plans shows in the main kernel's scheduler; beyond 992 it gives every sequence one split.
    ``sorts_batches``: it also sorts the sequences, but under a window.
    ``blocks_of_kv_heads``: the heuristic counts thread blocks per KV head, else per query head although it
    has packed them.  ``combine_by_head_dim_block``: the combine kernel's grid covers the head dim, and its
    name tells the architecture.  ``epilogue_split``: the epilogue's template names Split, else it writes
    float there.

    The rest is vLLM's fork: ``one_mma_group`` multiplies for few queries, query heads are always packed and
    loaded in blocks (``head_blocks``), only packed batches are compiled (``varlen_only``) and nothing that
    ``appends``; more than 992 sequences are not split at all (``one_split_past_planned``), and the combine
    kernel's grid passes over what packed batches leave empty (``sparse_combine``).
    """

    tile: Callable[[TileQuery], Tile] = tile_sm90
    splits_past_l2: bool = True
    head_dim_v: bool = True
    attention_chunk: bool = True
    one_query_drops_causal: bool = True
    paged_tma: bool = True
    local_tma: bool = True
    append_counts: bool = True
    dynamic_split: bool = True
    plans_any_batch: bool = True
    sorts_batches: bool = True
    blocks_of_kv_heads: bool = True
    combine_by_head_dim_block: bool = True
    epilogue_split: bool = True
    one_mma_group: bool = False
    always_packs: bool = False
    head_blocks: bool = False
    varlen_only: bool = False
    appends: bool = True
    one_split_past_planned: bool = False
    sparse_combine: bool = False


def head_dim_bucket(head_dim: int, buckets: tuple[int, ...] = HEAD_DIMS) -> int:
    """The compiled head dim that serves ``head_dim``: the next one up."""
    return next(bucket for bucket in buckets if head_dim <= bucket)


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


@lru_cache(maxsize=65536)
def split_choice(
    total_mblocks: int, num_sms: int, num_n_blocks: int, num_m_blocks: int, size_one_kv_head: int,
    is_causal_or_local: bool, max_splits: int, splits_past_l2: bool,
) -> SplitChoice:  # fmt: skip
    """The choice of ``num_splits_heuristic`` with every candidate it weighed; arguments as there."""
    nearly_full_at = float32(_FULL * float32(num_sms))
    if float32(total_mblocks) >= nearly_full_at:
        past_l2 = (
            splits_past_l2
            and size_one_kv_head > L2_BYTES
            and num_m_blocks >= num_sms * 2
            and not is_causal_or_local
        )
        splits = min(ceil_div(size_one_kv_head, L2_BYTES), max_splits) if past_l2 else 1
        return SplitChoice(splits, nearly_full_at, max_splits, 0.0, ())
    if num_n_blocks <= _FEW_N_BLOCKS:
        return SplitChoice(1, nearly_full_at, 1, 0.0, ())
    most = min(max_splits, num_sms, num_n_blocks)
    slots = float32(num_sms)
    candidates = []
    for num_splits in range(1, most + 1):
        waves = float32(float32(total_mblocks * num_splits) / slots)
        efficiency = float32(waves / ceil_div(waves, 1)) if waves else 0.0  # type: ignore[arg-type]
        candidates.append(Candidate(num_splits, waves, efficiency))
    threshold = _ENOUGH * max((candidate.efficiency for candidate in candidates), default=0.0)
    chosen = next((c.num_splits for c in candidates if c.efficiency >= threshold), 1)
    return SplitChoice(chosen, nearly_full_at, most, threshold, tuple(candidates))


def packs_gqa(varlen_q: bool, seqlen_q: int, qhead_per_khead: int, block_m: int) -> bool:
    """Whether the heads of a KV group share query blocks. Source: should_pack_gqa, in every version."""
    if varlen_q:
        return True
    alone, packed = filled(seqlen_q, block_m), filled(seqlen_q * qhead_per_khead, block_m)
    return alone < _PACK_PENALTY * packed


def filled(rows: int, block_m: int) -> float:
    """The used part of the query blocks that ``rows`` take, in float32."""
    return float32(float32(rows) / float32(ceil_div(rows, block_m) * block_m)) if rows else 0.0
