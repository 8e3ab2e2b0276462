"""The FlashAttention-3 of vLLM's fork, ``_vllm_fa3_C``: its tiles and rules, and those of older wheels.

Sources are those of ``versions.py``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from attnprof.dispatch.flash_attn3.dispatch import dispatch as dispatch_flash_attn3
from attnprof.dispatch.flash_attn3.rules import Rules
from attnprof.dispatch.flash_attn3.tiles import Tile, TileQuery, sm90, tile_one_group, tile_sm90
from attnprof.dispatch.vllm_flash_attn.wheels import FA3_0_10, FA3_0_20, OLDER
from attnprof.model import AttentionCall, Gpu, Prediction

if TYPE_CHECKING:
    from attnprof.dispatch.flash_attn3.read_back import Build as FlashAttention3Build

_AUTOMATIC = -1  # 0 is upstream's default of one split in its varlen function


def tile_sm90_of_fork(query: TileQuery) -> Tile:
    """Source: tile_size_fwd_sm90 of the fork, built with two-level FP8 accumulation."""
    head_dim, causal, local, paged = query.head_dim, query.causal, query.local, query.paged
    if query.fp8:
        return _tile_fp8(query)
    if head_dim <= 64 and query.head_dim_v not in (256, 512):
        if query.one_mma_group:
            return tile_one_group(query)
        keys = 128 if causal else 160 if local or paged else 192
        return sm90(192, keys, causal or local, not local)
    if 96 < head_dim <= 128:
        if query.one_mma_group:
            return tile_one_group(query)
        return sm90(128, 128 if causal or local or paged else 160)
    if 128 < head_dim <= 192 and query.head_dim_v > 128:
        return sm90(128, 96)
    return tile_sm90(query)


def tile_sm90_of_0_10(query: TileQuery) -> Tile:
    """Source: the launches of the wheel of vllm 0.10.2; FP8 as in the fork."""
    if not query.fp8 and query.head_dim > 96 and not query.one_mma_group:
        return tile_sm90(query)
    if not query.fp8 and query.head_dim <= 64 and query.head_dim_v == 256:
        return sm90(128, 112, True, False)
    return tile_sm90_of_fork(query)


def _tile_fp8(query: TileQuery) -> Tile:
    head_dim = query.head_dim
    if query.one_mma_group:
        return tile_one_group(query)
    if head_dim <= 64:
        return sm90(192, 128)
    if head_dim <= 192:
        return sm90(128, 128 if head_dim <= 96 else 192 if head_dim <= 128 else 96)
    return sm90(128, 64 if query.local else 128, True, not query.paged)


FA3_RULES = Rules(
    tile=tile_sm90_of_fork,
    attention_chunk=False,
    local_tma=False,
    sorts_batches=False,
    one_mma_group=True,
    always_packs=True,
    head_blocks=True,
    varlen_only=True,
    appends=False,
    one_split_past_planned=True,
    sparse_combine=True,
)


SHIPPED_FA3_RULES = replace(FA3_RULES, second_qv_flag=True)  # of the wheel of vllm 0.33.0


_FA3_RULES_0_10 = replace(
    FA3_RULES,
    tile=tile_sm90_of_0_10,
    plans_any_batch=False,
    plans_one_split=False,
    always_packs=False,
    blocks_of_8=True,
    local_in_one_group=True,
    one_split_past_planned=False,
    softcap=False,
)
STATES = {"fa3": SHIPPED_FA3_RULES, OLDER: FA3_RULES, FA3_0_20: FA3_RULES, FA3_0_10: _FA3_RULES_0_10}


@lru_cache(maxsize=1)
def fa3_builds() -> tuple[FlashAttention3Build, ...]:
    """``_vllm_fa3_C``, for reading launches back."""
    from attnprof.dispatch.flash_attn3.read_back import Build as FlashAttention3Build

    return tuple(
        FlashAttention3Build(
            "vllm_flash_attn", (name, name), rules, partial(predict_fa3, rules=rules), fork=True
        )
        for name, rules in (("fa3", SHIPPED_FA3_RULES), ("fa3", FA3_RULES), (FA3_0_10, _FA3_RULES_0_10))
    )


def predict_fa3(
    call: AttentionCall, gpu: Gpu, explain: bool = False, rules: Rules = SHIPPED_FA3_RULES
) -> Prediction:
    """What the extension launches for a call of vLLM's function; an error where it refuses it."""
    if call.alibi:
        return Prediction(error="Alibi is not supported in FA3")
    if call.page_block_size is not None:
        # seqused_k stands in for cu_seqlens_k: upstream's kvcache call, with packed queries.
        total_q = call.batch * call.seqlen_q if call.total_q is None else call.total_q
        call = replace(call, entry="fwd_kvcache", cache_seqlens=True, total_q=total_q)
    elif call.num_splits == 0:
        call = replace(call, num_splits=_AUTOMATIC)
    # vLLM's function takes a dropout probability and does not pass it on.
    return dispatch_flash_attn3(replace(call, dropout_p=0.0), gpu, rules, explain=explain)
