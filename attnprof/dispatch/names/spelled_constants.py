"""Triton kernels whose names spell out what they were compiled for: ``reduce_segments_HEAD_SIZE_64_...``.

AITER's ``make_kernel_repr`` writes each constant's name and value after the function's, in a fixed order.
"""

from __future__ import annotations

from itertools import pairwise

UNIFIED_3D, REDUCE = "kernel_unified_attention_3d", "reduce_segments"
_SPELLED = {  # function -> its constants in order, of ROCm/aiter v0.1.20.post1
    UNIFIED_3D: (
        "num_query_heads", "num_queries_per_kv", "BLOCK_SIZE", "TILE_SIZE", "HEAD_SIZE",
        "NUM_SEGMENTS_PER_SEQ", "num_warps", "waves_per_eu", "num_stages", "ALL_DECODE", "SHUFFLED_KV_CACHE",
        "IS_Q_FP8", "IS_KV_FP8",
    ),
    REDUCE: ("num_query_heads", "TILE_SIZE", "HEAD_SIZE", "NUM_SEGMENTS_PER_SEQ"),
}  # fmt: skip
# Function -> the first of its constants, where what follows is not read, or is another kernel's of that name.
_FIRST = {
    "_mla_decode_fwd_kernel": ("num_query_heads",), "_mla_prefill_fwd_kernel": ("num_query_heads",),
    "_mla_decode_fwd_kernel_non_pipelined": ("num_query_heads",),
    "_mla_prefill_fwd_kernel_non_pipelined": ("num_query_heads",),
    "_mla_decode_fwd_reduce_kernel": ("num_query_heads",),
    "_pa_decode_sparse": ("BLOCK_H", "BLOCK_M"), "_pa_decode_sparse_reduce": ("BLOCK_H", "BLOCK_M"),
    "_pa_prefill_sparse": ("BLOCK_H",), "_kernel_paged_attention_2d": ("num_queries_per_kv",),
    "_unified_attention_gluon_kernel_2d": ("NUM_QUERY_HEADS",),
    "_unified_attention_gluon_kernel_3d": ("NUM_QUERY_HEADS",),
    "_fwd_kernel": ("logit_cap", "IN_PRECISION", "kv_group_num"), "_fwd_kernel_alibi": ("IN_PRECISION",),
    "_attn_fwd": ("IS_CAUSAL",), "pod_persistent": ("HEAD_DIM",),
    "_fwd_grouped_kernel_stage1_rope": ("rotary_dim",), "_fwd_kernel_stage2": ("NUM_KV_SPLITS",),
    "_hstu_attn_fwd": ("CAUSAL",), "_hstu_attn_bwd": ("CAUSAL",), "_bwd_preprocess": ("BLOCK_M",),
    "_bwd_kernel_dkdvdq_causal": ("NUM_Q_HEADS",), "_bwd_kernel_dkdvdq_noncausal": ("NUM_Q_HEADS",),
    "bwd_kernel_causal": ("BLOCK_M1",), "bwd_kernel_noncausal": ("BLOCK_M1",),
    **{f"_paged_attn_decode_v{n}_{dot}_kernel{quant}": ("compute_type",)
       for n in (1, 2) for dot in ("w_dot", "wo_dot") for quant in ("", "_per_token_quant")},
    **{f"_paged_attn_decode_v2_{dot}_reduce_kernel{quant}": ("HEAD_SZ",)
       for dot in ("w_dot", "wo_dot") for quant in ("", "_per_token_quant")},
    **{name: names[:1] for name, names in _SPELLED.items()},
}  # fmt: skip
_HEADS = {f"{name}_{first}_": name for name, firsts in _FIRST.items() for first in firsts}
_STARTS = tuple(_HEADS)
_OURS = {
    "num_query_heads": "heads", "num_queries_per_kv": "group_size", "BLOCK_SIZE": "page_size",
    "TILE_SIZE": "block_n", "HEAD_SIZE": "head_dim", "NUM_SEGMENTS_PER_SEQ": "num_splits",
    "num_warps": "warps",
}  # fmt: skip
_MOST_DIGITS = 9


def function_of(kernel: str) -> str | None:
    """The function of a name that goes on with its first constant; None of others."""
    if not kernel.startswith(_STARTS):
        return None
    return next(name for start, name in _HEADS.items() if kernel.startswith(start))


def constants(kernel: str) -> dict[str, int]:
    """The constants by upstream's names; empty where the name spells none out, or not all."""
    base = next((base for base in _SPELLED if kernel.startswith(f"{base}_")), None)
    if base is None:
        return {}
    found: dict[str, int] = {}
    rest = kernel.removeprefix(base)
    for name, following in pairwise((*_SPELLED[base], "")):
        head = f"_{name}_"
        if not rest.startswith(head):
            return {}
        stated, _, after = rest.removeprefix(head).partition(f"_{following}_" if following else "\n")
        if not (stated.isascii() and stated.isdigit() and len(stated) <= _MOST_DIGITS):
            return {}
        found[name], rest = int(stated), f"_{following}_{after}"
    return found


def stated(kernel: str) -> tuple[tuple[str, object], ...]:
    """What such a name states, field by field; () of others."""
    return tuple((_OURS[name], value) for name, value in constants(kernel).items() if name in _OURS)
