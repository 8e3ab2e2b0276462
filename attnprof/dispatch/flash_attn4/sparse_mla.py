"""MLA of flash_attn.cute over the keys that an indexer picks for each query (``gather_kv_indices``).

Source: interface.py ``_mla_1cta_route``, ``_mla_fwd_plan`` and pack_gqa.py ``sparse_mla_qhead_tile`` of the
flash-attn-4 wheel; for vLLM's copy ``mla_decode_splits`` and flash_fwd_mla_decode_sm100.py.
"""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.flash_attn4.launches import SINGLE, Scheduled, Shape, mla_name
from attnprof.dispatch.flash_attn4.mla import ONE, PAIR, WHOLE, MlaPlan
from attnprof.dispatch.flash_attn4.rules import FwdConfig, Rules
from attnprof.dispatch.heuristic import ceil_div
from attnprof.model import AttentionCall, Gpu, KernelLaunch

DECODE = "DecodeSm100"  # vLLM's kernel for few heads, which shares out a query's keys and heads
KEY_BLOCK = 128
_ONE_TILE, _PAIR_TILE = 64, 128  # rows that a query's heads fill
_DECODE_HEADS = (8, 16, 32)  # of a thread block
_THREADS = 512


def sparse_refusal(call: AttentionCall, shape: Shape, rules: Rules, num_splits: int) -> str | None:
    """Upstream's words, its bare assertions as they are written; None where it takes the call."""
    if rules.mla_alone and shape.groups < _PAIR_TILE and call.num_heads_k != 1:
        return "sparse MLA requires a single KV head"
    if num_splits > 1 and rules.mla_alone:
        told = "is not supported with gather_kv_indices (sparse MLA runs without split-KV)"
        return f"num_splits={num_splits} {told}"
    if call.page_block_size is not None:
        return "paged KV + topk sparsity not yet supported together"
    if call.index_topk % KEY_BLOCK:
        return "assert gather_kv_length % 128 == 0"
    pads = shape.groups < _PAIR_TILE if rules.mla_alone else _decodes(call, shape)
    if not pads and not shape.pack_gqa:
        return "assert self.pack_gqa"
    if not rules.mla_alone and not _decodes(call, shape) and (shape.groups, call.num_heads_k) != (128, 1):
        return "require MQA 128 for DSA path"
    return None


def _decodes(call: AttentionCall, shape: Shape) -> bool:
    """Whether vLLM's decode kernel takes the call."""
    return shape.varlen and call.dtype != "fp8" and not call.causal and shape.groups in (8, 16, 32, 64)


def sparse_plan(call: AttentionCall, shape: Shape, config: FwdConfig, gpu: Gpu, rules: Rules) -> MlaPlan:
    """Which kernel takes the call; only vLLM's splits."""
    if not rules.mla_alone:
        if not _decodes(call, shape):
            return MlaPlan(PAIR, config, "other heads than 8, 16, 32 and 64, or not packed")
        groups, splits = decode_splits(
            shape.total_q, call.num_heads_k, shape.groups, gpu.num_sms, call.index_topk // KEY_BLOCK
        )
        why = f"{splits} splits and {groups} groups of heads fill the last wave of {gpu.num_sms} SMs"
        return MlaPlan(DECODE, config._replace(num_splits=splits), why)
    past_one_wave = 2 * call.num_heads_k * shape.total_q > gpu.num_sms
    if shape.groups <= _ONE_TILE and (call.dtype == "fp8" or past_one_wave):
        why = "FP8" if call.dtype == "fp8" else "pairs of blocks, one for each query, would not fit one wave"
        return MlaPlan(ONE if call.dtype == "fp8" else WHOLE, config, why)
    few = shape.groups <= _ONE_TILE
    return MlaPlan(PAIR, config, "few queries in one wave" if few else f"more than {_ONE_TILE} heads")


def padded(call: AttentionCall, shape: Shape, plan: MlaPlan, rules: Rules) -> Shape:
    """The shape with a query's heads padded to the kernel's tile."""
    if not rules.mla_alone or shape.groups >= _PAIR_TILE:
        return shape
    tile = _PAIR_TILE if plan.kind == PAIR else _ONE_TILE
    return replace(shape, pack_gqa=True, heads=call.num_heads_k, groups=tile, rows=call.seqlen_q * tile)


def decode_launch(call: AttentionCall, shape: Shape, plan: MlaPlan, gpu: Gpu, version: str) -> Scheduled:
    """vLLM's decode kernel: a thread block for each query, split and group of heads."""
    groups, splits = decode_splits(
        shape.total_q, call.num_heads_k, shape.groups, gpu.num_sms, call.index_topk // KEY_BLOCK
    )
    grid = (shape.total_q * groups * splits, call.num_heads_k, 1)
    return SINGLE, KernelLaunch(mla_name(plan.kind, version), grid, (_THREADS, 1, 1))


def decode_splits(
    total_q: int, num_heads_k: int, groups: int, num_sms: int, key_blocks: int
) -> tuple[int, int]:
    """(groups of heads, splits): the fewest waves a split, then as many groups as the last wave holds.

    Source: interface.py ``mla_decode_splits``.
    """

    def waves(parts: int, splits: int) -> int:
        return ceil_div(total_q * num_heads_k * parts * splits, num_sms)

    parts = next(one for one in (1, 2, 4, 8) if groups // one in _DECODE_HEADS)
    fewest, extra = (groups // 8, 0) if groups > 16 else (2, 1)
    candidates = [1] + [
        splits
        for splits in (fewest << power for power in range(key_blocks.bit_length()))
        if key_blocks % splits == 0
        and key_blocks // splits >= 2
        and waves(parts, splits) <= waves(parts, 1) + extra
    ]
    splits = min(candidates, key=lambda count: waves(parts, count) / count)

    def grown(parts: int, least: int) -> int:
        while (
            groups // (2 * parts) in _DECODE_HEADS
            and groups // (2 * parts) >= least
            and waves(2 * parts, splits) == waves(parts, splits)
        ):
            parts *= 2
        return parts

    parts = grown(parts, 16)
    if 2 * splits == key_blocks and waves(parts, key_blocks) == waves(parts, splits):
        splits = key_blocks
    return grown(parts, 8), splits
