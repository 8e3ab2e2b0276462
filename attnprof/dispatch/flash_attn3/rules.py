"""FlashAttention-3's heuristics, and what its versions changed.

Source: flash_attn tags v2.7.3 to v2.8.3.post1 and commit e2743ab5 (3.0.0), hopper/heuristics.h
and flash_api.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from attnprof.dispatch.flash_attn3.tiles import Tile, TileQuery, tile_sm90
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
    kernel's grid passes over what packed batches leave empty (``sparse_combine``). Since vllm
    0.33.0 the mainloop names one more flag after HasQv (``second_qv_flag``), false without it. In 0.10 heads
    are loaded in blocks where 8 share a KV head alone (``blocks_of_8``), no softcap is compiled, and a caller
    who asks for one split gets no plan (``plans_one_split``); one warp group serves windows too
    (``local_in_one_group``).

    SGLang's copy names a flag more beside the sinks (``sparse_flag``) and counts query blocks of a packed
    batch as if it were one sequence (``blocks_of_all_queries``).
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
    second_qv_flag: bool = False
    blocks_of_8: bool = False
    softcap: bool = True
    plans_one_split: bool = True
    local_in_one_group: bool = False
    sparse_flag: bool = False
    blocks_of_all_queries: bool = False
    varlen_only: bool = False
    appends: bool = True
    one_split_past_planned: bool = False
    sparse_combine: bool = False


def head_dim_bucket(head_dim: int, buckets: tuple[int, ...] = HEAD_DIMS) -> int:
    """The compiled head dim that serves ``head_dim``: the next one up."""
    return next(bucket for bucket in buckets if head_dim <= bucket)


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
