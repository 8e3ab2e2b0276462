"""MLA in flash_attn.cute: latent queries (``qv``) of 512 dims beside 64 of rope; which kernel, its splits.

Source: interface.py ``_mla_1cta_route`` and ``_mla_fwd_plan``; flash_fwd_mla_sm100.py,
flash_fwd_mla_1cta_sm100.py and flash_fwd_mla_1cta_kb64_sm100.py. Over gathered keys: ``sparse_mla.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from attnprof.dispatch.flash_attn4.launches import LPT, PACKED, SINGLE, Scheduled, Shape, mla_name, packed
from attnprof.dispatch.flash_attn4.rules import MAX_SPLITS, FwdConfig, Rules, num_splits_heuristic
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, Gpu, KernelLaunch

LATENT = 512
PAIR, ONE, WHOLE = "Sm100", "1CtaSm100", "1CtaKb64Sm100"
_ROWS = 64  # query rows of a thread block
_WHOLE_TILE, _WHOLE_BLOCKS_PER_SPLIT = 64, 4
_FEWEST_SPLITS = {WHOLE: 2, ONE: 5}  # fewer do not pay: it is asked again without


@dataclass(frozen=True, slots=True)
class MlaPlan:
    """``kind``: two thread blocks a tile (PAIR), one (ONE), or one with a whole token's heads (WHOLE)."""

    kind: str
    config: FwdConfig
    why: str


def is_mla(call: AttentionCall) -> bool:
    """Whether the call has latent queries: no other call has these head dims."""
    return call.head_dim_v == LATENT and call.head_dim in (64, LATENT)


def mla_plan(
    call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, num_splits: int, rules: Rules
) -> MlaPlan:
    """Which kernel takes the call; ``config`` is the unsplit one, ``num_splits`` 0 is automatic."""
    if not rules.mla_alone:
        return MlaPlan(PAIR, config, "the only kernel of this version, which never splits")
    heads = call.num_heads // call.num_heads_k
    past_one_wave = 2 * call.num_heads_k * call.batch > gpu.num_sms
    decodes = call.seqlen_q * heads <= _ROWS
    whole = call.dtype != "fp8" and (
        heads == _ROWS or (heads < _ROWS and call.num_heads_k == call.seqlen_q == 1)
    )
    one = WHOLE if whole else ONE
    if call.dtype == "fp8" or num_splits > 1:
        return MlaPlan(one, _split(call, shape, config, gpu, num_splits, one), "asked to split, or FP8")
    if num_splits < 1:
        split = _split(call, shape, config, gpu, num_splits, one)
        if split.num_splits >= _FEWEST_SPLITS[one]:
            return MlaPlan(one, split, f"{split.num_splits} splits pay from {_FEWEST_SPLITS[one]} on")
    if decodes and past_one_wave:
        unsplit = _split(call, shape, config, gpu, num_splits, one)
        return MlaPlan(one, unsplit, "pairs of blocks would not fit one wave")
    return MlaPlan(PAIR, config, "few rows in one wave" if decodes else f"more than {_ROWS} query rows")


def _split(
    call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, num_splits: int, kind: str
) -> FwdConfig:
    """The configuration of a kernel of one thread block a tile, and its own split count."""
    tile_m, tile_n, q_stage = config.tile_m, config.tile_n, config.q_stage
    token_rows, fewest = (shape.groups if shape.pack_gqa else 1), 1
    if kind == WHOLE:
        tile_m, tile_n, q_stage = _WHOLE_TILE, _WHOLE_TILE, 1
        token_rows, fewest = _ROWS, _WHOLE_BLOCKS_PER_SPLIT
    if num_splits < 1:
        key_blocks, rows = ceil_div(call.seqlen_k, tile_n), q_stage * tile_m
        partial = 0 if token_rows % rows == 0 else call.batch - 1
        tiles = call.num_heads_k * min(
            call.batch * ceil_div(call.seqlen_q * token_rows, rows),
            ceil_div(shape.total_q * token_rows, rows) + partial,
        )
        most = min(MAX_SPLITS, max(1, key_blocks // fewest))
        num_splits = num_splits_heuristic(tiles, gpu.num_sms, key_blocks, most)
    return FwdConfig(tile_m, tile_n, q_stage, num_splits)


def mla_launch(call: AttentionCall, shape: Shape, plan: MlaPlan, version: str) -> Scheduled:
    """The kernel that a plan takes."""
    splits = plan.config.num_splits
    rows, heads, batch = shape.rows, shape.heads, call.batch
    grid: tuple[int, int, int]
    if plan.kind == PAIR:
        whole_token = shape.varlen and shape.pack_gqa and shape.groups == 2 * _ROWS
        if shape.varlen and not whole_token:
            scheduler, grid = PACKED, packed(call, shape, _ROWS, 1, 2)
        else:
            rows, batch = (shape.total_rows, 1) if shape.varlen else (rows, batch)
            scheduler, grid = LPT, (2 * ceil_div(rows, 2 * _ROWS), heads, batch)
        return scheduler, KernelLaunch(mla_name(plan.kind, version), grid, (_threads(call, plan), 1, 1))
    clc = shape.clc
    gathered = call.index_topk > 0 and plan.kind == ONE  # a query's heads fill a tile
    if gathered and shape.varlen:
        rows, batch = shape.total_rows, 1
    if plan.kind == WHOLE:
        clc, heads = call.seqlen_q > 1 or call.index_topk > 0, call.num_heads_k
        rows = _ROWS * (shape.total_q if shape.varlen else call.seqlen_q)
        batch = 1 if shape.varlen else batch
    if shape.varlen and plan.kind == ONE and not gathered:
        scheduler, grid = PACKED, packed(call, shape, _ROWS, splits, 1)
    elif clc:
        scheduler, grid = LPT, (ceil_div(rows, _ROWS), heads, batch * splits)
    else:
        scheduler, grid = SINGLE, (ceil_div(rows, _ROWS), heads * splits, batch)
    return scheduler, KernelLaunch(mla_name(plan.kind, version), grid, (_threads(call, plan), 1, 1))


def _threads(call: AttentionCall, plan: MlaPlan) -> int:
    """Four warps more where keys are copied piece by piece, of pages or gathered."""
    page = call.page_block_size
    if call.index_topk:
        return 512
    by_tma = page is None or (page % _WHOLE_TILE == 0 if plan.kind == WHOLE else page == plan.config.tile_n)
    return 384 if by_tma else 512
