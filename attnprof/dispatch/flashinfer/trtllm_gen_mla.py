"""Which trtllm-gen kernel latent attention takes: kind, tile and where its thread blocks meet.

Source: include/flashinfer/trtllm/fmha/fmhaKernels.cuh ``selectMlaGenerationKernel``,
``selectSparseMlaGenerationKernel`` and ``selectGroupedMlaGenerationKernel``.
"""

from __future__ import annotations

from dataclasses import replace

from attnprof.dispatch.flashinfer.trtllm_gen_ask import Ask, MissingKernelError
from attnprof.dispatch.flashinfer.trtllm_gen_kernels import Kind, Mode, Traits
from attnprof.dispatch.heuristic import ceil_div

_FEW_HEADS, _SHORT_QUERY = 32, 16  # of sparse MLA


def _padded_tile(group: int) -> int:
    """The head tile of MLA groups that are no tile themselves; 0 where they are, or are too many."""
    if group >= 128 or (group >= 8 and group & (group - 1) == 0):
        return 0
    if group > 64:
        raise MissingKernelError(f"Non-power-of-two MLA numHeadsQPerKv must be <= 64, got {group}.")
    return max(8, 1 << (group - 1).bit_length())


def _sparse_mla(ask: Ask, traits: Traits) -> Traits:
    """``selectSparseMlaGenerationKernel``."""
    padded = _padded_tile(ask.group) if ask.newer else 0
    if ask.group <= _FEW_HEADS:
        half, blocks = ask.group // 2, ask.batch * ceil_div(ask.keys, 128)
        short = ask.seqlen_q <= _SHORT_QUERY or not ask.newer
        halved = half >= 8 and blocks <= ask.num_sms // 8 and short
        tile = padded or (half if halved else ask.group)
        if tile & (tile - 1):
            raise MissingKernelError("The tileSizeQ and tileSizeKv must be power of 2.")
        return replace(traits, kind=Kind.SWAPS, tile_q=tile, tile_kv=128)
    mode = Mode.REDUCTION_KERNEL if traits.mode is Mode.GLOBAL else traits.mode
    traits = replace(traits, kind=Kind.KEEPS, tile_q=padded or 64, tile_kv=128, mode=mode)
    many = ask.seqlen_q > 1 or ask.batch * (ask.group // 64) * 8 > ask.num_sms
    if ask.group == 128 and many:
        return replace(traits, two_cta=True, head_dim_per_cta_v=256)
    return traits


def of_mla(ask: Ask, traits: Traits) -> Traits:
    if ask.topk:
        return _sparse_mla(ask, traits)
    if ask.newer and grouped_mla(ask):
        blocks = ask.batch * ask.num_heads_k * ceil_div(ask.seqlen_q * ask.group, 64)
        per_block = 128 if blocks <= 1 else 256 if blocks <= 4 else 512
        mode = Mode.NONE if traits.mode is Mode.NONE else Mode.REDUCTION_KERNEL
        return replace(
            traits, kind=Kind.KEEPS, tile_q=64, tile_kv=128, mode=mode,
            persistent=traits.persistent and mode is Mode.NONE,
            head_dim_per_cta_v=min(per_block, ask.head_dim_v),
        )  # fmt: skip
    padded = _padded_tile(ask.group) if ask.newer else 0
    swaps = padded <= 32 if padded else ask.group <= 32 or _short_per_block(ask)
    if swaps:
        return replace(traits, kind=Kind.SWAPS, tile_q=padded or (8 if ask.group <= 8 else 16))
    mode = Mode.NONE if traits.mode is Mode.NONE else Mode.REDUCTION_KERNEL
    traits = replace(traits, kind=Kind.KEEPS, tile_q=64, mode=mode)
    if ask.group == 128:
        traits = replace(traits, two_cta=True, head_dim_per_cta_v=256)
    return traits


def grouped_mla(ask: Ask) -> bool:
    """0.7.2 packs query tokens and heads of short drafts into one tile."""
    dims = (ask.head_dim, ask.head_dim_v) == (576, 512)
    sizes = ask.seqlen_q > 1 and ask.group in (8, 16, 32) and 1 <= ask.batch <= 16 and not ask.topk
    return dims and sizes and ask.page == 32 and ask.dtype in ("bf16", "fp8")


def _short_per_block(ask: Ask) -> bool:
    """``useSwapsMmaAbMlaGenKernel``: at most 1,024 keys a thread block, and all of them resident."""
    blocks = ask.batch * ask.seqlen_q * ceil_div(ask.group, 16)
    if blocks == 0:
        return False
    per_sequence = min(ceil_div(ask.seqlen_k, 256), max(1, ask.num_sms // blocks))
    return ceil_div(ask.seqlen_k, max(per_sequence, 1)) <= 1024 and blocks <= ask.num_sms
